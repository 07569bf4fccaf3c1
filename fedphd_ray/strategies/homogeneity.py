"""Statistical homogeneity: FedPhD's score, edge choice and cloud weights, as pure functions.

Long, Wang, Anagnostopoulos, Bi: "Federated Pruning with Hierarchical Learning of Diffusion Models", arXiv 2507.06449, with the
constants of the authors' code. A distribution is a float array [num_classes] that sums to 1; `target` is uniform in FedPhD.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-8  # makes the choice uniform when every score is cut to zero


def homogeneity_score(distribution: ArrayLike, target: ArrayLike) -> float:
    """SH(Q) = 2 - ||Q - q*||_2: 2 for a perfect match, at least 2 - sqrt(2)."""
    return 2.0 - float(np.linalg.norm(np.asarray(distribution, dtype=np.float64) - np.asarray(target, dtype=np.float64)))


def uniform(num_classes: int) -> NDArray[np.float64]:
    """q*, the target distribution [num_classes]."""
    return np.full(num_classes, 1.0 / num_classes)


def merge_distribution(
    edge_distribution: ArrayLike, edge_samples: float, client_distribution: ArrayLike, client_samples: float
) -> NDArray[np.float64]:
    """Q' = (N_e Q_e + n_i q_i) / (N_e + n_i) [num_classes]; Q_e itself if both counts are zero."""
    edge = np.asarray(edge_distribution, dtype=np.float64)
    total = edge_samples + client_samples
    if total == 0:
        return edge
    return np.asarray((edge_samples * edge + client_samples * np.asarray(client_distribution, dtype=np.float64)) / total)


def selection_probabilities(
    edge_distributions: Sequence[ArrayLike],
    edge_samples: Sequence[float],
    client_distribution: ArrayLike,
    client_samples: float,
    target: ArrayLike,
    balance: float,
) -> NDArray[np.float64]:
    """Probability of each edge for one client [num_edges]: proportional to ReLU(balance * SH(Q'_e) - N_e) + 1e-8.

    Q'_e is the edge's distribution if the client joined it; N_e its samples since the last synchronisation, without the client's.
    """
    scores = [
        max(
            0.0,
            balance * homogeneity_score(merge_distribution(edge, samples, client_distribution, client_samples), target) - samples,
        )
        for edge, samples in zip(edge_distributions, edge_samples, strict=True)
    ]
    positive = np.maximum(scores, 0.0) + EPSILON
    return np.asarray(positive / positive.sum())


def cloud_weights(
    edge_samples: Sequence[float],
    edge_distributions: Sequence[ArrayLike],
    target: ArrayLike,
    balance: float,
    offset: float = 0.0,
) -> NDArray[np.float64]:
    """Weight of each edge at the cloud [num_edges], w_e proportional to ReLU(n_e + balance * SH(Q_e) + offset); sums to 1.

    Uniform if the ReLU cuts every edge to zero.
    """
    scores = np.asarray(
        [
            max(0.0, samples + balance * homogeneity_score(edge, target) + offset)
            for samples, edge in zip(edge_samples, edge_distributions, strict=True)
        ],
        dtype=np.float64,
    )
    total = scores.sum()
    return np.asarray(scores / total) if total > 0 else np.full(len(scores), 1.0 / len(scores))
