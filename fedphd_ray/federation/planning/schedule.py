"""Round plans: who takes part, on which edge, in which block, and what happens at the end of the round. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from fedphd_ray.federation.planning.client_pruning import Everybody, Participation
from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.policies import Policy, Wait
from fedphd_ray.federation.planning.sampling import Draw, Sampling, UniformSampling
from fedphd_ray.federation.planning.workload import Workload
from fedphd_ray.plans import Aggregation, Contribution, Memory, RoundPlan
from fedphd_ray.population import Population
from fedphd_ray.records import ClientReport, EdgeStatistics, Slice
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.base import EdgeDraw
from fedphd_ray.strategies.edge_choice import Choice


class ScheduleConfig(Section):
    """Length of the run and size of the cohorts.

    Attributes:
        rounds: number of edge rounds, R.
        clients_per_round: cohort size K; clients are drawn without replacement.
        block_size: clients per reduction block. It changes rounding, hence bits, so it belongs to the experiment and not to
            the placement: a host may train a whole block and return one sum, or several hosts a share of it each.
        participation: which of the registered clients can be asked.
        sampler: which of the clients that can be asked are asked.
        policy: whose updates a round takes, where devices are simulated; `wait` takes those of everybody who was asked.
    """

    rounds: PositiveInt = 100
    clients_per_round: PositiveInt = 4
    block_size: PositiveInt = 5
    participation: Participation = Everybody()
    sampler: Sampling = UniformSampling()
    policy: Policy = Wait()


LOSSES = "losses"  # in a planner's memory
_AGAIN = (2**31,)  # in the key of those who choose again; draws of one round are counted from 1


@dataclass(frozen=True)
class Given:
    """Clients of a round that are asked after all, with their edges; what they train, and how fast they send."""

    edge_of: Mapping[int, int]
    slices: dict[int, Slice]
    upload_rates: dict[int, float] = field(default_factory=dict)


class Schedule:
    """Plans rounds 1, 2, ..., `rounds`. The cloud aggregates when the period is full, before pruning, and after the last round.

    Args:
        config: length and cohort.
        hierarchy: tiers and period.
        seed: of the run.
        prune_rounds: the rounds after which the model is pruned.
    """

    def __init__(self, config: ScheduleConfig, hierarchy: HierarchyConfig, seed: int, prune_rounds: Sequence[int] = ()) -> None:
        self.rounds = config.rounds
        self.topology = hierarchy.topology()
        self.edge_choice, self.sampler, self.participation = hierarchy.edge_choice, config.sampler, config.participation
        self.cohort_size = config.clients_per_round
        self.block_size = config.block_size
        self.prune_rounds = frozenset(prune_rounds)
        self.seed = seed

    def sends_up(self, round: int) -> int:
        """How many levels send their models up after a round.

        A level does where its periods are full, (r mod r_g) = 0 with rounds counted from 1; all do before the cloud prunes and
        after the last round, so that nothing is thrown away.
        """
        everything = round in self.prune_rounds or round == self.rounds
        return self.topology.depth if everything else self.topology.sends_up(round)

    def plan(
        self,
        round: int,
        strategy: Strategy,
        population: Population,
        edges: Sequence[EdgeStatistics],
        memory: Memory = MappingProxyType({}),
        workload: Workload | None = None,
    ) -> RoundPlan:
        """The plan of a round: what a server knows before it.

        Args:
            round: 1 for the first.
            strategy: chooses edges and reported parts.
            population: the registered clients.
            edges: what the edges have seen until the end of the round before.
            memory: what `remember` has made of former rounds; here nothing.
            workload: what the round will ask of its clients, where some train less than all; here nothing else matters of it.
        """
        there = self.participation.active(memory, population.num_clients)
        num = self.participation.wanted(self.cohort_size, memory, population.num_clients)
        return self.drawn(round, strategy, population, edges, num, there, memory, workload)

    def drawn(
        self,
        round: int,
        strategy: Strategy,
        population: Population,
        edges: Sequence[EdgeStatistics],
        num: int,
        there: NDArray[np.bool_],
        memory: Memory,
        workload: Workload | None = None,
    ) -> RoundPlan:
        """A plan in which everybody is in who was drawn: so many of those who can be asked, or all of them."""
        cohort = self.cohort((round,), num, there, population, memory, workload)
        choices = self.edges_for(cohort, strategy, population, edges, (round,))
        given = self.given({client: choice.edge for client, choice in zip(cohort, choices, strict=True)}, round, workload)
        parts_rng = numpy_rng(self.seed, Purpose.REPORTED_PARTS, round)
        return RoundPlan(
            round=round,
            aggregations=tuple(self.aggregations(round, given.edge_of)),
            block_size=self.block_size,
            prunes=round in self.prune_rounds,
            reported_parts=strategy.reported_parts(list(given.edge_of), parts_rng),
            slices=given.slices,
            upload_rates=given.upload_rates,
            away=self.away(round),
            chances={client: one.probability for client, one in zip(cohort, choices, strict=True) if one.probability < 1},
        )

    def cohort(
        self,
        key: tuple[int, ...],
        num: int,
        there: NDArray[np.bool_],
        population: Population,
        memory: Memory,
        workload: Workload | None,
    ) -> list[int]:
        """Clients that are asked, by their ids; `key` begins with the round."""
        losses = memory[LOSSES] if LOSSES in memory else _unreported(population.num_clients)
        draw = Draw(
            num=num,
            candidates=np.flatnonzero(there),
            images=population.num_samples,
            losses=losses,
            seconds=self.seconds(workload) if self.sampler.needs_times or self.sampler.needs_losses else None,
            rng=numpy_rng(self.seed, Purpose.COHORT, *key),
        )
        return sorted(int(client) for client in self.sampler.draw(draw))

    def given(self, edge_of: Mapping[int, int], round: int, workload: Workload | None) -> "Given":
        """What the clients of a round train, from the edges that they chose."""
        return Given(edge_of, {} if workload is None else workload.slices(list(edge_of), round))

    def seconds(self, workload: Workload | None) -> NDArray[np.float64] | None:
        """What each client would take for a round; None where nobody knows."""
        return None

    def edges_for(
        self,
        cohort: Sequence[int],
        strategy: Strategy,
        population: Population,
        edges: Sequence[EdgeStatistics],
        key: tuple[int, ...],
    ) -> list[EdgeDraw]:
        """The edge of each client; `key` begins with the round. Who would go to one that is away chooses among the others."""
        away, rng = self.away(key[0]), numpy_rng(self.seed, Purpose.EDGE_CHOICE, *key)
        choice = Choice(cohort, strategy, population, edges, self.latency, key[0], rng)
        drawn = self.edge_choice.choose(choice)
        if not away:
            return drawn
        left = [edge for edge in range(len(edges)) if edge not in away]
        again = replace(
            choice,
            cohort=[client for client, draw in zip(cohort, drawn, strict=True) if draw.edge in away],
            edges=[edges[edge] for edge in left],
            latency=lambda client: self.latency(client)[left],
            rng=numpy_rng(self.seed, Purpose.EDGE_CHOICE, *key, *_AGAIN),
        )
        anew = zip(again.cohort, self.edge_choice.choose(again), strict=True)
        others = {client: EdgeDraw(left[draw.edge], draw.probability) for client, draw in anew}
        return [others.get(client, draw) for client, draw in zip(cohort, drawn, strict=True)]

    def away(self, round: int) -> frozenset[int]:
        """Edges that are away in a round; here none."""
        return frozenset()

    def latency(self, client: int) -> NDArray[np.float64]:
        """Seconds from a client to each edge [num_edges]; here nobody is far from any."""
        return np.zeros(len(self.topology.aggregators))

    def remember(self, plan: RoundPlan, memory: Memory, reports: Sequence[ClientReport], population: Population) -> Memory:
        """What is remembered after a round that its clients report, for the plans that follow; it is part of checkpoints."""
        learned = self.participation.remember(memory, plan.round, reports, population, self.cohort_size)
        if not self.sampler.needs_losses:
            return {**plan.memory, **learned}
        losses = np.array(memory[LOSSES] if LOSSES in memory else _unreported(population.num_clients))
        for report in reports:
            if not report.failure:
                losses[report.client] = report.loss
        return {**plan.memory, **learned, LOSSES: losses}

    def oldest_version(self, round: int, memory: Memory) -> int:
        """The oldest version of a model that the plan of `round`, or a later one, may name; here the newest alone."""
        return round

    def aggregations(self, round: int, edge_of: Mapping[int, int]) -> Iterator[Aggregation]:
        """Of the edges, clients in the order of their ids: no placement, timing or arrival order enters; then of those above."""
        topology = self.topology
        for edge in topology.aggregators:
            clients = [Contribution(client) for client, chosen in edge_of.items() if chosen == edge]
            if clients:
                yield Aggregation(0, edge, tuple(clients))
        for level in range(1, self.sends_up(round) + 1):
            for node in range(topology.sizes[level] if level < topology.depth else 1):
                yield Aggregation(level, node, tuple(Contribution(child) for child in topology.children(level, node)))


@lru_cache(maxsize=1)
def _unreported(num_clients: int) -> NDArray[np.float64]:
    """The losses of clients that have reported none. Without barriers there are dozens of draws a round."""
    losses = np.full(num_clients, np.nan)
    losses.flags.writeable = False
    return losses
