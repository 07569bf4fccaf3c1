"""Class labels: a network that is told them, and guidance by them.

Ho and Salimans: "Classifier-Free Diffusion Guidance", 2022 (arXiv 2207.12598). The network is diffusers' `UNet2DModel` with
`num_class_embeds` one above the number of classes: the last label means none, and is what is learnt where labels are dropped.
"""

from collections.abc import Sequence

import torch
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from torch import Tensor, nn


def num_classes_of(unet: UNet2DModel) -> int | None:
    """How many classes a network is told; None for one that is told none."""
    embeddings: int | None = unet.config["num_class_embeds"]
    return None if embeddings is None else embeddings - 1


def blank_labels(unet: UNet2DModel, num: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """What a network takes beside images and time steps, for `num` images of no class: nothing, or their labels."""
    classes = num_classes_of(unet)
    return () if classes is None else (torch.full((num,), classes, dtype=torch.int64, device=device),)


class Labelled(nn.Module):
    """A network with a batch's labels: called as (x, t), like one without classes.

    Args:
        network: called as (x, t, labels).
        labels: int64 [B].
    """

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self._network, self._labels = network, labels

    def forward(self, noisy: Tensor, t: Tensor) -> object:
        """As the network itself."""
        return self._network(noisy, t, self._labels)


class Guided(nn.Module):
    """A network led towards its labels: p(none) + guidance (p(label) - p(none)), where p is what it predicts.

    Args:
        unet: that was trained with labels, some of them dropped.
        labels: int64 [B].
        guidance: 1 takes the labels as they are, 0 none.
    """

    def __init__(self, unet: UNet2DModel, labels: Tensor, guidance: float) -> None:
        super().__init__()
        self._unet, self._guidance = unet, guidance
        device = next(unet.parameters()).device
        self._labels, (self._blank,) = labels.to(device), blank_labels(unet, len(labels), device)

    def forward(self, noisy: Tensor, t: Tensor) -> UNet2DOutput:
        """The prediction [B, C, H, W]."""
        led: Tensor = self._unet(noisy, t, self._labels).sample
        if self._guidance != 1.0:
            blank: Tensor = self._unet(noisy, t, self._blank).sample
            led = blank + self._guidance * (led - blank)
        return UNet2DOutput(sample=led)


def in_proportion(counts: Sequence[int], num: int) -> list[int]:
    """So many labels, as often as the counts say (largest remainders), evenly mixed: of equal counts 0, 1, 2, 0, 1, 2, ..."""
    total = sum(counts)
    often = [num * count // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda label: (-(num * counts[label] % total), label))
    for label in by_remainder[: num - sum(often)]:
        often[label] += 1
    places = [((rank + 0.5) / times, label) for label, times in enumerate(often) for rank in range(times)]
    return [label for _, label in sorted(places)]
