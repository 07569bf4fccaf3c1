"""CIFAR-10: the binary version, or the Python version read without running anything that is in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.files import FileData, damaged, missing, read_file
from fedphd_ray.data.unpickling import plain_values
from fedphd_ray.system.files import MIB
from fedphd_ray.system.saying import Say, unheard

PIXELS = 3 * 32 * 32
MOST_BYTES = 256 * MIB
LAYOUT = "data_batch_1.bin to data_batch_5.bin and test_batch.bin (binary version), or the same without .bin (Python version)"
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Cifar10(FileData):
    """60,000 colour images of 32x32 pixels in 10 classes: the unpacked archives of https://www.cs.toronto.edu/~kriz/cifar.html.

    Fewer `data_batch` files than five are read as they are.
    """

    name: Literal["cifar10"]

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """The split's images."""
        paths, read = _batches(Path(self.path), self.split)
        images, labels = zip(*map(read, paths), strict=True)
        return self.dataset("cifar10", np.concatenate(images), np.concatenate(labels), 10, seed)


def _batches(root: Path, split: str) -> tuple[list[Path], Callable[[Path], Batch]]:
    """The files of a split, and how to read one."""
    names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    for folder in (root, *(root / name for name in FOLDERS)):
        for end, read in ((".bin", read_binary), ("", read_python)):
            if paths := [folder / f"{name}{end}" for name in names if (folder / f"{name}{end}").exists()]:
                return paths, read
    raise missing(root, LAYOUT)


def read_binary(path: Path) -> Batch:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N]; a record is a label and the red, green and blue planes."""
    data, record = read_file(path, MOST_BYTES), 1 + PIXELS
    if not data or len(data) % record:
        raise damaged(path, f"records of {record:,} bytes each", f"{len(data):,} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        row = int((labels > 9).argmax())
        raise damaged(path, "labels from 0 to 9", f"label {labels[row]} at byte {row * record:,} (image {row})")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def read_python(path: Path) -> Batch:
    """The same from a pickle, see `unpickling`."""
    expected = "a dictionary with `data`, bytes [N, 3072], and `labels`, N numbers from 0 to 9"
    try:
        tree = plain_values(read_file(path, MOST_BYTES))
        fields = {key.decode("ascii") if isinstance(key, bytes) else key: value for key, value in tree.items()}
        pixels, labels = fields["data"], np.array(fields["labels"])
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
        raise damaged(path, expected, f"no `{error.args[0]}`" if isinstance(error, KeyError) else str(error)) from None
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
        raise damaged(path, expected, f"data of shape {getattr(pixels, 'shape', None)}")
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise damaged(path, expected, f"{labels.dtype} labels of shape {labels.shape} for {len(pixels)} images")
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)
