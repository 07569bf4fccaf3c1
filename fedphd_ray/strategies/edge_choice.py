"""Which edge a client of a cohort goes to, as a choice of its own: the method's, or a rule to compare it with.

Every rule sees what `Strategy.choose_edges` sees, and the latency of each client to each edge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics, distribution
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies.base import EdgeDraw, Strategy
from fedphd_ray.strategies.homogeneity import homogeneity_score, merge_distribution, uniform


@dataclass(frozen=True)
class Choice:
    """What is to be chosen, and from what.

    Attributes:
        cohort: clients, each for itself and in this order.
        strategy: the method.
        population: all clients.
        edges: what each edge has seen since it sent its model up last.
        latency: client -> its seconds to each edge [num_edges].
        round: of the choice.
        rng: for what is left to chance.
    """

    cohort: Sequence[int]
    strategy: Strategy
    population: Population
    edges: Sequence[EdgeStatistics]
    latency: Callable[[int], NDArray[np.float64]]
    round: int
    rng: np.random.Generator


class EdgeRule(Section):
    """A rule.

    Attributes:
        needs_statistics: it looks at what edges and clients have seen, which a method must share for it.
        needs_latency: it looks at latencies, which only simulated devices have.
    """

    needs_statistics: ClassVar[bool] = False
    needs_latency: ClassVar[bool] = False

    name: str

    def choose(self, choice: Choice) -> list[EdgeDraw]:
        """An edge for each client of the cohort."""
        raise NotImplementedError


class OfTheStrategy(EdgeRule):
    """As the method has it."""

    name: Literal["strategy"] = "strategy"

    def choose(self, choice: Choice) -> list[EdgeDraw]:
        """See `Strategy.choose_edges`."""
        return choice.strategy.choose_edges(choice.cohort, choice.population, choice.edges, choice.rng)


class Random(EdgeRule):
    """Any edge, with equal probability."""

    name: Literal["random"]

    def choose(self, choice: Choice) -> list[EdgeDraw]:
        """One draw each."""
        num = len(choice.edges)
        return [EdgeDraw(int(edge), 1 / num) for edge in choice.rng.integers(0, num, len(choice.cohort))]


class RoundRobin(EdgeRule):
    """The clients of a round in turn over the edges, another edge first every round."""

    name: Literal["round_robin"]

    def choose(self, choice: Choice) -> list[EdgeDraw]:
        """By position."""
        return [EdgeDraw((choice.round + place) % len(choice.edges)) for place in range(len(choice.cohort))]


class Region(EdgeRule):
    """Always the same edge: client c's is c modulo the number of edges."""

    name: Literal["region"]

    def choose(self, choice: Choice) -> list[EdgeDraw]:
        """By number."""
        return [EdgeDraw(client % len(choice.edges)) for client in choice.cohort]


class Nearest(EdgeRule):
    """The edge with the least latency; of several, the client's region if it is among them."""

    needs_latency: ClassVar[bool] = True

    name: Literal["nearest"]

    def choose(self, choice: Choice) -> list[EdgeDraw]:
        """By latency."""
        num = len(choice.edges)
        nearest = [np.argmin(np.roll(choice.latency(client), -(client % num))) + client for client in choice.cohort]
        return [EdgeDraw(int(edge) % num) for edge in nearest]


class Greedy(EdgeRule):
    """The edge that would be most homogeneous with the client: the largest SH(Q'), ties by lot, and no thought of loads.

    Attributes:
        knowledge: see `FedPhD`.
    """

    needs_statistics: ClassVar[bool] = True

    name: Literal["greedy"]
    knowledge: Literal["snapshot", "sequential"] = "snapshot"

    def choose(self, choice: Choice) -> list[EdgeDraw]:
        """By homogeneity."""
        target, known, chosen = uniform(choice.population.num_classes), list(choice.edges), list[EdgeDraw]()
        for client in choice.cohort:
            counts = choice.population.label_counts[client]
            own, samples = distribution(counts), int(counts.sum())
            scores = np.array(
                [
                    homogeneity_score(merge_distribution(edge.distribution, edge.num_samples, own, samples), target)
                    for edge in known
                ]
            )
            best = np.flatnonzero(scores >= scores.max() - 1e-12)
            edge = int(choice.rng.choice(best))
            chosen.append(EdgeDraw(edge, 1 / len(best)))
            if self.knowledge == "sequential":
                known[edge] = known[edge].merge(counts)
        return chosen


EdgeChoice = Annotated[OfTheStrategy | Random | RoundRobin | Region | Nearest | Greedy, Field(discriminator="name")]
