"""Pictures in folders: one's own, and CelebA."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.encoded import Decoder, Picture
from fedphd_ray.data.files import MOST_PICTURE_BYTES, EncodedData, damaged, find, missing, read_file
from fedphd_ray.errors import DataError
from fedphd_ray.system.files import read_regular
from fedphd_ray.system.saying import Say, unheard

MOST_TEXT_BYTES = 2**28


class _File(NamedTuple):
    """A picture's path, and what the data says of it."""

    path: Path
    label: int
    owner: int = 0


class ImageFolder(EncodedData):
    """A folder per class, with pictures in any format that Pillow reads by itself.

    Classes are numbered in the order of their names. Folders `train` and `test` above those are the splits. A folder without
    folders is one class. Names that begin with a point are passed over, and links to folders are not followed.

    Attributes:
        client_folders: the folders of the first level are clients, those of the second classes.
    """

    name: Literal["image_folder"]
    client_folders: bool = False

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """The split's images."""
        root = Path(self.path)
        if not root.is_dir():
            raise missing(root, "a folder with a folder of pictures for each class")
        if (root / self.split).is_dir():
            root = root / self.split
        clients = _folders(root) if self.client_folders else [root]
        if not clients:
            raise missing(root, "a folder for each client, with a folder of pictures for each class in it (data.client_folders)")
        classes = sorted({folder.name for client in clients for folder in _folders(client)})
        files = [
            _File(path, label, owner)
            for owner, client in enumerate(clients)
            for label, name in enumerate(classes or [""])
            for path in _pictures(client / name)
        ]
        if not files:
            raise missing(root, "a folder with a folder of pictures for each class")
        return _decoded(self, root.name, files, max(1, len(classes)), seed, say, owned=self.client_folders)


class CelebA(EncodedData):
    """Aligned faces; four classes, 2 * Male + Young.

    In the folder: `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt`.
    """

    name: Literal["celeba"]
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = 64

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """The split's images."""
        layout = "img_align_celeba/, list_attr_celeba.txt and list_eval_partition.txt"
        root = Path(self.path)
        pictures, attributes, parts = (
            find(root, [name], layout) for name in ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt")
        )
        if not pictures.is_dir():
            raise missing(pictures, "the folder of the aligned pictures")
        labels, part = _attributes(attributes), {"train": "0", "test": "2"}[self.split]
        files = []
        for number, row in enumerate(_rows(parts), 1):
            if len(row) != 2 or row[1] not in ("0", "1", "2"):
                raise damaged(parts, "a file's name and 0, 1 or 2 in each line", f"line {number}: {' '.join(row)[:80]}")
            if row[0] not in labels:
                raise damaged(attributes, f"attributes of {row[0]}, which line {number} of {parts.name} names", "none")
            if row[1] == part:
                files.append(_File(pictures / Path(row[0]).name, labels[row[0]]))
        if not files:
            raise damaged(parts, f"files of the {self.split} split (marked {part})", "none")
        return _decoded(self, "celeba", files, 4, seed, say)


def _attributes(path: Path) -> dict[str, int]:
    """File name -> class."""
    rows = _rows(path)
    count, names = next(rows, []), next(rows, [])
    if len(count) != 1 or not {"Male", "Young"} <= set(names):
        raise damaged(
            path, "a number, a line of 40 attributes with Male and Young, and a line for each picture", " ".join(names)[:80]
        )
    male, young = (1 + names.index(name) for name in ("Male", "Young"))
    labels = {}
    for number, row in enumerate(rows, 3):
        if len(row) != 1 + len(names) or {row[male], row[young]} - {"1", "-1"}:
            raise damaged(path, f"a name and {len(names)} times 1 or -1", f"line {number}: {' '.join(row)[:80]}")
        labels[row[0]] = 2 * (row[male] == "1") + (row[young] == "1")
    return labels


def _rows(path: Path) -> Iterator[list[str]]:
    text = read_file(path, MOST_TEXT_BYTES)
    try:
        return map(str.split, text.decode().strip().splitlines())
    except UnicodeDecodeError as error:
        raise damaged(path, "text in UTF-8", f"byte {text[error.start]:#04x} at {error.start:,}") from None


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _pictures(folder: Path) -> Iterator[Path]:
    """All files below a folder, in the order of their names. Folders that are links are not entered: no loop is walked."""
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _pictures(Path(entry))
        elif not (entry.is_symlink() and Path(entry).is_dir()):
            yield Path(entry)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What does not hide; nothing for a folder that is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(str(folder), expected="a folder that can be read", found=error.strerror or str(error)) from None


def _decoded(
    data: EncodedData, name: str, files: Sequence[_File], num_classes: int, seed: int, say: Say, *, owned: bool = False
) -> ImageDataset:
    """The chosen ones of the files, from the cache if they are what they were."""
    taken = [files[row] for row in data.chosen(len(files), seed)]
    sha = hashlib.sha256()
    for file in taken:
        content = _content(file.path)
        sha.update(f"{file.label} {file.owner} {content if isinstance(content, str) else len(content)}\n".encode())
        sha.update(content.encode() if isinstance(content, str) else content)
    pictures = (Picture(str(file.path), _content(file.path), file.label, file.owner) for file in taken)
    decoder = Decoder(data.image_size, data.on_error == "skip", say)
    made = decoder.cached(data.path, sha.hexdigest(), len(taken), pictures)
    return ImageDataset(name, made.images, made.labels, num_classes, np.asarray(made.owners) if owned else None)


def _content(path: Path) -> bytes | str:
    """Of a file; or why it has none."""
    try:
        return read_regular(path, MOST_PICTURE_BYTES)
    except OSError as error:
        return error.strerror or str(error)
