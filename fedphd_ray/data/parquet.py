"""Parquet files in the layout of Hugging Face's data sets, here or in an object store."""

import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.encoded import Decoder, Picture
from fedphd_ray.data.files import EncodedData, damaged, missing
from fedphd_ray.errors import DataError
from fedphd_ray.system.saying import Say, unheard

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")
SPLITS = {"train": ("train",), "test": ("test", "validation", "valid")}
MOST_CLASSES, MOST_GROUP_BYTES, BATCH_ROWS = 100_000, 4 * 2**30, 256


class Parquet(EncodedData):
    """A column of encoded pictures (bytes, or a struct with `bytes`) and a column of labels.

    Attributes:
        path: a file, or a folder of shards, of which those are read whose names begin with the split where any does; here, or
            s3://, gs:// and what else pyarrow knows.
        image_column: null for `image` or `img`.
        label_column: whole numbers from 0, or names, which are numbered in their order; null for `label`, `labels` or
            `fine_label`. A file with none of these is one class.
        client_column: who owns an image, numbers or names; for the partition `natural`.
    """

    name: Literal["parquet"]
    image_column: str | None = None
    label_column: str | None = None
    client_column: str | None = None

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """The split's images."""
        filesystem, paths = _shards(self.path, self.split)
        try:
            return self._load(filesystem, paths, seed, say)
        except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError, OverflowError, MemoryError) as error:
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            raise damaged(self.path, "Parquet files that can be read", said) from None

    def _load(self, filesystem: fs.FileSystem, paths: Sequence[str], seed: int, say: Say) -> ImageDataset:
        columns = self._columns(filesystem, paths[0])
        image, label, client = columns
        for path in paths:
            _require_sane(filesystem, path)
        labels, names = _numbers(self.path, "label", [_column(filesystem, path, label) for path in paths] if label else None)
        owners, _ = _numbers(self.path, "client", [_column(filesystem, path, client) for path in paths] if client else None)
        total = sum(_opened(filesystem, path).metadata.num_rows for path in paths)
        if not total:
            raise damaged(self.path, "at least one image", "no row")
        labels, owners = (np.zeros(total, np.int64) if given is None else given for given in (labels, owners))
        rows = self.chosen(total, seed)
        marks = "".join(_mark(filesystem, path) for path in paths)
        fingerprint = hashlib.sha256(f"{marks} {columns} {rows.tolist() if len(rows) < total else 'all'}".encode()).hexdigest()
        pictures = self._pictures(filesystem, paths, image, rows, labels, owners)
        made = Decoder(self.image_size, self.on_error == "skip", say).cached(self.path, fingerprint, len(rows), pictures)
        classes = _class_names(filesystem, paths[0], label) or names or int(labels.max()) + 1
        return ImageDataset(Path(self.path).stem, made.images, made.labels, classes, made.owners if client else None)

    def _columns(self, filesystem: fs.FileSystem, path: str) -> tuple[str, str | None, str | None]:
        """Names of the columns of images, labels and clients."""
        there = _opened(filesystem, path).schema_arrow.names

        def chosen(key: str, asked: str | None, usual: Sequence[str]) -> str | None:
            if asked is not None and asked not in there:
                raise DataError(f"data.{key}", expected=f"a column of {path}: {', '.join(there)[:200]}", found=asked)
            return asked or next((name for name in usual if name in there), None)

        image = chosen("image_column", self.image_column, IMAGE_COLUMNS)
        if image is None:
            raise DataError(
                "data.image_column",
                expected=f"a column of {path} with pictures",
                found=f"none is called {' or '.join(IMAGE_COLUMNS)}; there are {', '.join(there)[:200]}",
                remedy="set data.image_column",
            )
        return image, chosen("label_column", self.label_column, LABEL_COLUMNS), chosen("client_column", self.client_column, ())

    def _pictures(
        self,
        filesystem: fs.FileSystem,
        paths: Sequence[str],
        column: str,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        owners: NDArray[np.int64],
    ) -> Iterator[Picture]:
        """Those of the chosen rows, a few hundred in memory at a time."""
        wanted, row = np.zeros(len(labels), bool), 0
        wanted[rows] = True
        for path in paths:
            first = row
            for batch in _opened(filesystem, path).iter_batches(BATCH_ROWS, columns=[column]):
                for value in batch.column(0):
                    if wanted[row]:
                        yield Picture(f"{path}, row {row - first}", _bytes(value), int(labels[row]), int(owners[row]))
                    row += 1


