"""The seam of a federated method: a frozen record of hyper-parameters and a few hooks, with FedAvg's behaviour as default.

A strategy has no state of its own. Pruning, partition, placement and codec are other choices; none of them is asked about here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fedphd_ray.records import EdgeStatistics, Population


class Strategy(BaseModel):
    """Hooks of a federated method; subclasses are their own configuration.

    Attributes:
        shares_label_statistics: whether label counts travel (edges to clients and cloud, clients to edges); they are then in the
            ledger. A method that does not use them must not be given them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def shares_label_statistics(self) -> bool:
        """See the class."""
        return False

    def choose_edges(
        self, cohort: Sequence[int], population: Population, edges: Sequence[EdgeStatistics], rng: np.random.Generator
    ) -> list[int]:
        """The edge of each client of the cohort, in its order. Default: a fixed edge per client, its id modulo the edges."""
        return [client % len(edges) for client in cohort]

    def client_weight(self, num_samples: int) -> float:
        """Weight of a client's update at its edge. Default: its number of images n_i (McMahan et al. 2017)."""
        return float(num_samples)

    def edge_weights(self, edges: Sequence[EdgeStatistics], population: Population) -> NDArray[np.float64]:
        """Weight of each edge's model at the cloud [num_edges], summing to 1. Default: images since the last synchronisation.

        An edge that nobody chose since then has no weight (it holds nothing new).
        """
        samples = np.asarray([edge.num_samples for edge in edges], dtype=np.float64)
        return samples / samples.sum() if samples.sum() > 0 else np.full(len(edges), 1.0 / len(edges))
