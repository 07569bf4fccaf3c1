"""The registered clients: which rows of the data set are whose, and how many of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Population:
    """All registered clients: `label_counts` int64 [num_clients, num_classes] is all the cloud knows of their data."""

    label_counts: NDArray[np.int64]

    @property
    def num_clients(self) -> int:
        """Number of registered clients."""
        return len(self.label_counts)

    @property
    def num_classes(self) -> int:
        """Number of labels, K_c in the paper."""
        return int(self.label_counts.shape[1])

    @cached_property
    def num_samples(self) -> NDArray[np.int64]:
        """Images per client, n_i, int64 [num_clients]."""
        return np.asarray(self.label_counts.sum(axis=1))


@dataclass(frozen=True)
class ClientRows:
    """Which rows of the data set belong to whom, as two arrays: it is handed to every host, and there may be 100,000 clients.

    Attributes:
        offsets: int64 [num_clients + 1]; client c has the rows from offsets[c] to offsets[c + 1].
        rows: int64 [num_images], client by client.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, clients: Sequence[NDArray[np.int64]]) -> "ClientRows":
        """From one array of rows per client."""
        sizes = [len(own) for own in clients]
        return cls(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), np.concatenate(clients))

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> NDArray[np.int64]:
        """The rows of one client."""
        assert 0 <= client < len(self)
        return self.rows[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows per client, int64 [num_clients]."""
        return np.diff(self.offsets)