def _shards(where: str, split: str) -> tuple[fs.FileSystem, list[str]]:
    """The files of a split and the file system they are on."""
    if "://" not in where:
        path = Path(where)
        filesystem: fs.FileSystem = fs.LocalFileSystem()
        if path.exists() and not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
            raise DataError(where, expected="a Parquet file or a folder of them", found="neither file nor folder")
        root = str(path)
    else:
        try:
            filesystem, root = fs.FileSystem.from_uri(where)
        except (pa.ArrowException, OSError, ValueError) as error:
            said = str(error).strip().partition("\n")[0]
            raise DataError("data.path", expected="a path or a URI that pyarrow knows (s3://, gs://)", found=said) from None
    try:
        kind = filesystem.get_file_info(root).type
        inside = filesystem.get_file_info(fs.FileSelector(root, recursive=True)) if kind == fs.FileType.Directory else []
    except (pa.ArrowException, OSError) as error:
        said = str(error).strip().partition("\n")[0]
        raise DataError(where, expected="a Parquet file or a folder of them", found=said) from None
    if kind == fs.FileType.File:
        return filesystem, [root]
    shards = sorted(info.path for info in inside if info.is_file and info.path.endswith(".parquet"))
    known = {name: [path for path in shards if _begins(path, root, words)] for name, words in SPLITS.items()}
    shards = known[split] if any(known.values()) else shards
    if not shards:
        raise missing(Path(where), f"Parquet files (.parquet) of the {split} split")
    return filesystem, shards


def _begins(path: str, root: str, words: Sequence[str]) -> bool:
    """Whether a file, or a folder on the way to it, is called by one of some words."""
    return any(part.startswith(tuple(words)) for part in path.removeprefix(root).strip("/").split("/"))


def _opened(filesystem: fs.FileSystem, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(filesystem.open_input_file(path))


def _require_sane(filesystem: fs.FileSystem, path: str) -> None:
    """A few bytes that say to hold terabytes are not opened further."""
    metadata = _opened(filesystem, path).metadata
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if not 0 <= size <= MOST_GROUP_BYTES:
            raise damaged(path, f"row groups of at most {MOST_GROUP_BYTES:,} bytes", f"one of {size:,} bytes")


def _column(filesystem: fs.FileSystem, path: str, name: str) -> pa.ChunkedArray:
    return pq.read_table(path, filesystem=filesystem, columns=[name], partitioning=None).column(0)


def _mark(filesystem: fs.FileSystem, path: str) -> str:
    """Tells a file from others: by its content here, by size and time in an object store, where reading it twice costs."""
    info = filesystem.get_file_info(path)
    if not isinstance(filesystem, fs.LocalFileSystem):
        return f"{filesystem.type_name} {path} {info.size} {info.mtime_ns}"
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _numbers(path: str, what: str, chunks: Sequence[pa.ChunkedArray] | None) -> tuple[NDArray[np.int64] | None, int]:
    """A column as int64 [N] from 0, and the number of names where it holds names."""
    if chunks is None:
        return None, 0
    column = pa.chunked_array([part for chunk in chunks for part in chunk.chunks], type=chunks[0].type)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise damaged(path, f"a {what} in every row", f"none in row {row}")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        names, numbers = np.unique(np.array(column.to_pylist()), return_inverse=True)
        return numbers.astype(np.int64), len(names)
    if not pa.types.is_integer(kind) and not pa.types.is_boolean(kind):
        raise damaged(path, f"a {what} that is a whole number or a name", str(kind))
    numbers = column.to_numpy().astype(np.int64)
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= MOST_CLASSES):
        row = int(((numbers < 0) | (numbers >= MOST_CLASSES)).argmax())
        raise damaged(path, f"a {what} from 0 to {MOST_CLASSES - 1:,}", f"{numbers[row]} in row {row}")
    return numbers, 0


def _class_names(filesystem: fs.FileSystem, path: str, label: str | None) -> int:
    """How many classes the data set's own description names; 0 if it has none."""
    described = (_opened(filesystem, path).schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        names: Any = json.loads(described)["info"]["features"][label]["names"]
        return len(names) if isinstance(names, list) else 0
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _bytes(value: pa.Scalar) -> bytes | str:
    """A picture's bytes, or why there are none."""
    held = value.as_py()
    inner = held.get("bytes") if isinstance(held, dict) else held
    if isinstance(inner, bytes):
        return inner
    return "no picture in this row" if inner is None else f"a {type(inner).__name__} instead of a picture"
