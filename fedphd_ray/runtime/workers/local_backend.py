"""The in-process twin: the same classes as on Ray, called in turn; the reference for bits, and the way in for debuggers."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.records import ClientState, PartialUpdate, Payload
from fedphd_ray.runtime.workers.backend import EdgeOutcome, EdgeTask, Handle, MergeOutcome, MergeTask
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.edge_server import EdgeServer
from fedphd_ray.runtime.workers.host_setup import HostSetup, SampleChunk


class LocalBackend:
    """One host and one server for all nodes in this process; handles are the values themselves."""

    concurrent = False
    slots = 1

    def __init__(self, setup: HostSetup) -> None:
        self._host = ClientHost(setup)
        self._server = EdgeServer("edge/0", setup.threads)
        self._topology, self._codecs = setup.topology, setup.codecs

    def put(self, value: Payload | ClientState) -> Handle:
        """The value itself."""
        return value

    def get_payload(self, handle: Handle) -> Payload:
        """The handle itself."""
        assert isinstance(handle, Payload)
        return handle

    def get_state(self, handle: Handle) -> ClientState:
        """The handle itself."""
        assert isinstance(handle, ClientState)
        return handle

    def keep_states(self, states: Mapping[int, Handle]) -> dict[int, Handle]:
        """All of them, as they are."""
        return dict(states)

    def run_edges(self, tasks: Sequence[EdgeTask]) -> list[EdgeOutcome]:
        """Block by block, edge by edge."""
        return [self._run_edge(task) for task in tasks]

    def merge(self, tasks: Sequence[MergeTask]) -> list[MergeOutcome]:
        """Node by node."""
        results: list[MergeOutcome] = []
        for task in tasks:
            models = [self.get_payload(handle) for handle in (*task.bases, *task.children)]
            rows, model = self._server.merge(task.order, task.strategy, self._topology, self._codecs, *models)
            results.append(MergeOutcome(model, rows))
        return results

    def sample(self, model: Handle, chunks: Sequence[SampleChunk]) -> Iterator[NDArray[np.float32]]:
        """Chunk by chunk."""
        payload = self.get_payload(model)
        for chunk in chunks:
            yield self._host.sample(payload, chunk)

    def take_replacements(self) -> list[str]:
        """No processes of its own."""
        return []

    def peak_memory_bytes(self) -> int:
        """No processes of its own."""
        return 0

    def _run_edge(self, task: EdgeTask) -> EdgeOutcome:
        payload = self.get_payload(task.model)
        partials: list[PartialUpdate] = []
        states: dict[int, Handle] = {}
        for block in task.blocks:
            kept = [self.get_state(task.states[client]) if client in task.states else None for client in block.clients]
            partial, new_states = self._host.train(self.get_payload(task.start(block)), task.order, block.clients, kept)
            partials.append(partial)
            states |= {client: state for client, state in zip(block.clients, new_states, strict=True) if state is not None}
        report, model = self._server.aggregate(task.edge, payload, [1] * len(partials), task.strategy, task.fresh, *partials)
        return EdgeOutcome(report, model, states)
