"""A codec's buffer, compressed without loss (Zstandard, RFC 8878): sizes then depend on the values."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from fedphd_ray.errors import CodecError
from fedphd_ray.federation.channel.codecs import Buffer, Noise
from fedphd_ray.federation.channel.compression import LossyCodec

_AS_IT_IS, _SQUEEZED = 0, 1
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Squeezed:
    """Another codec with Zstandard on top. A first byte says whether that made the buffer smaller; where not, it goes as it is.

    Attributes:
        inner: writes the buffer.
    """

    inner: LossyCodec
    exact: ClassVar[bool] = False
    fixed: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """As the ledger has it."""
        return f"{self.inner.name}+zstd"

    @property
    def of_weights(self) -> bool:
        """See `Codec`."""
        return self.inner.of_weights

    @property
    def error_feedback(self) -> bool:
        """Whether senders keep what is left out."""
        return self.inner.error_feedback

    def num_bytes(self, num_values: int) -> int:
        """The most there can be."""
        return 1 + self.inner.num_bytes(num_values)

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """What the other codec writes, in fewer bytes where that is possible."""
        data = self.inner.encode(values, noise)
        small = np.frombuffer(pa.compress(np.ascontiguousarray(data).data, codec="zstd", asbytes=True), np.uint8)
        if _LENGTH_BYTES + len(small) >= len(data):
            return np.concatenate([np.array([_AS_IT_IS], np.uint8), data])
        length = np.frombuffer(len(data).to_bytes(_LENGTH_BYTES, "little"), np.uint8)
        return np.concatenate([np.array([_SQUEEZED], np.uint8), length, small])

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """What the other codec makes of it.

        Raises:
            CodecError: the buffer is not what was written.
        """
        if data.dtype != np.uint8 or data.ndim != 1 or not len(data) or data[0] not in (_AS_IT_IS, _SQUEEZED):
            raise CodecError(f"a message in {self.name} does not begin as one")
        if data[0] == _AS_IT_IS:
            return self.inner.decode(data[1:], num_values, noise)
        length = int.from_bytes(data[1 : 1 + _LENGTH_BYTES].tobytes(), "little")
        if length > self.inner.num_bytes(num_values):
            raise CodecError(f"a message in {self.name} would have {length:,} bytes, more than there can be")
        try:
            whole = pa.decompress(data[1 + _LENGTH_BYTES :].tobytes(), decompressed_size=length, codec="zstd", asbytes=True)
        except (pa.ArrowException, OSError) as error:
            raise CodecError(f"a message in {self.name} was altered on its way: {error}") from error
        return self.inner.decode(np.frombuffer(whole, np.uint8), num_values, noise)
