"""FedPhD: homogeneity-aware choice of edges and aggregation.

Long, Wang, Anagnostopoulos, Bi: "Federated Pruning with Hierarchical Learning of Diffusion Models", arXiv 2507.06449. Its pruning
is a choice of its own (`pruning` in the configuration) and combines with other strategies too.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics, distribution
from fedphd_ray.strategies.base import EdgeDraw, Strategy
from fedphd_ray.strategies.homogeneity import cloud_weights, selection_probabilities, uniform

Images = Annotated[float, Field(ge=0, le=1e15)]  # far beyond any data set, and no sum of them overflows


class FedPhD(Strategy):
    """Each sampled client draws its edge every round, by homogeneity and load; the cloud weighs edges by size and homogeneity.

    Attributes:
        selection_balance: a_sel of the edge choice, in images; `auto` is 4 times the mean n_i (the authors' 10,000 on CIFAR-10
            with 20 clients).
        balance: a of the cloud weights, in images; `auto` is the size of all data (the authors' 50,000 on CIFAR-10).
        offset: b of the cloud weights, in images.
        knowledge: what a choosing client knows: `snapshot` is the end of the previous round (the authors' code), `sequential`
            includes the choices already made in this round.
        edge_samples: n_e of the cloud weights: `last_round` (the authors') or `accumulated` since the last synchronisation.
    """

    shares_label_statistics: ClassVar[bool] = True

    name: Literal["fedphd"] = "fedphd"
    selection_balance: Images | Literal["auto"] = "auto"
    balance: Images | Literal["auto"] = "auto"
    offset: Annotated[float, Field(ge=-1e15, le=1e15)] = 0.0
    knowledge: Literal["snapshot", "sequential"] = "snapshot"
    edge_samples: Literal["last_round", "accumulated"] = "last_round"

    def choose_edges(
        self, cohort: Sequence[int], population: Population, edges: Sequence[EdgeStatistics], rng: np.random.Generator
    ) -> list[EdgeDraw]:
        """One categorical draw per client, in the order of the cohort."""
        balance = 4 * float(population.num_samples.mean()) if self.selection_balance == "auto" else self.selection_balance
        target = uniform(population.num_classes)
        known, choices = list(edges), list[EdgeDraw]()
        for client in cohort:
            counts = population.label_counts[client]
            probabilities = selection_probabilities(
                [edge.distribution for edge in known],
                [edge.num_samples for edge in known],
                distribution(counts),
                int(counts.sum()),
                target,
                balance,
            )
            choice = int(rng.choice(len(known), p=probabilities))
            choices.append(EdgeDraw(choice, float(probabilities[choice])))
            if self.knowledge == "sequential":
                known[choice] = known[choice].merge(counts)
        return choices

    def edge_weights(self, edges: Sequence[EdgeStatistics], population: Population) -> NDArray[np.float64]:
        """ReLU(n_e + a SH(Q_e) + b), normalised; an edge without clients since the last synchronisation scores SH = 2."""
        balance = float(population.num_samples.sum()) if self.balance == "auto" else self.balance
        samples = [edge.last_samples if self.edge_samples == "last_round" else edge.num_samples for edge in edges]
        return cloud_weights(
            samples, [edge.distribution for edge in edges], uniform(population.num_classes), balance, self.offset
        )
