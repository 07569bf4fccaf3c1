"""Classes of your own in a configuration: PYTHONPATH=examples fedphd run examples/own_classes.yaml"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedphd_ray.data.partition import PartitionRule
from fedphd_ray.diffusion.metrics import Judged, Metric
from fedphd_ray.federation.channel.codecs import CHECKSUM_BYTES, Buffer, Noise, opened, sealed
from fedphd_ray.federation.channel.compression import LossyCodec
from fedphd_ray.federation.planning.sampling import Clients, Draw, SamplingRule
from fedphd_ray.pruning.criteria import Criterion
from fedphd_ray.pruning.groups import ChannelGroup
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.base import LocalMethod, LocalStart
from fedphd_ray.tensors import State


class OnLeash(LocalMethod):
    """One client, one round: too far away, its gradient points home."""

    def __init__(self, start: LocalStart, length: float) -> None:
        super().__init__(start)
        self._length = length

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """In place, before clipping."""
        away = vector - self.start.received
        if away.norm() > self._length:
            grad.copy_(away)


class Leash(Strategy):
    """FedAvg of clients that may move as far as `length`. What is declared here is checked like any other key."""

    length: float = 0.1

    def local_method(self, start: LocalStart) -> LocalMethod:
        """The client half."""
        return OnLeash(start, self.length)


class Loudest(Criterion):
    """Channels stay whose largest weight is largest; a criterion may also ask the clients (`asks_clients`, `of_products`)."""

    def scores(self, group: ChannelGroup, state: State, generator: torch.Generator) -> Tensor:
        """Over all weights that carry a channel."""
        weights = [
            state[member.parameter].narrow(member.dim, member.offset, group.num_channels).transpose(0, member.dim).flatten(1)
            for member in group.members
            if state[member.parameter].ndim > 1
        ]
        return torch.stack([weight.abs().amax(1) for weight in weights]).amax(0)


class LargestFirst(SamplingRule):
    """Always the clients with most images."""

    name: str = "largest_first"

    def draw(self, draw: Draw) -> Clients:
        """Ties by id."""
        return draw.candidates[np.argsort(-draw.images[draw.candidates], kind="stable")[: draw.num]]


class Signs(LossyCodec):
    """One bit a value, and the mean size of all (Bernstein et al. 2018): wants error feedback."""

    codec: Literal["signs"] = "signs"
    name: ClassVar[str] = "signs"

    def num_bytes(self, num_values: int) -> int:
        """A scale, and a bit for each."""
        return 4 + -(-num_values // 8) + CHECKSUM_BYTES

    def encode(self, values: Tensor, noise: Noise) -> Buffer:
        """Writes signs."""
        scale = values.abs().mean() if len(values) else torch.zeros(())
        return sealed(np.array([float(scale)], np.float32).view(np.uint8), np.packbits((values >= 0).numpy()))

    def decode(self, data: Buffer, num_values: int, noise: Noise) -> Tensor:
        """Plus or minus the scale."""
        body = opened(data, self.num_bytes(num_values), self.name)
        signs = torch.from_numpy(np.unpackbits(body[4:], count=num_values)).float()
        return (2 * signs - 1) * float(body[:4].copy().view(np.float32)[0])


class Zipf(PartitionRule):
    """Client c's share of the images falls as 1 / (c + 1)^exponent; labels as they come."""

    exponent: Annotated[float, Field(ge=0, le=3)] = 1.0

    def split(
        self,
        labels: NDArray[np.int64],
        num_classes: int,
        num_clients: int,
        rng: np.random.Generator,
        owners: NDArray[np.int64] | None = None,
    ) -> list[NDArray[np.int64]]:
        """One image for everybody, and the rest by shares."""
        shares = np.arange(1, num_clients + 1) ** -self.exponent
        ends = np.round(np.cumsum(shares / shares.sum()) * (len(labels) - num_clients)).astype(int)[:-1]
        first, rest = np.split(rng.permutation(len(labels)), [num_clients])
        return [np.append(one, more) for one, more in zip(first, np.split(rest, ends), strict=True)]


class Sharpness(Metric):
    """How far neighbouring pixels differ, in samples and in real images; and which class is drawn most."""

    def measure(self, judged: Judged) -> Mapping[str, float]:
        """Figures by name."""
        drawn, real = (float(images.diff(dim=-1).abs().mean()) for images in (judged.samples, judged.real_images))
        return {"sharpness": drawn / real, "commonest_class": float(judged.classes.mode().values)}
