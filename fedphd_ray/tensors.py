"""Arithmetic on model states.

A `State` maps parameter names to tensors. On every hot path a state is one flat float32 vector with a `Layout` that says which
slice is which parameter: aggregation, payloads, optimisers and digests are then single operations on one buffer.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 2**17  # float32: 512 KiB

Pixels = NDArray[np.float32] | NDArray[np.uint8]
State = Mapping[str, Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parameters in one flat vector, in order.

    Convolution weights lie channels last, their input channels beside one another: convolutions read and write them fastest so.
    Names never change under pruning; shapes do. `num_params` is the length of the vector.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, state: State) -> "Layout":
        """The layout of a state, in the state's own order."""
        return cls(tuple(state), tuple(tuple(value.shape) for value in state.values()))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Start of each parameter, and the total length last."""
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self.shapes]
        return tuple(int(offset) for offset in np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))

    @property
    def num_params(self) -> int:
        """Number of scalars in the vector."""
        return self.offsets[-1]

    @property
    def by_name(self) -> dict[str, Shape]:
        """Parameter name -> shape."""
        return dict(zip(self.names, self.shapes, strict=True))

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """The parameters as views into `vector` [num_params]; nothing is copied."""
        assert vector.numel() == self.num_params, f"vector of {vector.numel()} for a layout of {self.num_params}"
        pieces = vector.split([end - start for start, end in pairwise(self.offsets)])
        return {name: _channels_first(piece, shape) for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)}

    def flatten(self, state: State, dtype: torch.dtype = torch.float32) -> Tensor:
        """A new vector [num_params] with a copy of the state."""
        assert tuple(state) == self.names, "the state's names or their order differ from the layout's"
        return torch.cat([_channels_last(state[name].detach()).to(dtype) for name in self.names])


def _channels_first(flat: Tensor, shape: Shape) -> Tensor:
    """A parameter's view of its piece of the vector."""
    if len(shape) != 4:
        return flat.view(shape)
    out_channels, in_channels, height, width = shape
    return flat.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)


def _channels_last(parameter: Tensor) -> Tensor:
    """A parameter as its piece of the vector."""
    return (parameter.permute(0, 2, 3, 1) if parameter.dim() == 4 else parameter).reshape(-1)


def split(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Vectors of one length, piece by piece: pieces fit into a processor's cache, so that several operations read memory once.

    Elementwise operations give the same bits in pieces as at once. On another device there is one piece.
    """
    size = CHUNK if vectors[0].device.type == "cpu" else max(1, len(vectors[0]))
    return zip(*(vector.split(size) for vector in vectors), strict=True)


def new(num_values: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A new vector on the CPU, whose values mean nothing.

    From NumPy's memory: it asks the system for huge pages where a vector has some megabytes, and torch does not. Without them
    page faults are two thirds of the time of an operation that writes 143 MB for the first time.
    """
    return torch.from_numpy(np.empty(num_values, torch.empty(0, dtype=dtype).numpy().dtype))


def new_like(vector: Tensor) -> Tensor:
    """A new vector of the same length, type and device, whose values mean nothing."""
    return new(len(vector), vector.dtype) if vector.device.type == "cpu" else torch.empty_like(vector)


def digest(state: State) -> str:
    """SHA-256 over names, shapes and little-endian float32 bytes, in the order of the names: the identity of a model."""
    sha = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().to("cpu", torch.float32).contiguous()
        sha.update(f"{name}:{tuple(value.shape)}:".encode())
        sha.update(value.numpy().astype("<f4", copy=False).tobytes())
    return sha.hexdigest()


def as_numpy(vector: Tensor) -> np.ndarray:
    """The vector's memory as a NumPy array, for the object store (no copy on the CPU)."""
    return vector.detach().cpu().numpy()


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over a NumPy array, which may be read-only: read from it, copy what is kept, never write into it."""
    with warnings.catch_warnings():
        # Object-store memory is read-only, which torch cannot express and warns of; the rule above is what keeps it safe.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def signed(images: Tensor) -> Tensor:
    """Images as the network takes them, float32 in [-1, 1]: of uint8 they are scaled, others are so already."""
    return images.float().div_(127.5).sub_(1.0) if images.dtype == torch.uint8 else images
