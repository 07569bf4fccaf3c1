"""MOON: a contrastive term pulls a client's features towards the global model's and away from its own former ones.

Li, He, Song: "Model-Contrastive Federated Learning", CVPR 2021 (arXiv 2103.16257). For a denoiser the features are the
activations after the U-Net's bottleneck, averaged over the image; all three networks are given the same (x_t, t), and are
compared sample by sample, so that noise levels do not mix. There is no projection head: the method's own was for a classifier.
"""

from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.func import functional_call

from fedphd_ray.strategies.base import LocalEnd, LocalMethod, LocalStart, Loss, Strategy

if TYPE_CHECKING:
    from fedphd_ray.diffusion.unet import UNet2DModel

PREVIOUS = "previous"


class Moon(Strategy):
    """FedAvg with mu times the contrastive loss; clients keep their last model. Two more passes through encoder and bottleneck.

    Attributes:
        mu: weight of the term; 0 is FedAvg.
        temperature: of the similarities.
    """

    looks_inside: ClassVar[bool] = True

    name: Literal["moon"] = "moon"
    mu: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 0.5

    @property
    def keeps_state(self) -> bool:
        """The client's last model."""
        return True

    def local_method(self, start: LocalStart) -> LocalMethod:
        """The client half."""
        return _Contrastive(start, self.mu, self.temperature)


class _Contrastive(LocalMethod):
    def __init__(self, start: LocalStart, mu: float, temperature: float) -> None:
        super().__init__(start)
        self._mu, self._temperature = mu, temperature
        self._previous = start.kept.get(PREVIOUS)

    def loss(self, task: Loss, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """The task's loss, and from the client's second round on the contrastive term."""
        if self._previous is None or self._mu == 0:
            return task(denoiser, images, generator)
        watched = _Watched(cast("UNet2DModel", denoiser))
        value = task(watched, images, generator)
        others = [self._features(vector, watched.noisy, watched.t) for vector in (self.start.received, self._previous)]
        return value + self._mu * contrastive_loss(watched.features, others[0], others[1], self._temperature)

    def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
        """Keeps the trained model."""
        return LocalEnd(kept={PREVIOUS: vector.clone()})

    @torch.no_grad()
    def _features(self, vector: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Features [B, channels] of a frozen model, without dropout."""
        from fedphd_ray.diffusion.unet import Bottleneck  # noqa: PLC0415 - edges know strategies too, and need no diffusers

        bottleneck, was_training = Bottleneck(cast("UNet2DModel", self.start.module)), self.start.module.training
        state = {f"unet.{name}": value for name, value in self.start.layout.views(vector).items()}
        bottleneck.eval()
        features: Tensor = functional_call(bottleneck, state, (noisy, t))
        bottleneck.train(was_training)
        return features.mean(dim=(2, 3))


class _Watched(nn.Module):
    """Calls a U-Net and remembers what went in and what left its bottleneck (averaged over the image, with its graph)."""

    noisy: Tensor
    t: Tensor
    features: Tensor

    def __init__(self, unet: "UNet2DModel") -> None:
        super().__init__()
        self._unet = unet

    def forward(self, noisy: Tensor, t: Tensor) -> object:
        """As the U-Net itself."""
        self.noisy, self.t = noisy, t
        assert self._unet.mid_block is not None
        handle = self._unet.mid_block.register_forward_hook(self._remember)
        try:
            return self._unet(noisy, t)
        finally:
            handle.remove()

    def _remember(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.features = output.mean(dim=(2, 3))


def contrastive_loss(features: Tensor, of_global: Tensor, of_previous: Tensor, temperature: float) -> Tensor:
    """The mean over the batch of -log(exp(s_g / T) / (exp(s_g / T) + exp(s_p / T))).

    s_g and s_p are the cosine similarities of a row of `features` [B, channels] to the same row of the others. With the same
    features for global and previous model it is log 2, and its gradient is zero.
    """
    similarities = [nn.functional.cosine_similarity(features, other, dim=1) for other in (of_global, of_previous)]
    logits = torch.stack(similarities, dim=1) / temperature
    return nn.functional.cross_entropy(logits, torch.zeros(len(features), dtype=torch.int64, device=features.device))
