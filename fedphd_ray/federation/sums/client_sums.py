"""What a host adds up of its clients."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.channel.links import Delivery
from fedphd_ray.federation.sums.aggregation import VectorSum
from fedphd_ray.federation.update import Update
from fedphd_ray.records import ClientReport, Kind, PartialUpdate, Transfer
from fedphd_ray.strategies.parts import Part
from fedphd_ray.tensors import as_numpy


class ClientSums:
    """Adds up what arrives, in the order it is given."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._weights: list[tuple[float, ...]] = []
        self._sums: dict[Kind, VectorSum] = defaultdict(VectorSum)
        self._label_counts: list[NDArray[np.int64]] = []
        self.transfers: list[Transfer] = []
        self.reports: list[ClientReport] = []
        self.train_seconds = 0.0

    def add(self, arrived: Delivery, weight: float, reported: Sequence[Part], label_counts: NDArray[np.int64]) -> None:
        """One more client."""
        update, beside = arrived.update, arrived.beside
        coverage = beside.pop(Kind.COVERAGE, None)
        if coverage is not None:
            self._sums[Kind.COVERAGE].add_weighted([(Update(coverage, None, update.slices), weight)])
            update = update.times(coverage)
        self._sums[Kind.MODEL].add_weighted([(update, weight)])
        scores = beside.pop(Kind.IMPORTANCE, None)
        if scores is not None:
            self._sums[Kind.IMPORTANCE].add(weight * scores)
        for name, vector in beside.items():
            self._sums[name].add(vector)
        self._weights.append(tuple(weight if part in reported else 0.0 for part in self._parts))
        self._label_counts.append(label_counts)

    def partial(self, num_classes: int, busy_seconds: float) -> PartialUpdate:
        """The sums so far."""
        return PartialUpdate(
            totals={name: as_numpy(own.total) for name, own in self._sums.items() if own.total is not None},
            weights=tuple(self._weights),
            label_counts=np.sum([np.zeros(num_classes, np.int64), *self._label_counts], axis=0),
            reports=tuple(self.reports),
            transfers=tuple(self.transfers),
            train_seconds=self.train_seconds,
            busy_seconds=busy_seconds,
        )
