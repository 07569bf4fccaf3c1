"""One fold, used at every tier: sums in an order fixed by the plan, divided only at the end.

What is added up are updates (trained minus received), weighted and unnormalised, in float32. Products are rounded before they are
added (no fused multiply-add), so a sum has the same bits whether its terms were weighted here or on another host.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedphd_ray.strategies.parts import Part


def fold(terms: Iterable[Tensor]) -> Tensor | None:
    """The sum of vectors [num_params], in their order; None for no terms. The terms are not changed, and are streamed."""
    total: Tensor | None = None
    for term in terms:
        total = term.clone() if total is None else total.add_(term)
    return total


def apply_update(base: Tensor, total: Tensor, parts: Sequence[Part], weights: Sequence[float], scale: float = 1.0) -> Tensor:
    """Gives base + scale * total / weight [num_params]: the weighted mean of models from the weighted sum of their updates.

    Args:
        base: the model that the updates start from.
        total: the weighted sum.
        parts: shares of the model with a weight each; one that nobody reported (weight 0) stays as it is.
        weights: sum of weights per part.
        scale: factor on the mean update.
    """
    result = base.clone()
    for part, weight in zip(parts, weights, strict=True):
        for piece in part.slices if weight > 0 else ():
            step = total[piece] / weight
            torch.add(base[piece], step if scale == 1.0 else step * scale, out=result[piece])
    return result


def weighted_models(base: Tensor, models: Sequence[Tensor], weights: Sequence[float] | np.ndarray) -> Tensor:
    """Gives sum_e w_e W_e [num_params] for weights that sum to 1, as base + sum_e w_e (W_e - base).

    `base` is the model that all of them started from: edges that did not move leave it exactly as it was.
    """
    total = fold((model - base).mul_(float(weight)) for model, weight in zip(models, weights, strict=True))
    assert total is not None
    return total.add_(base)
