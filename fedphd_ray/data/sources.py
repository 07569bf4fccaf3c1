"""Data sets. Each is its own configuration, and loads without a network."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from sklearn.datasets import load_digits

from fedphd_ray.data.partition import Classes, Partition
from fedphd_ray.data.shapes import draw_shapes
from fedphd_ray.errors import DataError
from fedphd_ray.sections import Section


@dataclass(frozen=True)
class ImageDataset:
    """Labelled square images.

    Attributes:
        name: for people.
        images: float32 [N, C, H, W] in [-1, 1].
        labels: int64 [N] in {0, ..., num_classes - 1}.
        num_classes: number of labels.
    """

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    num_classes: int

    def __post_init__(self) -> None:
        """Looks at what the user gives.

        Raises:
            DataError: the images or labels are of another form.
        """
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
            remedy = (
                "transpose the channels to the second place: images.transpose(0, 3, 1, 2)" if images.shape[-1] in (1, 3) else ""
            )
            self._refuse("square images [N, C, H, W] with C of 1 or 3", f"shape {images.shape}", remedy)
        if images.dtype != np.float32:
            self._refuse("float32", str(images.dtype), "images.astype(np.float32), after the scaling to [-1, 1]")
        if not len(images):
            self._refuse("at least one image", "none", "")
        low, high = float(images.min()), float(images.max())
        if not (low >= -1.001 and high <= 1.001):  # not a number is neither
            self._refuse(
                "values in [-1, 1]", f"{low:g} to {high:g}", "for 0 to 255: images / 127.5 - 1; for 0 to 1: images * 2 - 1"
            )
        if labels.shape != (len(images),) or labels.dtype != np.int64:
            self._refuse("labels int64 [N]", f"{labels.dtype} {labels.shape} for {len(images)} images", "labels.astype(np.int64)")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            found = f"{labels.min()} to {labels.max()}"
            self._refuse(f"labels from 0 to {self.num_classes - 1}", found, "count classes from 0, or set num_classes")

    def _refuse(self, expected: str, found: str, remedy: str) -> NoReturn:
        raise DataError(f"data set {self.name!r}", expected=expected, found=found, remedy=remedy)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(self.images.shape[2])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return int(self.images.shape[1])

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over shape, images and labels; the name plays no part."""
        sha = hashlib.sha256(str((self.images.shape, self.num_classes)).encode())
        for array in (self.images, self.labels):
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


class DataConfig(Section):
    """A data set and its division among clients.

    Attributes:
        num_clients: registered clients, N.
        partition: which image belongs to whom.
    """

    num_clients: PositiveInt = 20
    partition: Partition = Classes()


class Digits(DataConfig):
    """scikit-learn's digits: 1,797 real handwritten digits of 8x8 grey pixels (from the UCI optical recognition data set)."""

    name: Literal["digits"] = "digits"

    def load(self, seed: int) -> ImageDataset:
        """All images; the seed plays no part."""
        digits = load_digits()
        images = (digits.images / 8.0 - 1.0).astype(np.float32)[:, None]
        return ImageDataset("digits", images, digits.target.astype(np.int64), 10)


class Shapes(DataConfig):
    """Procedural colour images for scale tests: a class is a shape and a hue; place, size, angle and brightness vary.

    Attributes:
        num_images: N.
        num_classes: labels, as evenly filled as can be.
        image_size: pixels of a side.
    """

    name: Literal["shapes"]
    num_images: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    num_classes: Annotated[int, Field(ge=1, le=1000)] = 10
    image_size: Annotated[int, Field(ge=8, le=128)] = 16

    def load(self, seed: int) -> ImageDataset:
        """Draws the images; the same seed draws the same ones."""
        images, labels = draw_shapes(self.num_images, self.num_classes, self.image_size, seed)
        return ImageDataset("shapes", images, labels, self.num_classes)


DataSource = Annotated[Digits | Shapes, Field(discriminator="name")]
