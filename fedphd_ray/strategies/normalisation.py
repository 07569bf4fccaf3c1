"""Updates of different numbers of local steps made comparable: FedNova's normalisation, for any method that asks for it.

Wang, Liu, Liang, Joshi, Poor: "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
NeurIPS 2020 (arXiv 2007.07481): the new model is x - tau_eff sum p_i (x - y_i) / tau_i, with tau_i local steps, p_i the share
of a client in the weight, tau_eff = sum p_i tau_i. That a client's normaliser is tau_i is exact for plain SGD, and the usual
choice for Adam. With equal steps nothing changes. Step counts are part of a client's report and travel uncounted, like its loss.

With edges the same is done at both tiers: to the cloud an edge is a client that has taken tau_e local steps, the sum of its
rounds' tau_eff. Where the cloud aggregates every round, that is the flat method.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics
from fedphd_ray.strategies.base import Strategy


def client_weight(strategy: Strategy, num_samples: int, num_steps: int) -> float:
    """Weight of a client's update; divided by tau_i. An update of no steps is zero, whatever its weight."""
    weight = strategy.client_weight(num_samples, num_steps)
    return weight / max(1, num_steps) if strategy.normalise_steps else weight


def step_scale(strategy: Strategy, num_samples: Sequence[int], num_steps: Sequence[int]) -> float:
    """What turns the mean with weights p_i / tau_i into tau_eff sum p_i d_i, from n_i and tau_i of those that take part."""
    if not strategy.normalise_steps:
        return 1.0
    steps = np.asarray(num_steps, dtype=np.float64)
    weights = np.array([strategy.client_weight(n, tau) for n, tau in zip(num_samples, num_steps, strict=True)])
    effective_steps = (weights * steps).sum() / weights.sum()
    return float((weights / np.maximum(1, steps)).sum() / weights.sum() * effective_steps)


def edge_weights(strategy: Strategy, edges: Sequence[EdgeStatistics], population: Population) -> NDArray[np.float64]:
    """Weights of the edges' models at the cloud: p_e tau_eff / tau_e, with tau_eff = sum p_e tau_e; they need not sum to 1."""
    shares = strategy.edge_weights(edges, population)
    if not strategy.normalise_steps:
        return shares
    steps = np.asarray([edge.steps for edge in edges], dtype=np.float64)
    return np.where(steps > 0, shares * (shares @ steps) / np.where(steps > 0, steps, 1.0), shares)
