"""One sum, used at every tier: in an order fixed by the plan, divided only at the end.

What is added up are updates (trained minus received), weighted and unnormalised, in float32. Products are rounded before they are
added (no fused multiply-add), so a sum has the same bits whether its terms were weighted here or on another host.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.update import Update
from fedphd_ray.records import EdgeStatistics, Kind, PartialUpdate
from fedphd_ray.strategies.parts import Part
from fedphd_ray.tensors import as_numpy, as_tensor, new_like, split


class VectorSum:
    """A sum of vectors [num_params] in the order in which they are added: the only place where those of several senders meet.

    Vectors are borrowed: they are never written into, and the first one is its own sum until a second comes.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._own = False  # whether the total's memory is ours

    @property
    def total(self) -> Tensor | None:
        """The sum so far; None before the first vector."""
        return self._total

    def add(self, vector: Tensor) -> None:
        """One more vector, with weight 1."""
        whole = Update(vector, None, (slice(0, len(vector)),))
        if self._total is None:
            self._total = vector
        elif self._own:
            self.add_weighted([(whole, None)])
        else:
            first, self._total = Update(self._total, None, whole.slices), None
            self.add_weighted([(first, None), (whole, None)])

    def add_weighted(self, terms: Sequence[tuple[Update, float | None]]) -> None:
        """More updates with the same slices, each times a weight (None for 1)."""
        assert self._own or self._total is None, "what is borrowed must not be written into"
        slices, trained = terms[0][0].slices, terms[0][0].trained
        first, self._own = self._total is None, True
        if self._total is None:
            self._total = new_like(trained) if terms[0][0].is_whole else torch.zeros_like(trained)
        for place in slices:
            vectors = [vector[place] for update, _ in terms for vector in update.vectors]
            for out, *pieces in split(self._total[place], *vectors):
                rest = iter(pieces)
                for position, (update, weight) in enumerate(terms):
                    _add_product(out, update, rest, weight, first=first and position == 0)


def _add_product(out: Tensor, update: Update, pieces: Iterator[Tensor], weight: float | None, *, first: bool) -> None:
    """Adds weight * (trained - initial) to a piece of a sum; the first product becomes it."""
    product, into = next(pieces), out if first else None
    if update.initial is not None:
        product = torch.sub(product, next(pieces), out=into)
        product = product if weight is None else product.mul_(weight)
    elif weight is not None:
        product = torch.mul(product, weight, out=into)
    if not first:
        out.add_(product)
    elif product is not out:
        out.copy_(product)


def fold(terms: Iterable[Tensor]) -> Tensor | None:
    """The sum of vectors [num_params], in their order; None for no terms. Terms are streamed and stay."""
    total = VectorSum()
    for term in terms:
        total.add(term)
    return total.total


def apply_update(
    base: Tensor,
    total: Tensor,
    parts: Sequence[Part],
    weights: Sequence[float],
    scale: float = 1.0,
    coverage: Tensor | None = None,
) -> Tensor:
    """Gives base + scale * total / weight [num_params]: the weighted mean of models from the weighted sum of their updates.

    Args:
        base: the model that the updates start from.
        total: the weighted sum.
        parts: shares of the model with a weight each; one that nobody reported (weight 0) stays as it is.
        weights: sum of weights per part.
        scale: factor on the mean update.
        coverage: sum of weights of each coordinate [num_params], where those differ; the parts' are not used then. A coordinate
            that nobody covers stays as it is.
    """
    if coverage is not None:
        covered = coverage > 0
        return torch.where(covered, base + scale * (total / torch.where(covered, coverage, 1.0)), base)
    result = new_like(total)
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
    base: Tensor,
    models: Sequence[Tensor],
    parts: Sequence[Part],
    weights: Sequence[Sequence[float] | NDArray[np.float64]],
    starts: Sequence[Tensor] | None = None,
) -> Tensor:
    """Gives base + sum_e w_e (W_e - start_e) [num_params]: the mean of models that started from it, for weights that sum to 1.

    Args:
        base: the model that is moved. Models that did not move leave it exactly as it was.
        models: W_e.
        parts: shares of the model; together all of it.
        weights: per part, w_e of each model.
        starts: what each of them started from, where that is not always the base.
    """
    total, starts = VectorSum(), starts or [base] * len(models)
    for part, own in zip(parts, weights, strict=True):
        updates = [Update.whole(model, start).only([part]) for model, start in zip(models, starts, strict=True)]
        total.add_weighted([(update, float(weight)) for update, weight in zip(updates, own, strict=True)])
    assert total.total is not None
    return apply_update(base, total.total, parts, [1.0] * len(parts))


def covered_models(
    base: Tensor, models: Sequence[Tensor], starts: Sequence[Tensor], weights: NDArray[np.float64], shares: Sequence[Tensor]
) -> Tensor:
    """The same where coordinates do not count alike: base + s sum_e w_e c_e (W_e - start_e) / sum_e w_e c_e [num_params].

    Args:
        base: see `weighted_models`; a coordinate that nobody covers stays as it is.
        models: W_e.
        starts: what each of them started from.
        weights: w_e, whose sum is s.
        shares: c_e [num_params] in [0, 1].
    """
    total, mass = VectorSum(), VectorSum()
    counted = [share * float(weight) for share, weight in zip(shares, weights, strict=True)]
    for own in counted:
        mass.add(own)
    assert mass.total is not None
    covered = mass.total > 0
    for model, start, own in zip(models, starts, counted, strict=True):  # shares of 1 first: the mean of one model is that model
        share = torch.where(covered, own / torch.where(covered, mass.total, 1.0), 0.0)
        total.add_weighted([(Update.whole(model, start).times(share), None)])
    assert total.total is not None
    return torch.where(covered, base + float(weights.sum()) * total.total, base)


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


def fold_partials(partials: Sequence[PartialUpdate], block_sizes: Sequence[int]) -> PartialUpdate:
    """The sum of the blocks' sums, and of everything else that adds up, as if one host had trained all of the clients.

    Args:
        partials: in the order of the plan.
        block_sizes: number of partials per reduction block; those of a block are summed first, then the blocks.
    """
    assert sum(block_sizes) == len(partials)
    began = time.perf_counter()
    return PartialUpdate(
        totals=fold_by_name([partial.totals for partial in partials], block_sizes),
        weights=tuple(weights for partial in partials for weights in partial.weights),
        label_counts=np.sum([partial.label_counts for partial in partials], axis=0),
        reports=tuple(report for partial in partials for report in partial.reports),
        transfers=tuple(transfer for partial in partials for transfer in partial.transfers),
        train_seconds=sum(partial.train_seconds for partial in partials),
        busy_seconds=sum(partial.busy_seconds for partial in partials),
        fold_seconds=sum(partial.fold_seconds for partial in partials) + time.perf_counter() - began,
    )


def fold_by_name(
    totals: Sequence[Mapping[Kind, NDArray[np.float32]]], block_sizes: Sequence[int]
) -> dict[Kind, NDArray[np.float32]]:
    """For each name the sum of the blocks' sums, over those that have something of this name."""
    names = dict.fromkeys(name for own in totals for name in own)
    return {name: as_numpy(_fold_blocks([own.get(name) for own in totals], block_sizes)) for name in names}


def _fold_blocks(vectors: Sequence[NDArray[np.float32] | None], block_sizes: Sequence[int]) -> Tensor:
    remaining, total = iter(vectors), VectorSum()
    for size in block_sizes:
        block = fold(as_tensor(vector) for vector in islice(remaining, size) if vector is not None)
        if block is not None:
            total.add(block)
    assert total.total is not None
    return total.total
