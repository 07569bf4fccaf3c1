"""Checkpoints: the whole `RunState`, every file whole or absent, its manifest last; safetensors and JSON only.

What a client keeps is a file of its own, named by its content and shared by all checkpoints that hold it: of many clients, only
those that took part since the last checkpoint are written.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedphd_ray.errors import ConfigError, ModelFileError, PruningError, UserError
from fedphd_ray.pruning.plan import PrunePlan
from fedphd_ray.records import ClientState, Kind, Payload
from fedphd_ray.runtime.storage.manifest import SCHEMA, ClientFile, Frame, Manifest, NodeFile
from fedphd_ray.runtime.storage.places import Storage
from fedphd_ray.runtime.storage.seals import Seal
from fedphd_ray.runtime.storage.state import Models, RunState, keep_all
from fedphd_ray.runtime.storage.state_files import from_bytes, to_bytes
from fedphd_ray.runtime.workers.backend import Backend, Handle
from fedphd_ray.settings.sections import Section
from fedphd_ray.system.files import absolute
from fedphd_ray.tensors import Layout
from fedphd_ray.topology import client_name

MOST_MANIFEST_BYTES = 256 * 2**20
CLIENTS, TENSORS, MANIFEST, OWNER = "clients", "tensors.safetensors", "state.json", "run"


class CheckpointConfig(Section):
    """When the state is saved.

    Attributes:
        every: rounds between two checkpoints (the final state is saved too); 0 for never.
        keep: checkpoints kept; older ones go only when the new one is safe.
        path: a folder or a URI (s3://, gs://, ...) of this run alone; null for `checkpoints/` in the run directory.
    """

    every: NonNegativeInt = 10
    keep: PositiveInt = 3
    path: str | None = None

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """A folder means the same wherever the run goes on from, and is nobody's URI."""
        if path is None or "://" in path:
            return path
        try:
            return absolute(path)
        except ValueError as error:
            raise ConfigError("checkpoint.path", expected="a folder", found=str(error)) from None


class Checkpoints:
    """The checkpoints of a run.

    Args:
        storage: where.
        config: when, and how many stay.
        run: whose; the checkpoints of another run are refused.
        seal: asked for what is in the books when a checkpoint is written; None for no books.
        frame: what they must be like; None for anything.
    """

    def __init__(
        self,
        storage: Storage,
        config: CheckpointConfig,
        run: str = "",
        seal: Callable[[], Seal] | None = None,
        frame: Frame | None = None,
    ) -> None:
        self.storage = storage
        self.config = config
        self._run, self._seal, self._frame = run, seal, frame
        self._written: dict[int, tuple[ClientFile, int]] = {}  # with the architecture version: which state of the client it is

    def due(self, round: int, last_round: int) -> bool:
        """Whether the state after `round` is saved."""
        return self.config.every > 0 and round > 0 and (round % self.config.every == 0 or round == last_round)

    def save(self, state: RunState, backend: Backend) -> None:
        """Writes a checkpoint so that a crash at any moment leaves the former ones whole: it exists when its manifest does."""
        folder = f"round-{state.round:06d}"
        clients = {client: self._write_client(client, state, backend) for client in state.client_states}
        tensors = save(_tensors(state, backend))
        books = None if self._seal is None else self._seal()
        manifest = _manifest(state, self._run, clients, books, hashlib.sha256(tensors).hexdigest())
        self.storage.write(f"{folder}/{TENSORS}", tensors)
        self.storage.write(f"{folder}/{MANIFEST}", manifest.sealed().encode())
        self._remove_old(manifest)

    def rounds(self) -> list[str]:
        """Folders of finished checkpoints, oldest first."""
        return [name for name in self._folders() if MANIFEST in self.storage.names(name)]

    def _folders(self) -> list[str]:
        return [name for name in self.storage.names() if name.startswith("round-")]

    def claim(self) -> None:
        """Makes the place this run's, before its first checkpoint.

        Raises:
            UserError: another run's checkpoints lie there, or another run has it.
        """
        owner = self.storage.read(OWNER, 1000).decode("ascii", "replace") if OWNER in self.storage.names() else ""
        if owner not in ("", self._run) or (not owner and self._folders()):
            raise UserError(
                str(self.storage),
                expected="a place for the checkpoints of this run alone",
                found="those of another run",
                remedy="give each run a checkpoint.path of its own, or leave it out: then they lie in the run directory",
            )
        self.storage.write(OWNER, self._run.encode())

    def load_newest(self, backend: Backend) -> tuple[tuple[RunState, Seal | None] | None, list[str]]:
        """The newest checkpoint that is whole, with what it says of the books, and a sentence for each newer one that is not.

        Raises:
            UserError: another run or another version of this program wrote it.
        """
        warnings: list[str] = []
        for folder in reversed(self.rounds()):
            try:
                return self._load(folder, backend), warnings
            except ModelFileError as error:
                warnings.append(f"{folder} was passed over: {error.found}")
        return None, warnings

    def _load(self, folder: str, backend: Backend) -> tuple[RunState, Seal | None]:
        """Reads a checkpoint, whatever is wrong with it being a `ModelFileError`."""
        try:
            manifest = self._manifest(folder)
            self._require_own(manifest)
            if self._frame is not None:
                manifest.require_fit(self._frame)
            most = manifest.most_tensor_bytes
            tensors = self.storage.read(f"{folder}/{TENSORS}", most)
            if hashlib.sha256(tensors).hexdigest() != manifest.tensors_sha256:
                raise ValueError("its tensors are damaged (content hash differs)")
            oldest_first = dict(sorted(manifest.clients.items(), key=lambda item: item[1].round))
            states = keep_all(backend, oldest_first, lambda client: self._read_client(client, oldest_first[client], most))
            self._written = {client: (file, manifest.version) for client, file in manifest.clients.items()}
            return _restore(manifest, load(tensors), states, backend), manifest.books
        except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError, PruningError, SafetensorError) as error:
            raise ModelFileError(
                folder, expected="a whole checkpoint", found=str(error), remedy="resume from an older checkpoint"
            ) from error

    def _manifest(self, folder: str) -> Manifest:
        return Manifest.opened(self.storage.read(f"{folder}/{MANIFEST}", MOST_MANIFEST_BYTES))

    def _require_own(self, manifest: Manifest) -> None:
        if manifest.run != self._run:
            raise UserError(
                str(self.storage),
                expected=f"checkpoints of this run ({self._run[:8]})",
                found=f"those of another run ({manifest.run[:8]})",
                remedy="every run needs a checkpoint.path of its own; put this run's checkpoints back where they were",
            )

    def _write_client(self, client: int, state: RunState, backend: Backend) -> ClientFile:
        """The file of a client's state; written only if no earlier checkpoint has it."""
        round, version = state.state_rounds[client], state.model.version
        if client in self._written:
            file, of_version = self._written[client]
            if (file.round, of_version) == (round, version):
                return file
        data = to_bytes(backend.get_state(state.client_states[client]))
        file = ClientFile(round=round, sha256=hashlib.sha256(data).hexdigest())
        self.storage.write(_client_file(file.sha256), data)
        self._written[client] = file, version
        return file

    def _read_client(self, client: int, file: ClientFile, most_bytes: int) -> ClientState:
        data = self.storage.read(_client_file(file.sha256), most_bytes)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ValueError(f"what {client_name(client)} keeps is damaged (content hash differs)")
        return from_bytes(data)

    def _remove_old(self, newest: Manifest) -> None:
        """Checkpoints beyond the number kept, unfinished ones, and client files that none of the others holds."""
        kept = self.rounds()[-self.config.keep :]
        for old in self._folders():
            if old not in kept:
                self.storage.remove(old)
        needed = {file.sha256 for file in newest.clients.values()}
        for folder in kept[:-1]:
            with contextlib.suppress(OSError, ValueError):  # a damaged one needs nothing
                manifest = self._manifest(folder)
                needed |= {file.sha256 for file in manifest.clients.values()}
        for name in self.storage.names(CLIENTS):
            if name.partition(".")[0] not in needed:
                self.storage.remove(f"{CLIENTS}/{name}")


