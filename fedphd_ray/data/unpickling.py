"""Reads a pickle of arrays, lists, dicts, strings and numbers, and nothing else: no function that a file names is ever called.

CIFAR's Python version is published as pickles only. A pickle is a program that names functions to call. Of those, the three that
build an array are answered by classes of this module, which look at what they are given; any other name ends the reading.
"""

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Dtype:
    """Stands for `numpy.dtype`."""

    def __init__(self, kind: object, *_: object) -> None:
        if kind not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of type {kind!r} instead of bytes")

    def __setstate__(self, _: object) -> None:
        """Byte order and the like; bytes have none."""


class _Array:
    """Stands for `numpy.ndarray` while its parts arrive."""

    values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | str):
            raise pickle.UnpicklingError("an array of something else than bytes")
        data = raw if isinstance(raw, bytes) else raw.encode("latin-1")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _new_array(*_: object) -> _Array:
    """Stands for `numpy.core.multiarray._reconstruct`."""
    return _Array()


def _encode(text: str, _: object = None) -> bytes:
    """Stands for `_codecs.encode`: newer Pythons write bytes so where the pickle is old."""
    return text.encode("latin-1")


_ADMITTED = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for."""
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in a data set")
        return _ADMITTED[module, name]


def plain_values(data: bytes) -> Any:
    """What a pickle holds. Strings of Python 2 are bytes.

    Raises:
        ValueError: it is damaged, or holds something else than arrays of bytes, lists, dicts, strings and numbers.
    """
    try:
        return _finished(_Unpickler(io.BytesIO(data), encoding="bytes").load())
    except Exception as error:  # a damaged pickle can fail in any way, and none of them is ours
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _finished(value: Any, depth: int = 0) -> Any:
    """With arrays in the place of what stood for them."""
    if depth > 4:
        raise pickle.UnpicklingError("deeper than a data set is")
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {key: _finished(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finished(inner, depth + 1) for inner in value]
    if isinstance(value, str | bytes | int | float | None):
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__}")
