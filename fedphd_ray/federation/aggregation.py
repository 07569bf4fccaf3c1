"""One fold, used at every tier: sums in an order fixed by the plan, divided only at the end.

What is added up are updates (trained minus received), weighted and unnormalised, in float32. Products are rounded before they are
added (no fused multiply-add), so a sum has the same bits whether its terms were weighted here or on another host.
"""

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.update import Update
from fedphd_ray.records import EdgeStatistics, PartialUpdate
from fedphd_ray.strategies.parts import Part
from fedphd_ray.tensors import as_numpy, as_tensor, split


def fold(terms: Iterable[Tensor]) -> Tensor | None:
    """The sum of vectors [num_params], in their order; None for no terms. Terms are streamed and stay; one is its own sum."""
    total: Tensor | None = None
    for position, term in enumerate(terms):
        if total is None:
            total = term
        elif position == 1:
            total = total + term
        else:
            total.add_(term)
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
    result = torch.empty_like(total)
    for part, weight in zip(parts, weights, strict=True):
        for piece in part.slices:
            if weight == 0:
                result[piece] = base[piece]
                continue
            for summed, start, out in split(total[piece], base[piece], result[piece]):
                step = torch.div(summed, weight, out=out)
                (step if scale == 1.0 else step.mul_(scale)).add_(start)
    return result


def weighted_models(
    base: Tensor, models: Sequence[Tensor], parts: Sequence[Part], weights: Sequence[Sequence[float] | NDArray[np.float64]]
) -> Tensor:
    """Gives base + sum_e w_e (W_e - base) [num_params], the mean of models for weights that sum to 1.

    Args:
        base: the model that all of them started from: those that did not move leave it exactly as it was.
        models: W_e.
        parts: shares of the model; together all of it.
        weights: per part, w_e of each model.
    """
    result = torch.empty_like(base)
    for part, own in zip(parts, weights, strict=True):
        for piece in part.slices:
            for start, out, *pieces in split(base[piece], result[piece], *(model[piece] for model in models)):
                total = fold((each - start).mul_(float(weight)) for each, weight in zip(pieces, own, strict=True))
                assert total is not None
                torch.add(total, start, out=out)
    return result


def weights_by_part(edges: Sequence[EdgeStatistics], weights: NDArray[np.float64], num_parts: int) -> list[NDArray[np.float64]]:
    """Weights of the edges' models for each part of the model [num_parts][num_edges].

    An edge counts for a part with the share of its clients that reported it: its copy of a part that nobody reported there is
    none of their work. The weights of a part are then scaled to the sum that all of them had; those of a part that nobody
    reported at all are zero, so that it stays as it was.

    Args:
        edges: what the edges have seen since the last synchronisation.
        weights: of their whole models [num_edges].
        num_parts: of the model.
    """
    shares = np.array([[edge.reported(part) for edge in edges] for part in range(num_parts)])
    result = []
    for share in shares:
        scaled = weights * share
        rescaled = not np.all(share == 1.0) and scaled.sum() > 0
        result.append(scaled * (weights.sum() / scaled.sum()) if rescaled else scaled)
    return result


def add_weighted(total: Tensor | None, update: Update, weight: float) -> Tensor:
    """Gives total + weight * update [num_params], in the memory of `total`.

    Args:
        total: the sum so far, None for nothing yet.
        update: the term.
        weight: its factor.
    """
    trained, initial, first = update.trained, update.initial, total is None
    if total is None:
        total = torch.empty_like(trained) if update.is_whole else torch.zeros_like(trained)
    for piece in update.slices:
        for after, before, out in split(trained[piece], trained[piece] if initial is None else initial[piece], total[piece]):
            into = out if first else None
            term = after.mul(weight) if initial is None else torch.sub(after, before, out=into).mul_(weight)
            if not first:
                out.add_(term)
            elif term is not out:
                out.copy_(term)
    return total


def fold_partials(partials: Sequence[PartialUpdate], block_sizes: Sequence[int]) -> PartialUpdate:
    """The sum of the blocks' sums, and of everything else that adds up, as if one host had trained all of the clients.

    Args:
        partials: in the order of the plan.
        block_sizes: number of partials per reduction block; those of a block are summed first, then the blocks.
    """
    assert sum(block_sizes) == len(partials)
    began = time.perf_counter()
    total = _fold_blocks([partial.total for partial in partials], block_sizes)
    control = _fold_blocks([partial.control for partial in partials], block_sizes)
    return PartialUpdate(
        total=None if total is None else as_numpy(total),
        weights=tuple(weights for partial in partials for weights in partial.weights),
        control=None if control is None else as_numpy(control),
        label_counts=np.sum([partial.label_counts for partial in partials], axis=0),
        reports=tuple(report for partial in partials for report in partial.reports),
        transfers=tuple(transfer for partial in partials for transfer in partial.transfers),
        train_seconds=sum(partial.train_seconds for partial in partials),
        busy_seconds=sum(partial.busy_seconds for partial in partials),
        fold_seconds=sum(partial.fold_seconds for partial in partials) + time.perf_counter() - began,
    )


def _fold_blocks(vectors: Sequence[NDArray[np.float32] | None], block_sizes: Sequence[int]) -> Tensor | None:
    """The sum of the blocks' sums; None if there is nothing to add."""
    remaining = iter(vectors)
    blocks = [[vector for vector in islice(remaining, size) if vector is not None] for size in block_sizes]
    return fold(cast(Tensor, fold(as_tensor(piece) for piece in block)) for block in blocks if block)
