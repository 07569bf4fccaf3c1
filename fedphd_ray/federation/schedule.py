"""Round plans: who takes part, on which edge, in which block, and what happens at the end of the round. Pure."""

from collections.abc import Sequence

from pydantic import NonNegativeInt, PositiveInt

from fedphd_ray.population import Population
from fedphd_ray.records import Block, EdgeStatistics, RoundPlan
from fedphd_ray.sections import Section
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.strategies import Strategy
from fedphd_ray.topology import Topology


class ScheduleConfig(Section):
    """Length of the run and size of the cohorts.

    Attributes:
        rounds: number of edge rounds, R.
        clients_per_round: cohort size K; clients are drawn without replacement.
        block_size: clients per reduction block. It changes rounding, hence bits, so it belongs to the experiment and not to
            the placement: a host may train a whole block and return one sum, or several hosts a share of it each.
    """

    rounds: PositiveInt = 100
    clients_per_round: PositiveInt = 4
    block_size: PositiveInt = 5


class HierarchyConfig(Section):
    """The tiers.

    Attributes:
        num_edges: edge servers, M; 0 makes the federation flat: clients speak with the cloud itself.
        cloud_period: the cloud aggregates every so many rounds, r_g.
    """

    num_edges: NonNegativeInt = 2
    cloud_period: PositiveInt = 5


class Schedule:
    """Plans rounds 1, 2, ..., `rounds`. The cloud aggregates when the period is full, before pruning, and after the last round.

    Args:
        config: length and cohort.
        hierarchy: tiers and period.
        seed: of the run.
        prune_round: the round after which the model is pruned; 0 for never.
    """

    def __init__(self, config: ScheduleConfig, hierarchy: HierarchyConfig, seed: int, prune_round: int = 0) -> None:
        self.rounds = config.rounds
        self.topology = Topology(hierarchy.num_edges)
        self.cohort_size = config.clients_per_round
        self.block_size = config.block_size
        self._period = hierarchy.cloud_period
        self._prune_round = prune_round
        self._seed = seed

    def syncs(self, round: int) -> bool:
        """Whether round `round` ends at the cloud: (r mod r_g) = 0 with rounds counted from 1, so that nothing is thrown away."""
        return round % self._period == 0 or round in (self._prune_round, self.rounds)

    def plan(self, round: int, strategy: Strategy, population: Population, edges: Sequence[EdgeStatistics]) -> RoundPlan:
        """The plan of round `round`, given what the edges have seen until the end of the round before."""
        cohort_rng = numpy_rng(self._seed, Purpose.COHORT, round)
        drawn = cohort_rng.choice(population.num_clients, size=self.cohort_size, replace=False)
        cohort = sorted(int(client) for client in drawn)
        choices = strategy.choose_edges(cohort, population, edges, numpy_rng(self._seed, Purpose.EDGE_CHOICE, round))
        edge_of = dict(zip(cohort, choices, strict=True))
        parts_rng = numpy_rng(self._seed, Purpose.REPORTED_PARTS, round)
        return RoundPlan(
            round=round,
            edge_of=edge_of,
            blocks=self._blocks(edge_of),
            starts_cycle=round == 1 or self.syncs(round - 1),
            syncs=self.syncs(round),
            prunes=round == self._prune_round,
            reported_parts=strategy.reported_parts(cohort, parts_rng),
        )

    def _blocks(self, edge_of: dict[int, int]) -> tuple[Block, ...]:
        """Each edge's clients, in the order of their ids, cut into blocks: no placement, timing or arrival order enters."""
        blocks = []
        for edge in self.topology.aggregators:
            clients = [client for client, chosen in edge_of.items() if chosen == edge]
            for start in range(0, len(clients), self.block_size):
                blocks.append(Block(edge, tuple(clients[start : start + self.block_size])))
        return tuple(blocks)
