"""The Frechet distance between two sets of features, each taken for a normal distribution.

Heusel et al.: "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017 (arXiv 1706.08500), eq. 6:
|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)). With A = X^T X and B = Y^T Y, the trace of the root is the sum of the singular values
of X Y^T: nothing is inverted and no root of a rounding error is taken, so fewer images than features do no harm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normal:
    """Mean and covariance of features.

    Attributes:
        mean: float64 [d].
        factor: float64 [k, d], k at most d; factor^T factor is the covariance (divided by n - 1).
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Normal":
        """Of float64 features [n, d], n at least 2."""
        mean = features.mean(0)
        factor = (features - mean) / (len(features) - 1) ** 0.5
        if len(features) > features.shape[1]:
            factor = torch.linalg.qr(factor, mode="r").R
        return cls(mean, factor)


def frechet_distance(first: Normal, second: Normal) -> float:
    """At least 0: rounding can take it below."""
    gap = (first.mean - second.mean).square().sum()
    spreads = first.factor.square().sum() + second.factor.square().sum()
    common = torch.linalg.svdvals(first.factor @ second.factor.T).sum()
    return max(0.0, float(gap + spreads - 2 * common))
