"""Precision and recall of samples, and the class score: figures for a finished model, which cost more than FID and KID."""

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 3
MOST_ROWS = 10_000
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Manifolds:
    """How samples and real images cover one another (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Attributes:
        precision: share of the samples that lie among real images.
        recall: share of the real images that lie among samples.
        class_score: exp of the mean divergence of a sample's class probabilities from those of all samples. That is the Inception
            Score (Salimans et al. 2016, arXiv 1606.03498) of all samples at once, with the network of the features and its
            classes in the place of Inception and ImageNet's, where that is another.
    """

    precision: float
    recall: float
    class_score: float


def manifolds(real: Tensor, samples: Tensor, logits: Tensor) -> Manifolds:
    """The figures of samples.

    Args:
        real: features of real images, float64 [m, d]; of more than 10,000 rows, as many are taken, evenly spread.
        samples: of the samples [n, d]; likewise.
        logits: the network's, of the samples [n, num_classes].
    """
    real, samples = _spread(real), _spread(samples)
    return Manifolds(
        precision=_share_within(samples, real, _radii(real)),
        recall=_share_within(real, samples, _radii(samples)),
        class_score=class_score(logits),
    )


def class_score(logits: Tensor) -> float:
    """Exp E KL(p(y|x) || p(y)), from logits [n, num_classes]; 1 to num_classes."""
    each = logits.double().log_softmax(1)
    together = torch.logsumexp(each, 0) - torch.log(torch.tensor(float(len(each)), dtype=torch.float64))
    return float((each.exp() * (each - together)).sum(1).mean().exp())


def _spread(rows: Tensor) -> Tensor:
    if len(rows) <= MOST_ROWS:
        return rows
    return rows[torch.arange(MOST_ROWS) * len(rows) // MOST_ROWS]


def _radii(features: Tensor) -> Tensor:
    """Distance of each row to its third nearest other one [n]; fewer rows than that have no neighbours that far."""
    nearest = min(NEIGHBOURS, len(features) - 1) + 1  # itself is one
    return torch.cat([torch.cdist(some, features).kthvalue(nearest, dim=1).values for some in features.split(ROWS_AT_ONCE)])


def _share_within(rows: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of the rows that lie within the radius of one centre at least."""
    within = [(torch.cdist(some, centres) <= radii).any(1) for some in rows.split(ROWS_AT_ONCE)]
    return float(torch.cat(within).double().mean())
