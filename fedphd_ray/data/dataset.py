"""A data set in memory."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.errors import DataError
from fedphd_ray.tensors import Pixels


@dataclass(frozen=True)
class ImageDataset:
    """Labelled square images.

    Attributes:
        name: for people.
        images: uint8 [N, C, H, W], or float32 of that shape in [-1, 1]. What was read from files is uint8, a quarter of the
            memory, and is scaled where it is used (`tensors.signed`).
        labels: int64 [N] in {0, ..., num_classes - 1}.
        num_classes: number of labels.
        owners: int64 [N] in {0, ...}: whose each image is, where the data says so.
    """

    name: str
    images: Pixels
    labels: NDArray[np.int64]
    num_classes: int
    owners: NDArray[np.int64] | None = None

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
        if images.dtype not in (np.float32, np.uint8):
            remedy = "images.astype(np.float32), after the scaling to [-1, 1]; or uint8 of 0 to 255"
            self._refuse("float32 or uint8", str(images.dtype), remedy)
        if not len(images):
            self._refuse("at least one image", "none", "")
        low, high = (0.0, 0.0) if images.dtype == np.uint8 else (float(images.min()), float(images.max()))
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
    def class_counts(self) -> list[int]:
        """Images of each class."""
        counts: list[int] = np.bincount(self.labels, minlength=self.num_classes).tolist()
        return counts

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
