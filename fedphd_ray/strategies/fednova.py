"""FedNova: updates are normalised by the number of local steps, so that clients with more steps do not pull the optimum.

Wang, Liu, Liang, Joshi, Poor: "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
NeurIPS 2020 (arXiv 2007.07481).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics
from fedphd_ray.strategies.base import Strategy


class FedNova(Strategy):
    """The new model is x - tau_eff sum p_i (x - y_i) / tau_i, with tau_i local steps, p_i = n_i / n, tau_eff = sum p_i tau_i.

    That a client's normaliser is tau_i is exact for plain SGD, and the usual choice for Adam. With equal steps it is FedAvg. The
    step counts are part of every client's report and travel uncounted, like its loss.

    With edges the same is done at both tiers: to the cloud an edge is a client that has taken tau_e local steps, the sum of its
    rounds' tau_eff. Where the cloud aggregates every round, that is the flat method.
    """

    name: Literal["fednova"] = "fednova"

    def client_weight(self, num_samples: int, num_steps: int) -> float:
        """n_i / tau_i; an update of no steps is zero, whatever its weight."""
        return num_samples / max(1, num_steps)

    def step_scale(self, num_samples: Sequence[int], num_steps: Sequence[int]) -> float:
        """What turns the mean with weights n_i / tau_i into tau_eff sum p_i d_i."""
        samples, steps = np.asarray(num_samples, dtype=np.float64), np.asarray(num_steps, dtype=np.float64)
        effective_steps = (samples * steps).sum() / samples.sum()
        return float((samples / np.maximum(1, steps)).sum() / samples.sum() * effective_steps)

    def edge_weights(self, edges: Sequence[EdgeStatistics], population: Population) -> NDArray[np.float64]:
        """p_e tau_eff / tau_e, with tau_eff = sum p_e tau_e; they need not sum to 1."""
        shares = super().edge_weights(edges, population)
        steps = np.asarray([edge.steps for edge in edges], dtype=np.float64)
        return np.where(steps > 0, shares * (shares @ steps) / np.where(steps > 0, steps, 1.0), shares)
