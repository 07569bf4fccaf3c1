"""An edge server: folds the updates of its clients into its model. A plain class; Ray is applied to it elsewhere.

It keeps nothing between rounds: its model and statistics are arguments and results, and the cloud's driver holds references to
them. So a lost edge can be replaced without losing anything.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from fedphd_ray.federation.aggregation import apply_update, fold
from fedphd_ray.memory import peak_memory_bytes
from fedphd_ray.records import EdgeReport, PartialUpdate, Payload
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

    def aggregate(self, payload: Payload, block_sizes: Sequence[int], *partials: PartialUpdate) -> tuple[Payload, EdgeReport]:
        """The edge's model after the round, and its report.

        Args:
            payload: the edge's model before the round.
            block_sizes: number of partial updates per reduction block; partials of a block are summed first, then the blocks.
            *partials: in the order of the plan.
        """
        assert sum(block_sizes) == len(partials)
        remaining = iter(partials)
        blocks = (
            fold(as_tensor(partial.total) for partial in islice(remaining, size) if partial.total is not None)
            for size in block_sizes
        )
        total = fold(block for block in blocks if block is not None)
        weight = sum(partial.weight for partial in partials)
        if total is not None:
            vector = apply_update(as_tensor(payload.vector), total, weight)
            payload = Payload(as_numpy(vector), payload.layout, payload.version)
        return payload, self._report(partials, weight)

    def peak_memory_bytes(self) -> int:
        """Largest resident size of this process so far, in bytes."""
        return peak_memory_bytes()

    def _report(self, partials: Sequence[PartialUpdate], weight: float) -> EdgeReport:
        return EdgeReport(
            edge=self._edge,
            weight=weight,
            label_counts=np.sum([partial.label_counts for partial in partials], axis=0),
            reports=tuple(report for partial in partials for report in partial.reports),
            transfers=tuple(transfer for partial in partials for transfer in partial.transfers),
            train_seconds=sum(partial.train_seconds for partial in partials),
        )
