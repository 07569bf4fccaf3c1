"""Partitions: which image belongs to which client. Every image belongs to exactly one, and no client is left with nothing.

`split` takes the labels of the images [N], the number of classes and of clients, a generator, and the owners of the images [N]
where the data names some.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from fedphd_ray.errors import DataError
from fedphd_ray.population import ClientRows
from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.settings.sections import Section

Indices = NDArray[np.int64]
Alpha = Annotated[float, Field(ge=1e-3, le=1e6)]  # beyond these a Dirichlet draw is one owner, or even, up to rounding


class PartitionRule(Section):
    """A way to divide the images; its fields are keys of the configuration."""

    def split(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> Sequence[Indices]:
        """Indices of each client; see the module."""
        raise NotImplementedError

    def divide(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> ClientRows:
        """The same, seen to be a partition.

        Raises:
            DataError: an image belongs to nobody or to several, or a client has none.
        """
        parts = [np.sort(np.asarray(part)) for part in self.split(labels, num_classes, num_clients, rng, owners)]
        _require_partition(parts, len(labels), num_clients)
        return ClientRows.of([part.astype(np.int64) for part in parts])


class Iid(PartitionRule):
    """Random shares of (nearly) equal size."""

    name: Literal["iid"] = "iid"

    def split(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> list[Indices]:
        """Indices of each client, sorted; see the module."""
        _enough(len(labels), num_clients, 1)
        return _sorted(np.array_split(rng.permutation(len(labels)), num_clients))


class Classes(PartitionRule):
    """`classes_per_client` classes per client: the paper's label skew.

    Slot s = 0, ..., N k - 1 belongs to client s mod N and holds a part of class floor(s K / (N k)); each class is shuffled and
    cut into as many nearly equal parts as it has slots. For N = 20, k = 2, K = 10 clients 4g to 4g+3 own classes g and g+5.

    Attributes:
        classes_per_client: k.
        by_size: give larger classes more slots, so that clients hold about as many images: of N k slots the share of its images,
            rounded up, and one less for the class with most slots until they are N k (the authors' CelebA).
    """

    name: Literal["classes"] = "classes"
    classes_per_client: PositiveInt = 2
    by_size: bool = False

    def split(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> list[Indices]:
        """Indices of each client, sorted; see the class."""
        key = "data.partition.classes_per_client"
        if self.classes_per_client > num_classes:
            raise DataError(
                key,
                expected=f"at most the {num_classes} classes of the data",
                found=str(self.classes_per_client),
                remedy="give clients fewer classes",
            )
        slots = num_clients * self.classes_per_client
        if slots < num_classes:
            raise DataError(
                key,
                expected=f"at least {-(-num_classes // num_clients)}, so that every one of {num_classes} classes has an owner",
                found=f"{self.classes_per_client} with {num_clients} clients",
                remedy="more clients, or more classes per client",
            )
        class_of = np.arange(slots) * num_classes // slots
        if self.by_size:
            class_of = np.repeat(np.arange(num_classes), _slots_by_size(np.bincount(labels, minlength=num_classes), slots))
        clients: list[list[Indices]] = [[] for _ in range(num_clients)]
        for label in range(num_classes):
            own_slots = np.flatnonzero(class_of == label)
            if not len(own_slots):
                continue  # by size, a class without images has none
            shuffled = rng.permutation(np.flatnonzero(labels == label))
            for slot, part in zip(own_slots, np.array_split(shuffled, len(own_slots)), strict=True):
                clients[slot % num_clients].append(part)
        split = _sorted([np.concatenate(parts) for parts in clients])
        _none_empty(split, "data.num_clients")
        return split


class Dirichlet(PartitionRule):
    """Label skew: each class is divided among the clients by shares ~ Dir(alpha) (Yurochkin et al. 2019, arXiv 1905.12022).

    Attributes:
        alpha: small is skewed, large is even.
        min_images: a client with fewer is given images of the largest clients.
    """

    name: Literal["dirichlet"] = "dirichlet"
    alpha: Alpha = 0.5
    min_images: PositiveInt = 1

    def split(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> list[Indices]:
        """Indices of each client, sorted; see the class."""
        _enough(len(labels), num_clients, self.min_images)
        clients: list[list[Indices]] = [[] for _ in range(num_clients)]
        for label in range(num_classes):
            own = rng.permutation(np.flatnonzero(labels == label))
            for client, part in enumerate(_cut(own, rng.dirichlet(np.full(num_clients, self.alpha)))):
                clients[client].append(part)
        return _fill([np.concatenate(parts) for parts in clients], self.min_images, rng)


class Quantity(PartitionRule):
    """Size skew: clients' shares of all images ~ Dir(alpha), labels as they come.

    Attributes:
        alpha: small is skewed, large is even.
        min_images: a client with fewer is given images of the largest clients.
    """

    name: Literal["quantity"] = "quantity"
    alpha: Alpha = 0.5
    min_images: PositiveInt = 1

    def split(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> list[Indices]:
        """Indices of each client, sorted; see the class."""
        _enough(len(labels), num_clients, self.min_images)
        shares = rng.dirichlet(np.full(num_clients, self.alpha))
        return _fill(_cut(rng.permutation(len(labels)), shares), self.min_images, rng)


class Natural(PartitionRule):
    """Each image belongs to whom the data says: `data.client_column`, `data.client_folders`, or an array `clients`."""

    name: Literal["natural"] = "natural"

    def split(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> list[Indices]:
        """Indices of each client, sorted; see the class."""
        if owners is None:
            raise DataError(
                "data.partition.name",
                expected="data that says whose each image is",
                found="no owners",
                remedy="set data.client_column (parquet) or data.client_folders (image_folder), or add an array clients (npz)",
            )
        known = np.unique(owners)
        if len(known) != num_clients:
            raise DataError(
                "data.num_clients",
                expected=f"{len(known)}: so many own images in this data",
                found=str(num_clients),
                remedy=f"set data.num_clients: {len(known)}",
            )
        return [np.flatnonzero(owners == owner).astype(np.int64) for owner in known]


Simple = Annotated[Iid | Classes | Dirichlet | Quantity, Field(discriminator="name"), OrOwn(PartitionRule)]


class TwoLevel(PartitionRule):
    """One rule across groups of clients (regions, hospitals), and one within each: client c of N is in group floor(c G / N).

    Attributes:
        groups: G.
        across: divides the images among the groups.
        within: divides a group's images among its clients; it knows the classes that the group has.
    """

    name: Literal["two_level"] = "two_level"
    groups: PositiveInt = 2
    across: Simple = Dirichlet()
    within: Simple = Iid()

    def split(
        self, labels: Indices, num_classes: int, num_clients: int, rng: np.random.Generator, owners: Indices | None = None
    ) -> list[Indices]:
        """Indices of each client, sorted; see the class."""
        if self.groups > num_clients:
            raise DataError(
                "data.partition.groups",
                expected=f"at most data.num_clients = {num_clients}: every group has a client",
                found=str(self.groups),
                remedy="fewer groups, or more clients",
            )
        members = np.bincount(np.arange(num_clients) * self.groups // num_clients)
        clients: list[Indices] = []
        for own, size in zip(self.across.split(labels, num_classes, self.groups, rng), members.tolist(), strict=True):
            there, renumbered = np.unique(labels[own], return_inverse=True)
            clients += [own[part] for part in self.within.split(renumbered.astype(np.int64), len(there), size, rng)]
        return clients


Partition = Annotated[
    Iid | Classes | Dirichlet | Quantity | Natural | TwoLevel, Field(discriminator="name"), OrOwn(PartitionRule)
]


def label_counts(labels: Indices, indices: Indices, num_classes: int) -> NDArray[np.int64]:
    """Images per class, int64 [num_classes], among the given ones."""
    return np.bincount(labels[indices], minlength=num_classes).astype(np.int64)


def counts_by_client(labels: Indices, rows: ClientRows, num_classes: int) -> NDArray[np.int64]:
    """Images per client and class, int64 [num_clients, num_classes]."""
    num_clients = len(rows)
    cells = np.repeat(np.arange(num_clients), rows.sizes) * num_classes + labels[rows.rows]
    return np.bincount(cells, minlength=num_clients * num_classes).reshape(num_clients, num_classes).astype(np.int64)


def _slots_by_size(images: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    """Slots of each class [num_classes], by its images."""
    given: NDArray[np.int64] = np.ceil(slots * images / images.sum()).astype(np.int64)
    while given.sum() > slots:
        given[given.argmax()] -= 1
    return given


def _cut(indices: Indices, shares: NDArray[np.float64]) -> list[Indices]:
    """Consecutive pieces whose sizes follow the shares; every index is in one piece."""
    bounds = np.round(np.cumsum(shares[:-1]) * len(indices)).astype(np.int64)
    return np.split(indices, bounds)


def _fill(clients: list[Indices], minimum: int, rng: np.random.Generator) -> list[Indices]:
    """Moves as few random images as the minimum needs, each from the client that is largest at the moment."""
    sizes = np.array([len(client) for client in clients])
    targets = np.maximum(sizes, minimum)
    for _ in range(int((targets - sizes).sum())):
        targets[targets.argmax()] -= 1
    shuffled = [rng.permutation(client) for client in clients]
    spare = rng.permutation(np.concatenate([client[target:] for client, target in zip(shuffled, targets, strict=True)]))
    gifts = np.split(spare, np.cumsum(np.maximum(targets - sizes, 0))[:-1])
    kept = [client[:target] for client, target in zip(shuffled, targets, strict=True)]
    return _sorted([np.concatenate(parts) for parts in zip(kept, gifts, strict=True)])


def _sorted(clients: list[Indices]) -> list[Indices]:
    return [np.sort(client).astype(np.int64) for client in clients]


def _enough(num_images: int, num_clients: int, minimum: int) -> None:
    if num_images < num_clients * minimum:
        raise DataError(
            "data.num_clients",
            expected=f"at most {num_images // minimum} clients for {num_images} images, {minimum} for each at least",
            found=str(num_clients),
            remedy="fewer clients, a smaller min_images, or more data",
        )


def _require_partition(parts: Sequence[NDArray[Any]], num_images: int, num_clients: int) -> None:
    found = ""
    if len(parts) != num_clients:
        found = f"{len(parts)} parts"
    elif any(part.ndim != 1 or part.dtype.kind not in "iu" for part in parts if part.size):
        found = "parts that are no lists of whole numbers"
    elif empty := [str(client) for client, part in enumerate(parts) if not part.size]:
        found = f"nothing for client {', '.join(empty[:10])}"
    elif not np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_images)):
        found = "images that belong to nobody, to several clients, or do not exist"
    if found:
        expected = f"{num_images} images, each with one of {num_clients} clients, and no client without one"
        raise DataError("data.partition", expected=expected, found=found)


def _none_empty(clients: list[Indices], key: str) -> None:
    empty = [str(client) for client, own in enumerate(clients) if not len(own)]
    if empty:
        raise DataError(
            key,
            expected="images for every client",
            found=f"{len(clients)} clients, of whom {', '.join(empty[:10])} would have none",
            remedy="fewer clients, more classes per client, or more data",
        )
