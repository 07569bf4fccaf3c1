"""Codecs that write every value with fewer bits. Each is a true round trip: the receiver has what was written, and the ledger
the buffer's length.

Quantisation follows QSGD and FedDM-quant: affine levels, stochastic rounding keyed by the seed.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedphd_ray.federation.channel.codecs import CHECKSUM_BYTES, Buffer, Noise, blank, opened, seal
from fedphd_ray.settings.sections import Section
from fedphd_ray.tensors import as_tensor, new, split

BLOCK = 512
"""Values that share a scale and an offset: 8 bytes for each block, so that int8 takes 3.94 times fewer bytes than float32."""
CHUNK_BLOCKS = 128
"""Blocks that are worked on at once: a quarter of a MiB, which stays in a core's cache."""
LARGEST_SCALE = 1e36


class LossyCodec(Section):
    """What they have in common.

    Attributes:
        sparse: most values do not travel at all, so that only differences can be sent.
        of_weights: it writes what a client has trained, and not how that differs from what it received.
        fixed: sizes follow from the number of values; else that gives the most they can be.
        error_feedback: senders keep what their messages leave out, and add it to the next.
        zstd: the buffer is compressed without loss; sizes then depend on the values.
    """

    exact: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    of_weights: ClassVar[bool] = False
    fixed: ClassVar[bool] = True

    error_feedback: bool = False
    zstd: bool = False

    @property
    def name(self) -> str:
        """As the ledger has it."""
        raise NotImplementedError

    def num_bytes(self, num_values: int) -> int:
        """See `Codec`."""
        raise NotImplementedError

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """See `Codec`."""
        raise NotImplementedError

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """See `Codec`."""
        raise NotImplementedError


class Halves(LossyCodec):
    """Two bytes a parameter, to the nearest; what would overflow becomes the largest there is."""

    dtype: ClassVar[torch.dtype]
    name: ClassVar[str]

    def num_bytes(self, num_values: int) -> int:
        """Two for each."""
        return 2 * num_values + CHECKSUM_BYTES

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """Piece by piece, as they fit into a cache."""
        data, largest = blank(self.num_bytes(values.numel())), torch.finfo(self.dtype).max
        halves = torch.from_numpy(data[:-CHECKSUM_BYTES].view(np.int16)).view(self.dtype)
        for piece, out in split(values, halves):
            out.copy_(piece.clamp(-largest, largest))
        return seal(data)

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """As float32."""
        body = opened(data, self.num_bytes(num_values), self.name)
        return new(num_values).copy_(as_tensor(body.view(np.int16)).view(self.dtype))


class Bfloat16(Halves):
    """The range of float32: a relative error of at most 2^-8."""

    codec: Literal["bfloat16"]
    name: ClassVar[str] = "bfloat16"
    dtype: ClassVar[torch.dtype] = torch.bfloat16


class Float16(Halves):
    """A relative error of at most 2^-11 between 6.1e-5 and 65,504; what is larger becomes 65,504."""

    codec: Literal["float16"]
    name: ClassVar[str] = "float16"
    dtype: ClassVar[torch.dtype] = torch.float16


