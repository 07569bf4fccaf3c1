"""NumPy archives, in the layout of MedMNIST."""

import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.files import MOST_FILE_BYTES, FileData, damaged, read_file
from fedphd_ray.errors import DataError
from fedphd_ray.system.files import MIB
from fedphd_ray.system.saying import Say, unheard

MOST_EXPANSION, SMALL = 100, 64 * MIB
"""An archive that grows more than so many times, beyond a small size, holds no pictures."""
MOST_CLASSES = 100_000


class Npz(FileData):
    """Arrays `images` and `labels`, or `train_images`, `train_labels`, `test_images`, ... (MedMNIST's layout).

    Images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]; labels [N] or [N, 1], whole numbers from 0. An array `clients` (or
    `train_clients`) says whose each image is.
    """

    name: Literal["npz"]

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """The split's images."""
        path = Path(self.path)
        arrays = _arrays(path, self.split)
        images, labels = _images(path, arrays["images"]), _whole_numbers(path, "labels", arrays["labels"])
        owners = _whole_numbers(path, "clients", arrays["clients"]) if "clients" in arrays else None
        for name, column in (("labels", labels), ("clients", owners)):
            if column is not None and len(column) != len(images):
                raise damaged(path, f"as many {name} as images, {len(images):,}", f"{len(column):,}")
        return self.dataset(path.stem, images, labels, int(labels.max()) + 1, seed, owners)


def _arrays(path: Path, split: str) -> dict[str, NDArray[np.generic]]:
    """The arrays that are asked for, by their names without the split."""
    data = read_file(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            entries = {name: inside.get(f"{split}_{name}", inside.get(name)) for name in ("images", "labels", "clients")}
            arrays = {name: _array(archive, entry) for name, entry in entries.items() if entry is not None}
    except Exception as error:  # zip, its decompressors and NumPy's header each have errors of their own
        raise damaged(path, "a NumPy archive (.npz)", str(error) or type(error).__name__) from None
    if lacking := {"images", "labels"} - set(arrays):
        raise DataError(
            str(path),
            expected=f"arrays {split}_images and {split}_labels, or images and labels",
            found=f"no {' and no '.join(sorted(lacking))} among {', '.join(sorted(inside)[:8]) or 'nothing'}",
            remedy="name the arrays so, or set data.split",
        )
    return arrays


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[np.generic]:
    size = entry.file_size
    if size > MOST_FILE_BYTES or (size > SMALL and size > MOST_EXPANSION * max(1, entry.compress_size)):
        raise ValueError(f"{entry.filename} would grow from {entry.compress_size:,} bytes to {size:,}")
    with archive.open(entry) as file:
        content = io.BytesIO(file.read(size + 1))
    array: NDArray[np.generic] = np.lib.format.read_array(content, allow_pickle=False)
    return array


def _images(path: Path, images: NDArray[np.generic]) -> NDArray[np.uint8]:
    """As [N, C, H, W]."""
    expected = "images uint8 [N, H, W], [N, H, W, 3] or [N, 3, H, W]"
    if images.dtype != np.uint8 or not images.size:
        raise damaged(path, expected, f"{images.dtype} {images.shape}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise damaged(path, expected, f"shape {images.shape}")
    return images.astype(np.uint8, copy=False)


def _whole_numbers(path: Path, name: str, values: NDArray[np.generic]) -> NDArray[np.int64]:
    """As int64 [N]."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iub" or not len(values):
        raise damaged(path, f"{name} [N] or [N, 1] of whole numbers", f"{values.dtype} {values.shape}")
    numbers = values.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= MOST_CLASSES:
        row = int(((numbers < 0) | (numbers >= MOST_CLASSES)).argmax())
        raise damaged(path, f"{name} from 0 to {MOST_CLASSES - 1:,}", f"{values[row]} in row {row}")
    return numbers
