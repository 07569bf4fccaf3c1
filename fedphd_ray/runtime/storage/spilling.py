"""A budget for what clients keep between rounds: beyond it, the states not used for longest lie in files."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.records import ClientState, Payload
from fedphd_ray.runtime.storage.state_files import MOST_STATE_BYTES, from_bytes, to_bytes
from fedphd_ray.runtime.workers.backend import Backend, EdgeOutcome, EdgeTask, Handle, MergeOutcome, MergeTask
from fedphd_ray.runtime.workers.host_setup import SampleChunk
from fedphd_ray.system.files import read_regular, write_whole


@dataclass(frozen=True)
class StateFile:
    """Stands for a client state on disk. The file is written once and never changed."""

    path: Path


class SpillingBackend:
    """Another backend, with files for the client states that do not fit into a budget.

    Args:
        inner: runs rounds, and holds what is in memory.
        directory: for the files; emptied first (a checkpoint has all that a resumed run needs).
        budget_bytes: of client states in memory.
    """

    def __init__(self, inner: Backend, directory: Path, budget_bytes: int) -> None:
        self._inner = inner
        self._directory = directory
        self._budget_bytes = budget_bytes
        self.concurrent = inner.concurrent
        self._files: set[Path] = set()
        self._obsolete: set[Path] = set()
        self._written = 0
        self.remove_files()

    def remove_files(self) -> None:
        """Deletes them all: when a run begins, and when it ends."""
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def slots(self) -> int:
        """Of the backend within."""
        return self._inner.slots

    def put(self, value: Payload | ClientState) -> Handle:
        """Stores a value in memory."""
        return self._inner.put(value)

    def get_payload(self, handle: Handle) -> Payload:
        """The model behind a handle."""
        return self._inner.get_payload(handle)

    def get_state(self, handle: Handle) -> ClientState:
        """The client state behind a handle, read from its file if it lies there."""
        if isinstance(handle, StateFile):
            return from_bytes(read_regular(handle.path, MOST_STATE_BYTES))
        return self._inner.get_state(handle)

    def keep_states(self, states: Mapping[int, Handle]) -> dict[int, Handle]:
        """Writes states to files, those not used for longest first, until the others fit into the budget."""
        kept = dict(states)
        in_memory = [client for client, handle in kept.items() if not isinstance(handle, StateFile)]
        if in_memory:
            newest = self.get_state(kept[in_memory[-1]])
            each = sum(vector.nbytes for vector in newest.vectors.values())
            for client in in_memory[: max(0, len(in_memory) - self._budget_bytes // max(1, each))]:
                kept[client] = self._write(client, self.get_state(kept[client]))
        self._remove_obsolete({handle.path for handle in kept.values() if isinstance(handle, StateFile)})
        return kept

    def run_edges(self, tasks: Sequence[EdgeTask]) -> list[EdgeOutcome]:
        """As the backend within, with the states that are needed back in memory."""
        return self._inner.run_edges([replace(task, states=self._in_memory(task.states)) for task in tasks])

    def merge(self, tasks: Sequence[MergeTask]) -> list[MergeOutcome]:
        """As the backend within."""
        return self._inner.merge(tasks)

    def sample(self, model: Handle, chunks: Sequence[SampleChunk]) -> Iterator[NDArray[np.float32]]:
        """As the backend within."""
        return self._inner.sample(model, chunks)

    def take_replacements(self) -> list[str]:
        """Of the backend within."""
        return self._inner.take_replacements()

    def peak_memory_bytes(self) -> int:
        """Of the backend within."""
        return self._inner.peak_memory_bytes()

    def _in_memory(self, states: Mapping[int, Handle]) -> dict[int, Handle]:
        return {
            client: self.put(self.get_state(handle)) if isinstance(handle, StateFile) else handle
            for client, handle in states.items()
        }

    def _write(self, client: int, state: ClientState) -> StateFile:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._written += 1
        path = self._directory / f"client-{client:06d}-{self._written}.safetensors"
        write_whole(path, to_bytes(state))
        self._files.add(path)
        return StateFile(path)

    def _remove_obsolete(self, needed: set[Path]) -> None:
        """Deletes what was not needed the last time either: an observer one round behind may still have read it then."""
        for path in self._obsolete:
            path.unlink(missing_ok=True)
        self._files -= self._obsolete
        self._obsolete = self._files - needed
