"""MNIST and Fashion-MNIST: the idx files that their authors publish, gzipped or not."""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.files import MOST_FILE_BYTES, FileData, damaged, find, read_file
from fedphd_ray.system.saying import Say, unheard

UINT8 = 0x08  # idx's code for unsigned bytes


class IdxData(FileData):
    """28x28 grey images of ten classes in MNIST's files."""

    name: str

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """The split's images."""
        root, stem = Path(self.path), {"train": "train", "test": "t10k"}[self.split]
        images_path, labels_path = (_find(root, f"{stem}-{what}", dims) for what, dims in (("images", 3), ("labels", 1)))
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1).astype(np.int64)
        if len(images) != len(labels):
            raise damaged(labels_path, f"{len(images)} labels, one for each image", f"{len(labels)}")
        if len(labels) and labels.max() > 9:
            row = int((labels > 9).argmax())
            raise damaged(labels_path, "labels from 0 to 9", f"label {labels[row]} of image {row} (byte {8 + row})")
        if not len(images):
            raise damaged(images_path, "at least one image", "none")
        return self.dataset(self.name, images[:, None], labels, 10, seed)


class Mnist(IdxData):
    """Handwritten digits: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and `t10k-...` for the test split."""

    name: Literal["mnist"]


class FashionMnist(IdxData):
    """Clothes."""

    name: Literal["fashion_mnist"]


def read_idx(path: Path, num_dimensions: int) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes.

    Raises:
        DataError: it is no such file, or is cut or too long.
    """
    stream, expected = _opened(path), f"an idx file of bytes in {num_dimensions} dimensions"
    header_bytes = 4 + 4 * num_dimensions
    try:
        header = stream.read(header_bytes)
        if len(header) < header_bytes or header[:4] != bytes([0, 0, UINT8, num_dimensions]):
            raise damaged(path, expected, f"a file that begins with {header[:4].hex(' ') or 'nothing'}")
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
        size = math.prod(shape)
        if size > MOST_FILE_BYTES:
            raise damaged(path, expected, f"one that says to hold {size:,} bytes")
        values = stream.read(size + 1)  # one more shows what is too long; no gzip bomb is opened further
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, expected, f"broken gzip: {error}") from None
    if len(values) != size:
        more = "more" if len(values) > size else f"{len(values):,}"
        raise damaged(path, f"{size:,} bytes after the header, as it says", more)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _opened(path: Path) -> io.BufferedIOBase:
    data = read_file(path)
    return gzip.GzipFile(fileobj=io.BytesIO(data)) if data[:2] == b"\x1f\x8b" else io.BytesIO(data)


def _find(root: Path, stem: str, dims: int) -> Path:
    names = [f"{folder}{stem}{mark}idx{dims}-ubyte{end}" for folder in ("", "raw/") for mark in "-." for end in ("", ".gz")]
    return find(root, names, f"{stem}-idx{dims}-ubyte or {stem}-idx{dims}-ubyte.gz")
