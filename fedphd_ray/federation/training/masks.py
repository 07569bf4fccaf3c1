"""Local training of some parameters only: the others are zero, and stay so."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedphd_ray.strategies.base import LocalEnd, LocalMethod, Loss


class MaskedMethod(LocalMethod):
    """A client half of which some parameters are zero, and stay so."""

    def __init__(self, inner: LocalMethod, mask: Tensor) -> None:
        super().__init__(inner.start)
        self._inner, self._mask = inner, mask

    def initial(self) -> Tensor:
        """As it was received: with zeros."""
        return self._inner.initial()

    def loss(self, task: Loss, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """As without a mask."""
        return self._inner.loss(task, denoiser, images, generator)

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """What is zero has no gradient: it counts in no norm, and no optimiser remembers it."""
        self._inner.correct(grad, vector)
        grad.mul_(self._mask)

    def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
        """As without a mask."""
        return self._inner.end(vector, num_steps)


def masked(method: LocalMethod, kept: Mapping[str, Tensor], mask: Tensor) -> tuple[LocalMethod, dict[str, Tensor]]:
    """A client half under a mask [num_params], and what it keeps: moments of another mask would move what this one holds."""
    return MaskedMethod(method, mask), {name: vector * mask for name, vector in kept.items()}
