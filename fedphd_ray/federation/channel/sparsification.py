"""Codecs that leave values out: top-k and random-k (Stich et al. 2018), and those below a threshold (as sFedHP sends models)."""

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedphd_ray.errors import CodecError
from fedphd_ray.federation.channel.codecs import CHECKSUM_BYTES, Buffer, Noise, opened, sealed
from fedphd_ray.federation.channel.compression import LossyCodec

COUNT_BYTES = 8


class Sparse(LossyCodec):
    """Some values as they are, and nothing of the others.

    Attributes:
        share: of the values that travel; one at least.
    """

    sparse: ClassVar[bool] = True
    share: Annotated[float, Field(gt=0, le=1)] = 0.1

    def num_kept(self, num_values: int) -> int:
        """Values that travel."""
        return min(num_values, max(1, math.ceil(self.share * num_values)))


def largest(values: Tensor, num: int) -> Tensor:
    """Which values are the `num` largest by magnitude, bool; of those that are equally large the first."""
    sizes = values.abs()
    border = torch.kthvalue(sizes, len(sizes) - num + 1).values
    chosen = sizes > border
    chosen[torch.nonzero(sizes == border).flatten()[: num - int(chosen.sum())]] = True
    return chosen


class TopK(Sparse):
    """The largest by magnitude; of those that are equally large, the first. Places are whole numbers or a bitmap, by size."""

    codec: Literal["top_k"]
    name: ClassVar[str] = "top_k"

    def num_bytes(self, num_values: int) -> int:
        """Four for each value, and the places."""
        kept = self.num_kept(num_values)
        return 4 * kept + min(4 * kept, -(-num_values // 8)) + CHECKSUM_BYTES

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """The values in the order of their places."""
        num, kept = values.numel(), self.num_kept(values.numel())
        if not num:
            return sealed(np.empty(0, np.uint8))
        chosen = largest(values, kept)
        places = torch.nonzero(chosen).flatten()
        wide = 4 * kept <= -(-num // 8)
        where = places.to(torch.int32).numpy().view(np.uint8) if wide else np.packbits(chosen.numpy())
        return sealed(where, values[places].numpy().view(np.uint8))

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """Zero where nothing came."""
        body, kept = opened(data, self.num_bytes(num_values), self.name), self.num_kept(num_values)
        values = torch.zeros(num_values)
        if num_values:
            where, own = body[: -4 * kept], body[-4 * kept :].view(np.float32)
            wide = 4 * kept <= -(-num_values // 8)
            places = where.view(np.int32) if wide else np.flatnonzero(np.unpackbits(where, count=num_values))
            values[torch.from_numpy(places.astype(np.int64))] = torch.from_numpy(own.copy())
        return values


class RandomK(Sparse):
    """Values at places that both ends draw from the seed, round and sender: no place travels."""

    codec: Literal["random_k"]
    name: ClassVar[str] = "random_k"

    def num_bytes(self, num_values: int) -> int:
        """Four for each value."""
        return 4 * self.num_kept(num_values) + CHECKSUM_BYTES

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """In the order in which places are drawn."""
        return sealed(values[self._places(values.numel(), noise)].numpy().view(np.uint8))

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """Zero where nothing came."""
        body = opened(data, self.num_bytes(num_values), self.name)
        values = torch.zeros(num_values)
        values[self._places(num_values, noise)] = torch.from_numpy(body.view(np.float32).copy())
        return values

    def _places(self, num_values: int, noise: Noise) -> Tensor:
        return torch.randperm(num_values, generator=noise(1))[: self.num_kept(num_values)]


class Threshold(LossyCodec):
    """Values of which the size is at least `below`, as they are; the others arrive as zero. Models and clients' models are sent.

    How many values travel depends on them: a count comes first, then places, as whole numbers or as a bitmap, whichever is
    smaller, then the values.

    Attributes:
        below: smaller values are zero at the receiver.
    """

    of_weights: ClassVar[bool] = True
    fixed: ClassVar[bool] = False

    codec: Literal["threshold"]
    name: ClassVar[str] = "threshold"
    below: Annotated[float, Field(gt=0, le=1e30)] = 1e-3

    def num_bytes(self, num_values: int) -> int:
        """Where all of them travel, which is the most."""
        return self.bytes_of(num_values, num_values)

    @staticmethod
    def bytes_of(num_values: int, num_kept: int) -> int:
        """Where so many of them travel."""
        return COUNT_BYTES + min(4 * num_kept, -(-num_values // 8)) + 4 * num_kept + CHECKSUM_BYTES

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """The values in the order of their places."""
        chosen = values.abs() >= self.below
        places = torch.nonzero(chosen).flatten()
        wide = 4 * len(places) <= -(-len(values) // 8)
        where = places.to(torch.int32).numpy().view(np.uint8) if wide else np.packbits(chosen.numpy())
        count = np.array([len(places)], np.int64).view(np.uint8)
        return sealed(count, where, values[places].numpy().view(np.uint8))

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """Zero where nothing came."""
        if len(data) < COUNT_BYTES + CHECKSUM_BYTES:
            raise CodecError(f"a message in {self.name} has {len(data)} bytes, not even its count")
        kept = int(data[:COUNT_BYTES].copy().view(np.int64)[0])
        body = opened(data, self.bytes_of(num_values, kept), self.name)[COUNT_BYTES:]
        where, own = body[: len(body) - 4 * kept], body[len(body) - 4 * kept :].view(np.float32)
        wide = 4 * kept <= -(-num_values // 8)
        places = where.view(np.int32) if wide else np.flatnonzero(np.unpackbits(where, count=num_values))
        values = torch.zeros(num_values)
        values[torch.from_numpy(places.astype(np.int64))] = torch.from_numpy(own.copy())
        return values
