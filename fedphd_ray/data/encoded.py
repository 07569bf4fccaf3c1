"""Pictures that are decoded once: in threads, in order, with progress, and kept in the cache by their content."""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fedphd_ray.data.decoding import decode, quietly
from fedphd_ray.data.mapped import map_tensor
from fedphd_ray.errors import DataError
from fedphd_ray.system.cache import default_cache_dir, write_cached
from fedphd_ray.system.files import regular
from fedphd_ray.system.saying import Say

RECIPE = 1
"""Version of the rules of `decoding`: part of the cache's key."""
AT_ONCE, SECONDS_BETWEEN_WORDS = 256, 5.0


class Picture(NamedTuple):
    """One encoded picture.

    Attributes:
        name: of its file, or its row, for messages.
        data: its bytes, or what is wrong with it.
        label: of its class.
        owner: whose it is; 0 where nothing is said.
    """

    name: str
    data: bytes | str
    label: int
    owner: int = 0


class Decoded(NamedTuple):
    """Images uint8 [N, C, S, S], labels and owners int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    owners: NDArray[np.int64]


@dataclass(frozen=True)
class Decoder:
    """How pictures become pixels.

    Attributes:
        size: of a side; None leaves the pictures as they are, which must all be equal squares.
        skip: leave out what cannot be read, and say how much that was, instead of refusing.
        say: told the progress.
    """

    size: int | None
    skip: bool
    say: Say

    def cached(self, where: str, fingerprint: str, total: int, pictures: Iterable[Picture]) -> Decoded:
        """All pictures, decoded now or in an earlier run.

        Args:
            where: the data set's path, for messages.
            fingerprint: of the pictures' bytes and labels, and of which are taken.
            total: how many there are.
            pictures: in order; not looked at where the cache has them.

        Raises:
            DataError: one cannot be read, or none is left.
        """
        key = hashlib.sha256(f"{RECIPE} {self.size} {self.skip} {fingerprint}".encode()).hexdigest()[:32]
        path = default_cache_dir() / f"pixels-{key}.safetensors"
        if (known := _read(path)) is not None:
            if len(known.images) < total:
                self.say(
                    f"warning: {total - len(known.images):,} of {total:,} images in {where} are left out: they cannot be read"
                )
            return known
        decoded = self._decode(where, total, pictures)
        write_cached(path, safetensors.numpy.save(decoded._asdict()))
        return _read(path) or decoded

    def _decode(self, where: str, total: int, pictures: Iterable[Picture]) -> Decoded:
        canvas, taken, left_out = _Canvas(total), list[Picture](), list[str]()
        spoken = time.monotonic()
        with quietly():
            for done, (picture, pixels) in enumerate(self._in_threads(pictures)):
                if time.monotonic() - spoken > SECONDS_BETWEEN_WORDS:
                    self.say(f"decoding {where}: {done:,} of {total:,} images")
                    spoken = time.monotonic()
                problem = pixels if isinstance(pixels, str) else canvas.add(pixels)
                if not problem:
                    taken.append(picture._replace(data=b""))
                elif self.skip:
                    left_out.append(f"{picture.name}: {problem}")
                else:
                    raise _unreadable(picture.name, problem)
        if not taken:
            raise _unreadable(where, f"none of {total:,} can be read: {left_out[0]}" if left_out else "no image")
        if left_out:
            self.say(f"warning: {len(left_out):,} of {total:,} images in {where} are left out: {'; '.join(left_out[:3])}")
        labels, owners = (np.array([each[at] for each in taken], np.int64) for at in (2, 3))
        return Decoded(canvas.images, labels, owners)

    def _in_threads(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, NDArray[np.uint8] | str]]:
        """In their order, a few hundred at a time: Pillow lets go of the interpreter while it decodes."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = iter(pictures)
            while some := list(islice(waiting, AT_ONCE)):
                yield from zip(some, pool.map(self._pixels, some), strict=True)

    def _pixels(self, picture: Picture) -> NDArray[np.uint8] | str:
        if isinstance(picture.data, str):
            return picture.data
        try:
            return decode(picture.data, self.size)
        except ValueError as error:
            return str(error)


class _Canvas:
    """Grows channels when the first colour comes after grey: then grey is three equal channels."""

    def __init__(self, total: int) -> None:
        self._total, self._count = total, 0
        self._array = np.empty((0, 0, 0, 0), np.uint8)

    def add(self, pixels: NDArray[np.uint8]) -> str:
        """One more; what is wrong with it, if it does not fit."""
        channels, size, _ = pixels.shape
        if not self._count:
            self._array = np.empty((self._total, channels, size, size), np.uint8)
        if size != self._array.shape[-1]:
            own = self._array.shape[-1]
            return f"{size} x {size} pixels beside others of {own} x {own}, and data.image_size is not set"
        if channels > self._array.shape[1]:
            self._array = np.repeat(self._array, channels, axis=1)
        self._array[self._count] = pixels
        self._count += 1
        return ""

    @property
    def images(self) -> NDArray[np.uint8]:
        """Those added, [N, C, S, S]."""
        return self._array[: self._count]


def _unreadable(where: str, problem: str) -> DataError:
    remedy = "set data.image_size" if "data.image_size" in problem else "remove it, or leave such images out: data.on_error: skip"
    return DataError(where, expected="an image that can be read", found=problem, remedy=remedy)


def _read(path: Path) -> Decoded | None:
    """What the cache has; None if it is not there or not whole."""
    try:
        with safetensors.safe_open(regular(path), "np") as file:
            labels, owners = file.get_tensor("labels"), file.get_tensor("owners")
    except (OSError, SafetensorError):
        return None
    images = map_tensor(path, "images")
    return None if images is None else Decoded(images, labels, owners)
