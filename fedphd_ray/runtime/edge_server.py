"""An edge server: folds the updates of its clients into its model. A plain class; Ray is applied to it elsewhere.

It keeps nothing between rounds: its model and statistics are arguments and results, and the cloud's driver holds references to
them. So a lost edge can be replaced without losing anything.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.aggregation import apply_update, fold
from fedphd_ray.memory import peak_memory_bytes
from fedphd_ray.records import EdgeReport, PartialUpdate, Payload
from fedphd_ray.strategies import Strategy
from fedphd_ray.tensors import as_numpy, as_tensor


class EdgeServer:
    """Aggregates one edge's round.

    Args:
        edge: its number.
        threads: torch threads of the process.
    """

    def __init__(self, edge: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._edge = edge

    def __repr__(self) -> str:
        return f"edge/{self._edge}"

    def aggregate(
        self, payload: Payload, block_sizes: Sequence[int], strategy: Strategy, *partials: PartialUpdate
    ) -> tuple[Payload, EdgeReport]:
        """The edge's model after the round (with the sum of what clients sent beside their updates), and its report.

        Args:
            payload: the edge's model before the round.
            block_sizes: number of partial updates per reduction block; partials of a block are summed first, then the blocks.
            strategy: says in which parts, and on which scale, updates are averaged.
            *partials: in the order of the plan.
        """
        assert sum(block_sizes) == len(partials)
        total = _fold_blocks([partial.total for partial in partials], block_sizes)
        control = _fold_blocks([partial.control for partial in partials], block_sizes)
        weights = tuple(sum(column) for column in zip(*(partial.weights for partial in partials), strict=True))
        vector = payload.vector
        if total is not None:
            used = [report for partial in partials for report in partial.reports if not report.failure]
            scale = strategy.step_scale([report.num_samples for report in used], [report.num_steps for report in used])
            vector = as_numpy(apply_update(as_tensor(vector), total, strategy.parts(payload.layout), weights, scale))
        after = Payload(vector, payload.layout, payload.version, None if control is None else as_numpy(control))
        return after, self._report(partials, weights)

    def peak_memory_bytes(self) -> int:
        """Largest resident size of this process so far, in bytes."""
        return peak_memory_bytes()

    def _report(self, partials: Sequence[PartialUpdate], weights: tuple[float, ...]) -> EdgeReport:
        return EdgeReport(
            edge=self._edge,
            weight=max(weights),
            label_counts=np.sum([partial.label_counts for partial in partials], axis=0),
            reports=tuple(report for partial in partials for report in partial.reports),
            transfers=tuple(transfer for partial in partials for transfer in partial.transfers),
            train_seconds=sum(partial.train_seconds for partial in partials),
        )


def _fold_blocks(vectors: Sequence[NDArray[np.float32] | None], block_sizes: Sequence[int]) -> Tensor | None:
    """The sum of the blocks' sums; None if there is nothing to add."""
    remaining = iter(vectors)
    blocks = (fold(as_tensor(vector) for vector in islice(remaining, size) if vector is not None) for size in block_sizes)
    return fold(block for block in blocks if block is not None)
