"""What data sets that lie in files have in common: their keys, and what is said where a file is missing or damaged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.decoding import fitted, quietly
from fedphd_ray.data.drift import Drift
from fedphd_ray.data.looks import FeatureSkew
from fedphd_ray.data.mapped import mapped
from fedphd_ray.data.partition import Classes, Partition
from fedphd_ray.errors import ConfigError, DataError
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.settings.sections import Section
from fedphd_ray.system.files import MIB, absolute, read_regular

MOST_FILE_BYTES = 16 * 1024 * MIB
MOST_PICTURE_BYTES = 256 * MIB


class DataConfig(Section):
    """A data set and its division among clients.

    Attributes:
        num_clients: registered clients, N.
        partition: which image belongs to whom.
        feature_skew: how differently clients see their images; null for not at all.
        drift: how what they have changes from round to round; null for not at all.
    """

    num_clients: PositiveInt = 20
    partition: Partition = Classes()
    feature_skew: FeatureSkew | None = None
    drift: Drift | None = None

    @property
    def training(self) -> Self:
        """The images that a network of features may learn from: never those held out."""
        return self

    def of_split(self, split: str) -> Self:
        """The same data set, another share of it.

        Raises:
            DataError: it is not divided so.
        """
        raise DataError(
            "--split", expected="data in files, with a train and a test split", found=f"{split} of data without splits"
        )


class FileData(DataConfig):
    """A data set in files.

    Attributes:
        path: where they lie.
        split: the share of the data that its authors call so.
        image_size: pixels of a side; larger or smaller images are cut to a square and scaled. null takes them as they are.
        limit: so many images, drawn with the run's seed; null for all.
    """

    path: str
    split: Literal["train", "test"] = "train"
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    limit: PositiveInt | None = None

    @property
    def training(self) -> Self:
        """The training split."""
        return self.model_copy(update={"split": "train"})

    def of_split(self, split: str) -> Self:
        """The same data set, another share of it; see `DataConfig.of_split`."""
        if split not in ("train", "test"):
            raise DataError("--split", expected="train or test", found=split)
        return self.model_copy(update={"split": split})

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        """A folder means the same wherever the run goes on from, and is nobody's URI."""
        if path.startswith("/") or "://" in path:
            return path
        try:
            return absolute(path)
        except ValueError as error:
            raise ConfigError("data.path", expected="a file or folder", found=str(error)) from None

    def chosen(self, total: int, seed: int) -> NDArray[np.int64]:
        """The rows that are taken of so many, sorted."""
        if self.limit is None or self.limit >= total:
            return np.arange(total)
        return np.sort(numpy_rng(seed, Purpose.DATASET, 2).choice(total, self.limit, replace=False))

    def dataset(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        num_classes: int,
        seed: int,
        owners: NDArray[np.int64] | None = None,
    ) -> ImageDataset:
        """The chosen ones of all images uint8 [N, C, H, W] of the split, at the size asked for."""
        rows = self.chosen(len(images), seed)
        with quietly():
            made = fitted(np.ascontiguousarray(images[rows]), self.image_size)
        return ImageDataset(name, mapped(made), labels[rows], num_classes, None if owners is None else owners[rows])


class EncodedData(FileData):
    """A data set of pictures that are decoded.

    Attributes:
        on_error: `refuse` the data set if a picture cannot be read, or `skip` it and say how many were.
    """

    on_error: Literal["refuse", "skip"] = "refuse"


def read_file(path: Path, most_bytes: int = MOST_FILE_BYTES) -> bytes:
    """A regular file.

    Raises:
        DataError: it is none, or cannot be read.
    """
    try:
        return read_regular(path, most_bytes)
    except OSError as error:
        found = error.strerror or str(error)
    raise DataError(str(path), expected="a file of the data set", found=found, remedy="see that data.path is right")


def damaged(path: Path | str, expected: str, found: str) -> DataError:
    """A file is not what its format says."""
    return DataError(str(path), expected=expected, found=found, remedy="fetch the file again: it is damaged or of another kind")


def find(root: Path, names: Sequence[str], layout: str) -> Path:
    """The first of some files that lies below a folder, or the folder itself if it is one of them.

    Raises:
        DataError: there is none.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise missing(root, layout)


def missing(root: Path, layout: str) -> DataError:
    """A folder has not the expected layout."""
    try:
        inside = sorted(entry.name for entry in root.iterdir())[:8]
        found = f"in this folder: {', '.join(inside) or 'nothing'}"
    except NotADirectoryError:
        found = "a file"
    except OSError as error:
        found = error.strerror or str(error)
    return DataError(str(root), expected=layout, found=found, remedy="set data.path to the folder that holds them")
