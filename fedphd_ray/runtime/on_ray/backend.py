"""Rounds on Ray actors: client hosts and edge servers, driven from here."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import ray
from numpy.typing import NDArray

from fedphd_ray.errors import FedPhDError, RunFailedError, StateLostError
from fedphd_ray.records import ClientReport, ClientState, Outcome, PartialUpdate, Payload
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool, Answer, Ref
from fedphd_ray.runtime.on_ray.merge import RayMerge
from fedphd_ray.runtime.on_ray.own_code import carry_code_of
from fedphd_ray.runtime.on_ray.round import RayRound, RoundRules
from fedphd_ray.runtime.policy.dispatch import HostTimes, Unit, balanced, single_clients, split_gain_seconds, whole_blocks
from fedphd_ray.runtime.policy.placement import Placement, RuntimeConfig
from fedphd_ray.runtime.workers.backend import EdgeOutcome, EdgeTask, Handle, MergeOutcome, MergeTask
from fedphd_ray.runtime.workers.host_setup import HostSetup, SampleChunk


class RayBackend:
    """Client hosts and edge servers as Ray actors.

    Args:
        setup: for every host; put into the object store once.
        placement: how many hosts, dedicated or shared.
        config: resources per host and deadlines.
        pool: where the actors come from; they are not ended here.
    """

    concurrent = True

    def __init__(self, setup: HostSetup, placement: Placement, config: RuntimeConfig, pool: ActorPool) -> None:
        carry_code_of(setup.strategy, *setup.codecs.by_hop.values(), setup.scoring and setup.scoring.criterion)
        self._config = config
        self._placement = placement
        self._pool = pool
        self._costs = {
            client: setup.local.images_through(size) for client, size in enumerate(setup.ownership.rows.sizes.tolist())
        }
        self._setup = setup
        self._rules = RoundRules(
            dedicated=placement.dedicated,
            keeps_states=setup.keeps_states,
            costs=self._costs,
            failures=setup.failures,
            faults=setup.faults,
            leave_out=self._leave_out,
        )
        self._model_bytes = 0
        self._times = HostTimes(placement.num_hosts)
        self._num_servers = len(setup.topology.servers)
        pool.ensure(placement.num_hosts, setup.topology.servers)
        deadline = time.monotonic() + config.start_timeout_seconds
        for host, begun in zip(list(pool.hosts), pool.begin(setup, placement.num_hosts), strict=False):
            try:
                self._get_all([begun], deadline, "a host's setup")
            except _ActorLostError as error:
                pool.replace(host, str(error))

    @property
    def slots(self) -> int:
        """Number of hosts."""
        return self._placement.num_hosts

    def put(self, value: Payload | ClientState) -> Handle:
        """One object in the store, whoever reads it."""
        if isinstance(value, Payload):
            self._model_bytes = value.vector.nbytes
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

    def keep_states(self, states: Mapping[int, Handle]) -> dict[int, Handle]:
        """All of them, as they are."""
        return dict(states)

    def run_edges(self, tasks: Sequence[EdgeTask]) -> list[EdgeOutcome]:
        """Trains the longest units first, each on the host that is expected to end it first; edges add up what has arrived."""
        if not tasks:  # a round that nobody takes part in
            return []
        deadline = time.monotonic() + self._config.round_timeout_seconds
        return RayRound(self._pool, tasks, self._queues(tasks), self._times, self._rules, deadline).run()

    def merge(self, tasks: Sequence[MergeTask]) -> list[MergeOutcome]:
        """Each on its node's actor, where the models go without passing the driver."""
        deadline = time.monotonic() + self._config.round_timeout_seconds
        return RayMerge(self._pool, tasks, self._setup.topology, self._setup.codecs, self._setup.faults, deadline).run()

    def sample(self, model: Handle, chunks: Sequence[SampleChunk]) -> Iterator[NDArray[np.float32]]:
        """Spreads the chunks over the hosts; each chunk's noise is its own, so the images do not depend on where it is drawn.

        The deadline is that of the next chunk: there may be many.
        """
        hosts = self._pool.hosts[: self.slots]
        calls = [(chunk, hosts[index % len(hosts)]) for index, chunk in enumerate(chunks)]
        refs = [host.sample.remote(model, chunk) for chunk, host in calls]
        for (chunk, host), ref in zip(calls, refs, strict=True):
            deadline = time.monotonic() + self._config.round_timeout_seconds
            try:
                yield from self._get_all([ref], deadline, "sampling")
            except _ActorLostError as error:
                self._pool.replace(host, f"sampling: {error}")
                yield from self._get_all([self._pool.hosts[0].sample.remote(model, chunk)], deadline, "sampling")

    def take_replacements(self) -> list[str]:
        """Hosts and edges that died, and what they were doing."""
        return self._pool.take_replacements()

    def peak_memory_bytes(self) -> int:
        """Sum over all actors of the largest resident size of each; shared memory counts in each. Those gone are left out."""
        refs = [
            actor.peak_memory_bytes.remote()
            for actor in [*self._pool.hosts[: self.slots], *self._pool.servers[: self._num_servers]]
        ]
        peaks, deadline = 0, time.monotonic() + 30
        for ref in refs:
            with contextlib.suppress(_ActorLostError):
                peaks += self._get_all([ref], deadline, "memory figures")[0]
        return peaks

    def _queues(self, tasks: Sequence[EdgeTask]) -> list[list[Unit]]:
        """Per host, what it trains."""
        units = whole_blocks([task.blocks for task in tasks], self._costs)
        if not self._placement.dedicated:
            paces, least_gain = self._times.seconds_per_image, split_gain_seconds(self._model_bytes) if self._times.known else 0.0
            far = self._pool.far([task.edge for task in tasks], self.slots)
            return balanced(units, self._costs, paces, least_gain, far)
        queues: list[list[Unit]] = [[] for _ in range(self.slots)]
        for unit in single_clients(units, self._costs):
            queues[unit.clients[0]].append(unit)
        return queues

    def _leave_out(self, client: int, edge: int, reason: str, outcome: Outcome) -> Ref:
        """The contribution of a client whose host could not say itself why there is none."""
        num_samples, num_classes = len(self._setup.ownership.rows[client]), self._setup.ownership.num_classes
        report = ClientReport(client, edge, math.nan, 0, 0, num_samples, reason, outcome)
        nothing = np.zeros(num_classes, np.int64)
        return ray.put(PartialUpdate({}, (), nothing, (report,), (), train_seconds=0.0, busy_seconds=0.0))

    def _get(self, handle: Handle) -> object:
        return self._get_all([handle], time.monotonic() + self._config.round_timeout_seconds, "object transfer")[0]

    def _get_all(self, refs: Sequence[Ref], deadline: float, what: str) -> list[Answer]:
        try:
            return ray.get(list(refs), timeout=max(0.0, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError as error:
            raise RunFailedError(f"{what} did not end before its deadline (runtime.round_timeout_seconds)") from error
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FedPhDError):
                raise error.cause from None
            raise RunFailedError(f"{what} failed:\n{error}") from error
        except ray.exceptions.ObjectLostError as error:
            raise StateLostError(f"{what}: {error}") from error
        except ray.exceptions.RayActorError as error:
            raise _ActorLostError(f"{what} failed: {error}") from error
        except ray.exceptions.RayError as error:
            raise RunFailedError(f"{what} failed: {error}") from error


class _ActorLostError(RunFailedError):
    """The actor that was asked is gone."""
