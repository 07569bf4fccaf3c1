"""Round plans where clients differ: who would be done when is known before anybody trains, so that plans stay pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.devices.profiles import Devices
from fedphd_ray.devices.simulation import Job, Simulation
from fedphd_ray.federation.planning.clock import Clock
from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.policies import Synchronous
from fedphd_ray.federation.planning.schedule import Given, Schedule, ScheduleConfig
from fedphd_ray.federation.planning.workload import Narrowing, Workload
from fedphd_ray.federation.submodels.assignments import Crowd
from fedphd_ray.plans import Flight, Memory, RoundPlan
from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics
from fedphd_ray.strategies import Strategy

CLOCK = "clock"
P = TypeVar("P")


class SimulatedSchedule(Schedule, Generic[P]):
    """What all planners of simulated devices have in common.

    Args:
        config: see `Schedule`.
        hierarchy: see `Schedule`.
        seed: see `Schedule`.
        prune_rounds: see `Schedule`.
        devices: of all clients and nodes.
        policy: whose updates are used, and when.
    """

    def __init__(
        self,
        config: ScheduleConfig,
        hierarchy: HierarchyConfig,
        seed: int,
        prune_rounds: Sequence[int],
        devices: Devices,
        policy: P,
    ) -> None:
        super().__init__(config, hierarchy, seed, prune_rounds)
        self.devices, self.policy = devices, policy

    def away(self, round: int) -> frozenset[int]:
        """See `Schedule.away`."""
        return self.devices.away(round)

    def latency(self, client: int) -> NDArray[np.float64]:
        """Seconds from a client to each edge [num_edges]."""
        return np.asarray(self.devices.latency[client] + self.devices.detour[client])

    def seconds(self, workload: Workload | None) -> NDArray[np.float64]:
        """What each client would take for a round with an edge of its own [num_clients]."""
        assert workload is not None, "times follow from sizes"
        return sum(self.parts_of(workload), np.zeros(len(self.devices.kinds)))

    def parts_of(self, workload: Workload) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same in two parts, links and training."""
        devices = self.devices
        down, up = workload.bytes_of_all()
        return (
            np.asarray(2 * devices.latency + 8 * down / devices.download + 8 * up / devices.upload),
            np.asarray(workload.work_of_all / devices.speed),
        )

    def there(self, round: int, workload: Workload, memory: Memory) -> NDArray[np.bool_]:
        """Who can be asked: takes part at all, is there, and can hold the network."""
        if len(self.away(round)) == len(self.topology.aggregators):
            return np.zeros(len(self.devices.kinds), np.bool_)
        fits = self.devices.memory_bytes >= workload.memory_of_all
        active = self.participation.active(memory, len(fits))
        return self.devices.present(round, len(self.topology.aggregators)) & fits & active

    def given(self, edge_of: Mapping[int, int], round: int, workload: Workload | None) -> Given:
        """See `Schedule.given`; where widths are assigned anew, by the clients of each edge."""
        narrowing = None if workload is None else workload.narrowing
        if workload is None or narrowing is None or not narrowing.submodels.assignment.every_round:
            return super().given(edge_of, round, workload)
        widths, rates = np.array(narrowing.widths), dict[int, float]()
        for edge in sorted(set(edge_of.values())):
            clients = np.array([client for client, chosen in edge_of.items() if chosen == edge])
            crowd = self._crowd(clients, edge, workload, narrowing)
            own, sending = narrowing.submodels.assignment.share(crowd, narrowing.candidates)
            widths[clients] = own
            rates |= dict(zip(clients.tolist(), sending.tolist(), strict=True))
        left = {client: edge for client, edge in edge_of.items() if widths[client] > 0}
        slices = narrowing.submodels.slices(widths, list(left), round)
        return Given(left, slices, {client: rates[client] for client in left})

    def _crowd(self, clients: NDArray[np.int64], edge: int, workload: Workload, narrowing: Narrowing) -> Crowd:
        devices, widths = self.devices, narrowing.submodels.widths
        work = np.array([[workload.work(client, width) for width in widths] for client in clients.tolist()])
        sent = [8.0 * workload.upload_bytes(width, None) for width in widths]
        received = np.array([8.0 * max(workload.download_bytes(client, own) for own in widths) for client in clients.tolist()])
        return Crowd(
            clients=clients,
            widest=narrowing.widths[clients],
            compute=work / devices.speed[clients, None],
            bits=np.broadcast_to(np.array(sent), work.shape),
            fixed=2 * (devices.latency[clients] + devices.detour[clients, edge]) + received / devices.download[clients],
            weight=workload.images[clients].astype(np.float64),
        )

    def job(self, client: int, edge: int, plan: RoundPlan, workload: Workload, starts: float, width: float) -> Job:
        """A client that is asked in a round."""
        devices, parts = self.devices, plan.reported_parts.get(client)
        return Job(
            client=client,
            edge=edge,
            version=plan.round,
            starts=starts,
            latency=float(devices.latency[client] + devices.detour[client, edge]),
            download=(workload.download_bytes(client, width), float(devices.download[client])),
            work=plan.steps.get(client, 1.0) * workload.work(client, width) / float(devices.speed[client]),
            upload=(workload.upload_bytes(width, parts), plan.upload_rates.get(client, float(devices.upload[client]))),
            leaves=devices.leaves(plan.round, client),
        )

    def closed(self, plan: RoundPlan, workload: Workload, clock: Clock) -> RoundPlan:
        """With what happens above the edges, and the time when all of it is over."""
        holding = [list(level) for level in workload.holding]
        if plan.asked:
            holding = [[True] * len(level) for level in holding]
            holding[0] = [edge not in plan.away for edge in range(len(holding[0]))]
        for level in range(1, self.topology.depth + 1):
            num_bytes = 0 if self.topology.flat or not plan.at(level) else workload.sent_up_bytes(level - 1)
            for each in plan.at(level):
                children = [one.sender for one in each.contributions if holding[level - 1][one.sender]]
                clock.send_up(level, each.node, children, num_bytes)
        return replace(plan, memory={**plan.memory, CLOCK: clock.seconds}, sim_seconds=clock.now)


