"""Rounds on Ray actors: client hosts and edge servers, driven from here.

The driver owns every object. Hosts return sums that only the edge reads; the driver passes references on and reads
reports. Which host takes which block follows who is free; what is added to what is the plan's, so results do not depend on it.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from fedphd_ray.errors import FedPhDError, RunFailedError
from fedphd_ray.records import Block, ClientState, EdgeReport, Payload
from fedphd_ray.runtime.actor_pool import ActorPool
from fedphd_ray.runtime.backend import EdgeOutcome, EdgeTask, Handle
from fedphd_ray.runtime.client_host import HostSetup, SampleChunk
from fedphd_ray.runtime.placement import Placement, RuntimeConfig

IN_FLIGHT_PER_HOST = 2  # one trains, one waits in the actor's queue: no gap between blocks
Ref = Any


@dataclass(frozen=True)
class _Unit:
    """Clients that one host trains in one call: a block, or one client of it when hosts are dedicated."""

    task: int
    position: int
    block: Block
    cost: int


class RayBackend:
    """Client hosts and edge servers as Ray actors.

    Args:
        setup: for every host; put into the object store once.
        placement: how many hosts, dedicated or shared.
        config: resources per host and deadlines.
        pool: where the actors come from; they are not ended here.
    """

    def __init__(self, setup: HostSetup, placement: Placement, config: RuntimeConfig, pool: ActorPool) -> None:
        self._config = config
        self._placement = placement
        self._sizes = [len(indices) for indices in setup.client_indices]
        self._keeps_states = setup.keeps_states
        num_edges = len(setup.topology.aggregators)
        pool.ensure(placement.num_hosts, num_edges)
        self._hosts, self._edges = pool.hosts[: placement.num_hosts], pool.edges[:num_edges]
        setup_ref = ray.put(setup)
        deadline = time.monotonic() + config.start_timeout_seconds
        self._get_all([host.begin.remote(setup_ref) for host in self._hosts], deadline, "hosts' setup")

    @property
    def slots(self) -> int:
        """Number of hosts."""
        return len(self._hosts)

    def put(self, value: Payload | ClientState) -> Handle:
        """One object in the store, whoever reads it."""
        return ray.put(value)

    def get_payload(self, handle: Handle) -> Payload:
        """Zero-copy on the node that holds it; read-only."""
        payload = self._get(handle)
        assert isinstance(payload, Payload)
        return payload

    def get_state(self, handle: Handle) -> ClientState:
        """Zero-copy on the node that holds it; read-only."""
        state = self._get(handle)
        assert isinstance(state, ClientState)
        return state

    def run_edges(self, tasks: Sequence[EdgeTask]) -> list[EdgeOutcome]:
        """Dispatches blocks to free hosts, largest first, and each edge's fold as soon as its blocks are done."""
        deadline = time.monotonic() + self._config.round_timeout_seconds
        units = self._units(tasks)
        results = self._train(tasks, units, deadline)
        folds: list[tuple[Ref, Ref]] = []
        for index, task in enumerate(tasks):
            own = sorted((unit for unit in units if unit.task == index), key=lambda unit: unit.position)
            sizes = [len(block.clients) for block in task.blocks] if self._placement.dedicated else [1] * len(task.blocks)
            partials = [results[unit][0] for unit in own]
            folds.append(
                self._edges[task.edge].aggregate.options(num_returns=2).remote(task.model, sizes, task.strategy, *partials)
            )
        reports: list[EdgeReport] = self._get_all([report for _, report in folds], deadline, "edge aggregation")
        states = [
            {
                client: state
                for unit in units
                if unit.task == index
                for client, state in zip(unit.block.clients, results[unit][1:], strict=self._keeps_states)
            }
            for index in range(len(tasks))
        ]
        return [EdgeOutcome(report, model, kept) for (model, _), report, kept in zip(folds, reports, states, strict=True)]

    def sample(self, model: Handle, chunks: Sequence[SampleChunk]) -> NDArray[np.float32]:
        """Spreads the chunks over the hosts; each chunk's noise is its own, so the images do not depend on where it is drawn."""
        deadline = time.monotonic() + self._config.round_timeout_seconds
        refs = [self._hosts[index % len(self._hosts)].sample.remote(model, chunk) for index, chunk in enumerate(chunks)]
        return np.concatenate(self._get_all(refs, deadline, "sampling"))

    def peak_memory_bytes(self) -> int:
        """Sum over all actors of the largest resident size of each; shared memory counts in each of them."""
        actors = [*self._hosts, *self._edges]
        peaks = self._get_all([actor.peak_memory_bytes.remote() for actor in actors], time.monotonic() + 30, "memory figures")
        return sum(peaks)

    def _units(self, tasks: Sequence[EdgeTask]) -> list[_Unit]:
        units = []
        for index, task in enumerate(tasks):
            pieces = list(task.blocks)
            if self._placement.dedicated:
                pieces = [replace(block, clients=(client,)) for block in task.blocks for client in block.clients]
            for position, piece in enumerate(pieces):
                units.append(_Unit(index, position, piece, sum(self._sizes[client] for client in piece.clients)))
        return units

    def _train(self, tasks: Sequence[EdgeTask], units: Sequence[_Unit], deadline: float) -> dict[_Unit, list[Ref]]:
        """Per unit, references to its partial update and then to each client's new state."""
        waiting = deque(sorted(units, key=lambda unit: -unit.cost))
        free = deque(index for _ in range(IN_FLIGHT_PER_HOST) for index in range(len(self._hosts)))
        running: dict[Ref, tuple[_Unit, int]] = {}
        results: dict[_Unit, list[Ref]] = {}
        while waiting or running:
            while waiting and (free or self._placement.dedicated):
                unit = waiting.popleft()
                host = unit.block.clients[0] if self._placement.dedicated else free.popleft()
                results[unit] = self._submit(tasks[unit.task], unit, host)
                running[results[unit][0]] = unit, host
            done, _ = ray.wait(list(running), num_returns=1, timeout=max(0.0, deadline - time.monotonic()), fetch_local=False)
            if not done:
                late = ", ".join(sorted(f"host/{host} (clients {unit.block.clients})" for unit, host in running.values()))
                raise RunFailedError(f"no answer within runtime.round_timeout_seconds from {late}")
            for ref in done:
                free.append(running.pop(ref)[1])
        return results

    def _submit(self, task: EdgeTask, unit: _Unit, host: int) -> list[Ref]:
        clients = unit.block.clients
        states = [task.states.get(client) for client in clients]
        call = self._hosts[host].train_block.options(num_returns=1 + len(clients) if self._keeps_states else 1)
        refs = call.remote(task.model, task.order, clients, *states)
        return list(refs) if self._keeps_states else [refs]

    def _get(self, handle: Handle) -> object:
        return self._get_all([handle], time.monotonic() + self._config.round_timeout_seconds, "object transfer")[0]

    def _get_all(self, refs: Sequence[Ref], deadline: float, what: str) -> list[Any]:
        try:
            return ray.get(list(refs), timeout=max(0.0, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError as error:
            raise RunFailedError(f"{what} did not end before its deadline (runtime.round_timeout_seconds)") from error
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FedPhDError):
                raise error.cause from None
            raise RunFailedError(f"{what} failed:\n{error}") from error
        except ray.exceptions.RayError as error:
            raise RunFailedError(f"{what} failed: {error}") from error
