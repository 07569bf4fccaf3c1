"""Where checkpoints lie: a folder, or any file system that pyarrow knows (s3://, gs://, hdfs://)."""

import os
import shutil
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import fs

from fedphd_ray.errors import UserError
from fedphd_ray.system.files import read_regular, refuse_links, write_whole


class Storage(Protocol):
    """Named bytes in folders of one level. A write is seen whole or not at all, whenever the writer dies."""

    def write(self, name: str, data: bytes) -> None:
        """Writes `folder/file`; safe on disk when this returns."""

    def read(self, name: str, most_bytes: int) -> bytes:
        """The bytes of `folder/file`.

        Raises:
            OSError: there is no such file, it cannot be read, or it is larger than it may be.
        """

    def names(self, folder: str = "") -> list[str]:
        """Files and folders in a folder, sorted; none if there is no such folder."""

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; one that is not there is removed already."""


class LocalStorage:
    """A folder on this machine (or mounted here).

    Args:
        root: made with the first write.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def write(self, name: str, data: bytes) -> None:
        """Beside, synced, renamed."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        _sync_folder(path.parent)
        _sync_folder(path.parent.parent)

    def read(self, name: str, most_bytes: int) -> bytes:
        """The file."""
        return read_regular(self._root / name, most_bytes)

    def names(self, folder: str = "") -> list[str]:
        """Without what a writer left that died."""
        path = self._root / folder
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(".")) if path.is_dir() else []

    def remove(self, name: str) -> None:
        """A file or a folder."""
        path = self._root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class ArrowStorage:
    """A folder of a pyarrow file system. Object stores show an object when its upload is complete, which makes writes whole.

    Args:
        filesystem: which.
        root: path in it.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return f"{self._fs.type_name}:{self._root}"

    def write(self, name: str, data: bytes) -> None:
        """One object."""
        path = f"{self._root}/{name}"
        self._fs.create_dir(path.rpartition("/")[0], recursive=True)
        with self._fs.open_output_stream(path) as stream:
            stream.write(data)

    def read(self, name: str, most_bytes: int) -> bytes:
        """One object."""
        path = f"{self._root}/{name}"
        size = self._fs.get_file_info(path).size
        if size is not None and size > most_bytes:
            raise OSError(f"{path} has {size:,} bytes, more than the {most_bytes:,} that it may have")
        with self._fs.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data

    def names(self, folder: str = "") -> list[str]:
        """Objects and prefixes."""
        selector = fs.FileSelector(f"{self._root}/{folder}".rstrip("/"), allow_not_found=True)
        return sorted(info.base_name for info in self._fs.get_file_info(selector))

    def remove(self, name: str) -> None:
        """An object, or all below a prefix."""
        path = f"{self._root}/{name}"
        kind = self._fs.get_file_info(path).type
        if kind == fs.FileType.Directory:
            self._fs.delete_dir(path)
        elif kind == fs.FileType.File:
            self._fs.delete_file(path)


def open_storage(where: str) -> LocalStorage | ArrowStorage:
    """A path, or a URI of a file system that pyarrow knows.

    Raises:
        UserError: there is no such file system, or it does not let us in.
    """
    scheme, separator, _ = where.partition("://")
    if not separator:
        return _local(Path(where))
    try:
        filesystem, root = fs.FileSystem.from_uri(where)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            "checkpoint.path",
            expected="a path, or a URI of a file system that pyarrow knows (s3://, gs://, hdfs://, file://)",
            found=f"{where}: {str(error).strip().partition(chr(10))[0]}",
        ) from error
    return _local(Path(root)) if scheme == "file" else ArrowStorage(filesystem, root)


def _local(root: Path) -> LocalStorage:
    """A folder in which nothing leads elsewhere: old checkpoints are removed there."""
    if root.is_dir():
        refuse_links(root)
    return LocalStorage(root)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