class SynchronousSchedule(SimulatedSchedule[Synchronous]):
    """Plans rounds that have an end: whoever is asked begins with his edge, and is told to stop when his edge's round is over."""

    def plan(
        self,
        round: int,
        strategy: Strategy,
        population: Population,
        edges: Sequence[EdgeStatistics],
        memory: Memory = MappingProxyType({}),
        workload: Workload | None = None,
    ) -> RoundPlan:
        """See `Schedule.plan`."""
        assert workload is not None, "times follow from sizes"
        clock = Clock(self.devices, self.topology, memory.get(CLOCK))
        wanted = self.participation.wanted(self.cohort_size, memory, population.num_clients)
        drawn = self.drawn(
            round, strategy, population, edges, self.policy.asks(wanted), self.there(round, workload, memory), memory, workload
        )
        if drawn.edge_of:
            clock.hand_down(workload)
            drawn = replace(drawn, steps=self.policy.shares(list(drawn.edge_of), lambda: self.parts_of(workload)))
        flights = self._fly(drawn, workload, clock, wanted)
        used = {flight.client: flight.edge for flight in flights if not flight.fate}
        plan = replace(drawn, aggregations=tuple(self.aggregations(round, used)), flights=flights)
        return self.closed(plan, workload, clock)

    def _fly(self, plan: RoundPlan, workload: Workload, clock: Clock, wanted: int) -> tuple[Flight, ...]:
        """Everybody to his end, and then, where the policy ends a round before that, until then."""
        begins = {edge: clock.edge(edge) for edge in plan.edge_of.values()}

        def jobs() -> list[Job]:
            return [
                self.job(client, edge, plan, workload, begins[edge], plan.width(client)) for client, edge in plan.edge_of.items()
            ]

        if not begins:
            return ()
        done = _finished(self._simulation(), jobs())
        settled = self.policy.settle(done, begins, wanted)
        clock.ends(settled.ends)
        if any(job.since > settled.ends[job.edge] for job in done):
            done = _finished(self._simulation(), jobs(), settled.ends)
        return tuple(job.flight(self._fate(job, settled.used)) for job in sorted(done, key=lambda job: job.client))

    def _simulation(self) -> Simulation:
        return Simulation(self.devices.node_rate.tolist())

    def _fate(self, job: Job, used: frozenset[int]) -> str:
        if job.client in used:
            return ""
        if job.gone:
            return "gone"
        return "surplus" if self.policy.asks(self.cohort_size) > self.cohort_size else "late"


def _finished(simulation: Simulation, jobs: Sequence[Job], ends: Mapping[int, float] = MappingProxyType({})) -> list[Job]:
    """All jobs at their ends, or where they are at the ends of their edges' rounds."""
    for job in jobs:
        simulation.start(job)
    for edge, limit in sorted(ends.items(), key=lambda item: item[1]):
        while simulation.next(limit)[1]:
            pass
        for job in [job for job in simulation.jobs if job.edge == edge]:
            simulation.stop(job, limit)
    while simulation.next()[1]:
        pass
    return list(jobs)
