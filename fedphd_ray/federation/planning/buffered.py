"""Round plans without barriers: clients come and go, and an edge aggregates when its buffer is full.

Who arrives when follows from devices and sizes, so that all of it is planned: a round is the next aggregation anywhere, its plan
names the clients of that buffer, the round whose model each of them started from, and the factors for their staleness.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from fedphd_ray.devices.simulation import NUM_COLUMNS, Job, Simulation
from fedphd_ray.federation.planning.clock import Clock
from fedphd_ray.federation.planning.policies import Buffered
from fedphd_ray.federation.planning.simulated import CLOCK, SimulatedSchedule
from fedphd_ray.federation.planning.workload import Workload
from fedphd_ray.plans import Aggregation, Contribution, Flight, Memory, RoundPlan
from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics
from fedphd_ray.strategies import Strategy

JOBS, NOW, COUNTS = "jobs", "now", "aggregations"
VERSION = 2  # column of a table of jobs


class BufferedSchedule(SimulatedSchedule[Buffered]):
    """Plans the next aggregation; `clients_per_round` clients are at work at any time."""

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
        plan = RoundPlan(round, (), self.block_size, prunes=round in self.prune_rounds, away=self.away(round))
        floor = _Floor(self, plan, strategy, population, edges, memory, workload)
        edge = floor.fill_a_buffer()
        contributions = floor.empty(edge)
        flights = floor.flights(last=round == self.rounds)
        used = [Aggregation(0, edge, contributions)] if contributions else []
        above = [each for each in self.aggregations(round, {}) if each.level]
        plan = replace(
            plan,
            aggregations=(*used, *above),
            flights=flights,
            slices=workload.slices(sorted({flight.client for flight in flights}), round),
            chances=floor.chances(),
            memory=floor.remembered(),
        )
        return self.closed(plan, workload, floor.clock)

    def oldest_version(self, round: int, memory: Memory) -> int:
        """That of whoever is at work longest, or waits in a buffer."""
        jobs = memory.get(JOBS)
        return round if jobs is None or not len(jobs) else int(jobs[:, VERSION].min())


class _Floor:
    """What goes on while one round is planned: who is at work, what lies in the buffers, and what time it is."""

    def __init__(
        self,
        schedule: BufferedSchedule,
        plan: RoundPlan,
        strategy: Strategy,
        population: Population,
        edges: Sequence[EdgeStatistics],
        memory: Memory,
        workload: Workload,
    ) -> None:
        self._schedule, self._plan, self._strategy, self._population = schedule, plan, strategy, population
        self._edges, self._memory, self._workload = edges, memory, workload
        self._now = float(memory[NOW][0]) if NOW in memory else 0.0
        num_edges = len(schedule.topology.aggregators)
        self._counts = np.array(memory[COUNTS]) if COUNTS in memory else np.zeros(num_edges)
        rates = schedule.devices.node_rate.tolist()
        table = memory[JOBS] if JOBS in memory else np.zeros((0, NUM_COLUMNS))
        self._simulation, self._waiting = Simulation.of_table(rates, table, self._now)
        self._idle = schedule.there(plan.round, workload, memory).copy()  # within a round nobody is asked twice
        self._idle[[job.client for job in [*self._simulation.jobs, *self._waiting]]] = False
        self._num_idle = int(np.count_nonzero(self._idle))
        self._draws = 0
        self._handed_down = False
        self._lost: list[tuple[Job, str]] = []
        self._used: list[Job] = []
        self.clock = Clock(schedule.devices, schedule.topology, memory.get(CLOCK))
        self._leave_stranded()

    def fill_a_buffer(self) -> int:
        """Lets time pass until an edge has enough updates; which one. Where nobody is left to wait for, the one with the most."""
        size = self._schedule.policy.size
        while True:
            full = [edge for edge, number in enumerate(self._waiting_by_edge()) if number >= size]
            if full:
                return min(full)
            self._ask()
            now, over = self._simulation.next()
            if not over:
                return int(np.argmax(self._waiting_by_edge()))
            self._now = now
            for job in over:
                self._lost += [(job, "gone")] if job.gone else []
                self._waiting += [] if job.gone else [job]

    def empty(self, edge: int) -> tuple[Contribution, ...]:
        """The buffer's first updates, as contributions to the edge's model; whoever has become too stale by it is stopped."""
        policy, round = self._schedule.policy, self._plan.round
        own = sorted((job for job in self._waiting if job.edge == edge), key=lambda job: (job.since, job.client))[: policy.size]
        self._waiting = [job for job in self._waiting if job not in own]
        own.sort(key=lambda job: (job.version, job.client))
        if own:
            self._hand_down()
            self.clock.ends({edge: self._now})
        contributions = tuple(
            Contribution(job.client, None if job.version == round else job.version, policy.factor(self._staleness(job)))
            for job in own
        )
        self._used = own
        if own:
            self._count(edge)
        return contributions

    def flights(self, *, last: bool) -> tuple[Flight, ...]:
        """Everybody whose work ends in this round; after the last one, all others."""
        if last:
            self._lost += [(job, "unfinished") for job in self._waiting]
            self._waiting = []
            for job in list(self._simulation.jobs):
                self._stop(job, "unfinished")
        if self._lost:
            self._hand_down()
        flights = [job.flight() for job in self._used] + [job.flight(fate) for job, fate in self._lost]
        return tuple(sorted(flights, key=lambda flight: (flight.client, flight.started)))

    def chances(self) -> dict[int, float]:
        """Of everybody whose work ends in this round."""
        return {job.client: job.chance for job in [*self._used, *(job for job, _ in self._lost)] if job.chance < 1}

    def remembered(self) -> Memory:
        """For the next plan."""
        return {
            JOBS: self._simulation.as_table(self._now, self._waiting),
            NOW: np.array([self._now]),
            COUNTS: self._counts,
        }

    def _ask(self) -> None:
        """Somebody new for everybody who is done, while there is anybody."""
        schedule, round = self._schedule, self._plan.round
        wanted = schedule.participation.wanted(schedule.cohort_size, self._memory, self._population.num_clients)
        free = wanted - len(self._simulation.jobs)
        if free <= 0 or not self._num_idle:
            return
        key = (round, self._draws) if self._draws else (round,)
        self._draws += 1
        cohort = schedule.cohort(key, free, self._idle, self._population, self._memory, self._workload)
        self._idle[cohort] = False
        self._num_idle -= len(cohort)
        chosen = schedule.edges_for(cohort, self._strategy, self._population, self._edges, key)
        self._hand_down()
        for client, (edge, chance) in zip(cohort, chosen, strict=True):
            starts = max(self._now, self.clock.edge(edge))
            job = schedule.job(client, edge, self._plan, self._workload, starts, self._workload.width(client))
            job.age, job.chance = int(self._counts[edge]), chance
            self._simulation.start(job)

    def _hand_down(self) -> None:
        """Once in a round, as soon as there is something to do."""
        if not self._handed_down:
            self.clock.hand_down(self._workload)
            self._handed_down = True

    def _leave_stranded(self) -> None:
        """Whoever works for an edge that is away now is told to stop, and what lay in its buffer is lost with it."""
        away = self._plan.away
        for job in [job for job in self._simulation.jobs if job.edge in away]:
            self._stop(job, "stranded")
        self._lost += [(job, "stranded") for job in self._waiting if job.edge in away]
        self._waiting = [job for job in self._waiting if job.edge not in away]

    def _count(self, edge: int) -> None:
        """One more aggregation of an edge: clients that have become too stale by it are told to stop."""
        self._counts[edge] += 1
        for job in list(self._simulation.jobs):
            if self._staleness(job) > self._schedule.policy.most_stale:
                self._stop(job, "stale")
        for job in [job for job in self._waiting if self._staleness(job) > self._schedule.policy.most_stale]:
            self._lost.append((job, "stale"))
            self._waiting.remove(job)

    def _staleness(self, job: Job) -> int:
        """Aggregations of its edge since it started."""
        return int(self._counts[job.edge]) - job.age

    def _stop(self, job: Job, fate: str) -> None:
        self._simulation.stop(job, max(self._now, job.starts))
        self._lost.append((job, fate))

    def _waiting_by_edge(self) -> list[int]:
        numbers = [0] * len(self._counts)
        for job in self._waiting:
            numbers[job.edge] += 1
        return numbers
