"""Files that may come from a stranger: regular files of a sane size, read whole; and writes that follow no link of his."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from fedphd_ray.errors import UserError

MIB = 2**20
BOOK_BYTES = 2**30  # of a file of lines (a million rounds), or of a part of a table


def absolute(path: str) -> str:
    """A path that means the same in every folder, `~` expanded.

    Raises:
        ValueError: it names a user that there is not.
    """
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise ValueError(f"{path}: there is no such user") from None


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file.

    A pipe or a device would be read without an end, a huge (perhaps sparse) file would fill the memory: both are looked at first.

    Raises:
        OSError: there is no such file, it is no regular file, or it is larger than `most_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path.name} is {_kind(status.st_mode)}, not a file")
        if status.st_size > most_bytes:
            raise OSError(f"{path.name} has {status.st_size:,} bytes, more than the {most_bytes:,} that it may have")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(status.st_size)
    finally:
        os.close(descriptor)


def regular(path: Path) -> Path:
    """The path, for libraries that open files themselves: they would wait at a pipe.

    Raises:
        OSError: there is no such file, or it is no regular file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"{path.name} is {_kind(mode)}, not a file")
    return path


def read_book(path: Path) -> bytes:
    """The bytes of a file that a run has written for itself; none where it is missing, which whoever has a seal of it finds.

    Raises:
        UserError: something else lies in its place.
    """
    try:
        return read_regular(path, BOOK_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(
            str(path), expected="a file as a run writes it", found=error.strerror or str(error), remedy="restore it from a copy"
        ) from None


def read_text(path: Path, most_bytes: int) -> str:
    """A text file.

    Raises:
        OSError: see `read_regular`; or it is not UTF-8.
    """
    try:
        return read_regular(path, most_bytes).decode()
    except UnicodeDecodeError as error:
        raise OSError(f"{path.name} is not text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x})") from None


def refuse_links(directory: Path) -> None:
    """Sees that nothing in a directory leads out of it: what is written there must not land elsewhere.

    The directory itself may be a link, or lie behind one: that was its owner's choice.

    Raises:
        UserError: something in it is a symbolic link, or neither file nor folder.
    """
    pending = [directory]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    pending.append(Path(entry.path))
                elif not stat.S_ISREG(mode):
                    raise UserError(
                        str(directory),
                        expected="files and folders only: what is written here must not land elsewhere",
                        found=f"{entry.path} is {_kind(mode)}, not a file",
                        remedy="remove it, if you know what it is",
                    )


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file beside, syncs it and renames it: it is seen whole or not at all, and no link is followed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which then takes the place of whatever lies there: it is seen whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    partial.mkdir(parents=True)
    yield partial
    _remove(path)
    partial.rename(path)


def _remove(path: Path) -> None:
    """A file, a link or a folder; nothing, where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symbolic link"}
    return kinds.get(stat.S_IFMT(mode), "a device")