def _client_file(sha256: str) -> str:
    return f"{CLIENTS}/{sha256}.safetensors"


def _tensors(state: RunState, backend: Backend) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {"model": state.model.vector}
    if state.ema is not None:
        tensors["ema"] = state.ema.vector
    tensors |= {f"server/{name}": vector for name, vector in state.server.items()}
    tensors |= {f"residual/{name}": vector for name, vector in state.residuals.items()}
    tensors |= {f"memory/{name}": values for name, values in state.memory.items()}
    for place, models in [("now", state.models), *((str(version), models) for version, models in state.past.items())]:
        for level, handles in enumerate(models):
            for node, handle in enumerate(handles):
                if handle is not None:
                    payload, name = backend.get_payload(handle), f"node/{place}/{level}/{node}"
                    tensors[name] = payload.vector
                    tensors |= {f"{name}/{kind}": vector for kind, vector in payload.beside.items()}
    return tensors


def _manifest(state: RunState, run: str, clients: dict[int, ClientFile], books: Seal | None, tensors_sha256: str) -> Manifest:
    return Manifest(
        schema_version=SCHEMA,
        run=run,
        books=books,
        round=state.round,
        version=state.model.version,
        names=list(state.model.layout.names),
        shapes=[list(shape) for shape in state.model.layout.shapes],
        syncs=state.syncs,
        nodes=[[NodeFile.of(node) for node in level] for level in state.statistics],
        clients=clients,
        plan=None if state.plan is None else state.plan.to_json(),
        pruned_round=state.pruned_round,
        plan_owed=sorted(state.plan_owed),
        failures=list(state.failures),
        past=sorted(state.past),
        memory={name: values.size for name, values in state.memory.items()},
        tensors_sha256=tensors_sha256,
    )


