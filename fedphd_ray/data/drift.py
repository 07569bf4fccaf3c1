"""Clients whose data changes while a federation goes on: images pass from client to client, along a stated path."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from fedphd_ray.data.partition import counts_by_client
from fedphd_ray.population import ClientRows, Population
from fedphd_ray.settings.sections import Section


class Drift(Section):
    """Every client gives its first images to the client before it, and is given as many by the one after it, in a ring.

    So its mix of labels becomes its neighbour's, then that of the one after, while sizes stay, and every image belongs to one
    client at any time.

    Attributes:
        images_per_round: that each client gives away.
        first_round: the first round before which it does; 1 is as the partition has it.
        rounds: for how many rounds; null until the end.
    """

    images_per_round: PositiveInt
    first_round: PositiveInt = 2
    rounds: PositiveInt | None = None

    def given_by(self, round: int) -> int:
        """Images that each client has given away when a round begins."""
        times = max(0, round - self.first_round + 1)
        return self.images_per_round * (times if self.rounds is None else min(times, self.rounds))


@dataclass(frozen=True, eq=False)
class Ownership:
    """What clients have in each round.

    Attributes:
        rows: as the partition has it.
        labels: of all images, int64 [N].
        num_classes: of the data set.
        drift: how that changes; None for not at all.
    """

    rows: ClientRows
    labels: NDArray[np.int64]
    num_classes: int
    drift: Drift | None = None
    _known: dict[int, tuple[ClientRows, Population]] = field(default_factory=dict, init=False, repr=False)

    def at(self, round: int) -> ClientRows:
        """The rows of each client."""
        return self._in(round)[0]

    def label_counts(self, round: int) -> NDArray[np.int64]:
        """Images per client and class, int64 [num_clients, num_classes]."""
        return self.population(round).label_counts

    def population(self, round: int) -> Population:
        """What the cloud knows of them: one object as long as nothing changes, so that its sums are taken once."""
        return self._in(round)[1]

    def _in(self, round: int) -> tuple[ClientRows, Population]:
        given = 0 if self.drift is None else self.drift.given_by(round) % len(self.labels)
        if given not in self._known:
            self._known.clear()  # rounds come one after another
            moved = ClientRows(self.rows.offsets, np.roll(self.rows.rows, -given)) if given else self.rows
            self._known[given] = moved, Population(counts_by_client(self.labels, moved, self.num_classes))
        return self._known[given]
