"""How the values of a message are written for a link. Sizes follow from the number of values alone, so they can be planned."""

import zlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.errors import CodecError

Buffer = NDArray[np.uint8]
Noise = Callable[[int], torch.Generator]
"""Random numbers that belong to a message, by the number of a stream: both ends can draw the same."""
CHECKSUM_BYTES = 4


class Codec(Protocol):
    """Writes float32 parameters. It keeps nothing: what it needs to know comes with each call, so that any process can do it."""

    @property
    def name(self) -> str:
        """As the ledger has it."""
        ...

    @property
    def exact(self) -> bool:
        """Whether what arrives is what was sent, bit by bit. It is then handed over as it is."""
        ...

    @property
    def of_weights(self) -> bool:
        """Whether clients' trained models are written, and not how they differ from what was received."""
        ...

    @property
    def fixed(self) -> bool:
        """Whether sizes follow from the number of values."""
        ...

    def num_bytes(self, num_values: int) -> int:
        """What a wire carries for so many parameters: the length of the buffer, or the most it can be where that is not fixed."""
        ...

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """Writes parameters.

        Args:
            values: to send, float32 [num_values] on the CPU, all finite.
            noise: of this message.
        """
        ...

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """What the receiver makes of it [num_values].

        Raises:
            CodecError: the buffer is not what was written.
        """
        ...


class Float32:
    """Four bytes a parameter: both ends know names and shapes from the architecture."""

    name = "float32"
    exact = True
    of_weights = False
    fixed = True

    def num_bytes(self, num_values: int) -> int:
        """Four for each."""
        return 4 * num_values

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """The bytes of the values."""
        return values.contiguous().numpy().view(np.uint8)

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """The values themselves."""
        require_length(data, self.num_bytes(num_values), self.name)
        return torch.from_numpy(data.view(np.float32))


FLOAT32: Codec = Float32()


def require_length(data: Buffer, num_bytes: int, name: str) -> None:
    """Sees that a buffer is whole.

    Raises:
        CodecError: it is not.
    """
    if data.dtype != np.uint8 or data.shape != (num_bytes,):
        raise CodecError(f"a message in {name} has {data.size:,} bytes instead of {num_bytes:,}")


def blank(num_bytes: int) -> Buffer:
    """A buffer to be written to and then sealed."""
    return np.empty(num_bytes, np.uint8)


def seal(data: Buffer) -> Buffer:
    """Writes the checksum of everything before it into the last bytes."""
    body = data[: len(data) - CHECKSUM_BYTES]
    data[len(body) :] = np.frombuffer(zlib.crc32(body.data).to_bytes(CHECKSUM_BYTES, "little"), np.uint8)
    return data


def sealed(*pieces: Buffer) -> Buffer:
    """One buffer of some pieces, with a checksum at its end."""
    data, at = blank(sum(map(len, pieces)) + CHECKSUM_BYTES), 0
    for piece in pieces:
        data[at : at + len(piece)] = piece
        at += len(piece)
    return seal(data)


def opened(data: Buffer, num_bytes: int, name: str) -> Buffer:
    """What was sealed.

    Raises:
        CodecError: it was cut or altered on its way.
    """
    require_length(data, num_bytes, name)
    body = data[:-CHECKSUM_BYTES]
    if zlib.crc32(np.ascontiguousarray(body).data) != int.from_bytes(data[-CHECKSUM_BYTES:].tobytes(), "little"):
        raise CodecError(f"a message in {name} was altered on its way: its checksum is another")
    return body
