"""Which images go through the network together."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedphd_ray.diffusion.labels import Labelled
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.tensors import signed


@dataclass(frozen=True)
class Examples:
    """A client's images, or a batch of them.

    Attributes:
        images: [n, C, H, W], see `tensors.signed`: bytes become numbers batch by batch, so that a client costs its bytes only.
        labels: int64 [n], where the network is told them.
    """

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, indices: Tensor) -> "Examples":
        """Those with these indices, in [-1, 1]."""
        indices = indices.to(self.images.device)
        return Examples(signed(self.images[indices]), None if self.labels is None else self.labels[indices])

    def split(self, size: int) -> Iterator["Examples"]:
        """In order, at most `size` at a time, in [-1, 1]."""
        for start in range(0, len(self), size):
            stop = start + size
            yield Examples(signed(self.images[start:stop]), None if self.labels is None else self.labels[start:stop])

    def told_to(self, network: nn.Module) -> nn.Module:
        """The network, called as (x, t), with these labels where there are any."""
        return network if self.labels is None else Labelled(network, self.labels)


def batches(examples: Examples, config: LocalConfig, no_class: int | None, generator: torch.Generator) -> Iterator[Examples]:
    """The batches of one client's round, mirrored and with labels dropped as the configuration says.

    Args:
        examples: of the client.
        config: how many, and what is done to them.
        no_class: the label that means none; None for a network without classes.
        generator: draws all of it.
    """
    for indices in _indices(len(examples), config, generator):
        batch = examples.rows(indices)
        images, labels = batch.images, batch.labels
        if config.horizontal_flip:
            mirrored = torch.rand(len(indices), generator=generator).to(images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if labels is not None:
            assert no_class is not None, "a network that is told labels knows one for none"
            dropped = torch.rand(len(indices), generator=generator).to(images.device) < config.label_dropout
            labels = labels.masked_fill(dropped, no_class)
        yield Examples(images, labels)


def _indices(num_images: int, config: LocalConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Which images make up each batch."""
    if config.steps is not None:
        for _ in range(config.steps):
            yield torch.randint(num_images, (config.batch_size,), generator=generator)
        return
    for _ in range(config.epochs):
        yield from torch.randperm(num_images, generator=generator).split(config.batch_size)