def _restore(manifest: Manifest, tensors: dict[str, np.ndarray], states: dict[int, object], backend: Backend) -> RunState:
    layout = Layout(tuple(manifest.names), tuple(tuple(shape) for shape in manifest.shapes))
    version = manifest.version

    def payload(name: str) -> Payload:
        return Payload(tensors[name], layout, version)

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): vector for name, vector in tensors.items() if name.startswith(prefix)}

    state = RunState(
        round=manifest.round,
        model=payload("model"),
        ema=payload("ema") if "ema" in tensors else None,
        models=(),
        statistics=tuple(tuple(node.statistics() for node in level) for level in manifest.nodes),
        syncs=manifest.syncs,
        client_states=states,
        state_rounds={client: file.round for client, file in manifest.clients.items()},
        server=below("server/"),
        residuals=below("residual/"),
        plan=None if manifest.plan is None else PrunePlan.from_json(manifest.plan),
        pruned_round=manifest.pruned_round,
        plan_owed=frozenset(manifest.plan_owed),
        failures=tuple(manifest.failures),
        memory=below("memory/"),
    )

    def held(name: str) -> Handle | None:
        if name not in tensors:
            return None
        beside = {Kind(kind): vector for kind, vector in below(f"{name}/").items()}
        return backend.put(replace(state.model, vector=tensors[name], beside=beside))

    def models(place: str, sizes: Sequence[int]) -> Models:
        return tuple(tuple(held(f"node/{place}/{level}/{node}") for node in range(nodes)) for level, nodes in enumerate(sizes))

    sizes = [len(level) for level in manifest.nodes]
    past = {version: models(str(version), [*sizes, 1]) for version in manifest.past}
    return replace(state, models=models("now", sizes), past=past)