class Affine(LossyCodec):
    """Whole numbers on a grid between the smallest and the largest value of each block.

    A value is off by at most half a step of its block with `nearest`, and by less than a step with `stochastic`, which rounds up
    with a probability so that the mean is right.

    Attributes:
        rounding: `nearest`, or `stochastic` by random numbers keyed by seed, round and sender.
    """

    bits: ClassVar[int]
    rounding: Literal["nearest", "stochastic"] = "nearest"

    @property
    def name(self) -> str:
        """`int8`, `int4`."""
        return f"int{self.bits}"

    def num_bytes(self, num_values: int) -> int:
        """A scale and an offset for each block, and the levels."""
        return 8 * -(-num_values // BLOCK) + -(-num_values * self.bits // 8) + CHECKSUM_BYTES

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """Chunk by chunk: a vector that is walked through several times should be in the cache while it is."""
        num, top, num_blocks = values.numel(), 2**self.bits - 1, -(-values.numel() // BLOCK)
        data = blank(self.num_bytes(num))
        heads = torch.from_numpy(data[: 8 * num_blocks].view(np.float32)).view(2, num_blocks)
        levels = data[8 * num_blocks : 8 * num_blocks + num] if self.bits == 8 else np.empty(num, np.uint8)
        scratch = torch.empty(CHUNK_BLOCKS * BLOCK)
        generator = noise(0) if self.rounding == "stochastic" else None
        for first in range(0, num_blocks, CHUNK_BLOCKS):
            chunk = values[first * BLOCK : (first + CHUNK_BLOCKS) * BLOCK]
            steps = scratch[: -(-chunk.numel() // BLOCK) * BLOCK]
            if chunk.numel() < len(steps):  # the last value again, which moves no border
                chunk = torch.cat([chunk, chunk[-1:].expand(len(steps) - chunk.numel())])
            blocks, steps = chunk.view(-1, BLOCK), steps.view(-1, BLOCK)
            low, high = blocks.amin(1), blocks.amax(1)  # aminmax takes ten times as long
            middle, scale = low / 2 + high / 2, high / top - low / top  # neither overflows
            heads[0, first : first + len(blocks)], heads[1, first : first + len(blocks)] = scale, middle
            torch.sub(blocks, middle[:, None], out=steps)
            steps.div_(torch.where(scale > 0, scale, 1.0)[:, None])
            if generator is None:
                steps.add_(top / 2 + 0.5)
            else:  # what rounds up to the next whole number is beyond the last level
                steps.add_(torch.rand(steps.shape, generator=generator).add_(top / 2)).clamp_(max=top + 0.5)
            mine = levels[first * BLOCK : (first + CHUNK_BLOCKS) * BLOCK]
            # Cut to whole numbers, which is rounding by what was added; torch takes five times as long.
            np.copyto(mine, steps.view(-1)[: len(mine)].numpy(), casting="unsafe")
        if self.bits == 4:
            data[8 * num_blocks : -CHECKSUM_BYTES] = self._packed(levels)
        return seal(data)

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """The lowest value of each block, and so many steps from it."""
        body, num_blocks = opened(data, self.num_bytes(num_values), self.name), -(-num_values // BLOCK)
        scales, middles = torch.from_numpy(body[: 8 * num_blocks].view(np.float32).copy()).view(2, num_blocks)
        packed = body[8 * num_blocks :]
        levels = torch.from_numpy(np.require(self._unpacked(packed, num_values), requirements="W"))
        half, values = (2**self.bits - 1) / 2, new(num_blocks * BLOCK)
        wide = bool((scales > LARGEST_SCALE).any())  # levels times scales overflow there
        lowest = middles - half * scales
        for first in range(0, num_blocks, CHUNK_BLOCKS):
            own = values[first * BLOCK : (first + CHUNK_BLOCKS) * BLOCK]
            mine = levels[first * BLOCK : (first + CHUNK_BLOCKS) * BLOCK]
            own[: len(mine)].copy_(mine)
            blocks, last = own.view(-1, BLOCK), first + len(own) // BLOCK
            if wide:
                blocks.sub_(half).mul_(scales[first:last, None]).add_(middles[first:last, None])
            else:
                blocks.mul_(scales[first:last, None]).add_(lowest[first:last, None])
        return values[:num_values]

    def _packed(self, levels: Buffer) -> Buffer:
        even, odd = levels[0::2], levels[1::2]
        packed = even.copy()
        packed[: len(odd)] |= odd << 4
        return packed

    def _unpacked(self, packed: Buffer, num_values: int) -> Buffer:
        if self.bits == 8:
            return packed
        levels = np.empty(2 * len(packed), np.uint8)
        levels[0::2], levels[1::2] = packed & 15, packed >> 4
        return levels[:num_values]


class Int8(Affine):
    """256 levels: a byte a parameter."""

    bits: ClassVar[int] = 8
    codec: Literal["int8"]


class Int4(Affine):
    """16 levels: half a byte a parameter."""

    bits: ClassVar[int] = 4
    codec: Literal["int4"]
