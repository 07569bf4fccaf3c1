"""Training on one client: the only place that steps an optimiser."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedphd_ray.records import ClientState, LocalOrder
from fedphd_ray.seeds import Purpose, global_torch_seed, torch_generator
from fedphd_ray.tensors import Layout


class LocalConfig(BaseModel):
    """What every client does in its round.

    Attributes:
        epochs: passes over the client's images, E.
        batch_size: images per optimiser step; a last smaller batch is used too.
        learning_rate: of Adam (default betas, no weight decay).
        optimizer_state: `fresh` moments each round, or `per_client` moments kept between rounds.
        clip_norm: largest global norm of the gradient.
        warmup_rounds: the learning rate grows linearly over so many rounds from the start and from the pruning.
        horizontal_flip: mirror each image with probability 1/2.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: PositiveInt = 1
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-4
    optimizer_state: Literal["fresh", "per_client"] = "fresh"
    clip_norm: PositiveFloat = 1.0
    warmup_rounds: NonNegativeInt = 0
    horizontal_flip: bool = False

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        return self.optimizer_state == "per_client"

    def learning_rate_scale(self, rounds_since_start: int) -> float:
        """Warm-up factor in (0, 1]; `rounds_since_start` is 1 in the first round of the present architecture."""
        return min(1.0, rounds_since_start / self.warmup_rounds) if self.warmup_rounds else 1.0


class Loss(Protocol):
    """The noise-prediction loss: a scalar from a denoiser, clean images [B, C, H, W] in [-1, 1], and a CPU generator."""

    def __call__(self, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar, with a graph to go back on."""
        ...


class Penalty(Protocol):
    """Adds the gradient of strength * Omega(weights) to the gradients, in place."""

    def add_gradient(self, weights: list[Tensor], grads: list[Tensor], strength: float) -> None:
        """Weights and gradients correspond one to one."""
        ...


class FlatModel:
    """A module whose parameters and gradients are views into two flat vectors [num_params].

    Loading a model, taking an update, clipping and the optimiser's step are then one operation each, without dictionaries.

    Args:
        module: its parameters are moved into the flat vector; it must have no buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        assert not list(module.buffers()), "a model with buffers cannot be one vector of parameters"
        self.module = module
        self.layout = Layout.of(parameters)
        self.flat = nn.Parameter(self.layout.flatten(parameters).to(next(module.parameters()).device))
        self.flat.grad = torch.zeros_like(self.flat)
        views, grads = self.layout.views(self.flat.data), self.layout.views(self.flat.grad)
        for name, parameter in parameters.items():
            parameter.data = views[name]
            parameter.grad = grads[name]
        self.weights = [views[name] for name in views if "weight" in name]
        self.weight_grads = [grads[name] for name in grads if "weight" in name]

    @property
    def vector(self) -> Tensor:
        """The parameters [num_params]; writing into it changes the module."""
        return self.flat.data

    @property
    def grad(self) -> Tensor:
        """The gradient [num_params]."""
        assert self.flat.grad is not None
        return self.flat.grad


@dataclass(frozen=True)
class LocalResult:
    """Outcome of local training; the trained model is in the `FlatModel`. `loss` is the mean over steps."""

    loss: float
    num_steps: int
    state: ClientState | None


def train_client(
    model: FlatModel,
    images: Tensor,
    loss: Loss,
    penalty: Penalty,
    config: LocalConfig,
    order: LocalOrder,
    *,
    client: int,
    seed: int,
    version: int,
    state: ClientState | None = None,
) -> LocalResult:
    """Trains the model in place on one client's images [n, C, H, W] in [-1, 1].

    Randomness is keyed by (seed, round, client), so training the same client again gives the same bits, wherever it happens.
    """
    generator = torch_generator(seed, Purpose.LOCAL_TRAINING, order.round, client)
    optimizer = torch.optim.Adam([model.flat], lr=config.learning_rate * order.learning_rate_scale, fused=True)
    if state is not None:
        assert state.version == version, "a client's state was not cut when the model was pruned"
        _load_moments(optimizer, model, state)
    model.module.train()
    losses: list[Tensor] = []
    with global_torch_seed(seed, Purpose.LOCAL_TRAINING, order.round, client, 1):  # dropout takes no generator
        for batch in _batches(images, config, generator):
            model.grad.zero_()
            value = loss(model.module, batch, generator)
            value.backward()
            if order.sparsity > 0:
                penalty.add_gradient(model.weights, model.weight_grads, order.sparsity)
            _clip(model.grad, config.clip_norm)
            optimizer.step()
            losses.append(value.detach())
    mean = float(torch.stack(losses).mean()) if losses else math.nan
    kept = _save_moments(optimizer, model, version) if config.keeps_state else None
    return LocalResult(mean, len(losses), kept)


def _batches(images: Tensor, config: LocalConfig, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(config.epochs):
        for indices in torch.randperm(len(images), generator=generator).split(config.batch_size):
            batch = images[indices.to(images.device)]
            if config.horizontal_flip:
                mirrored = torch.rand(len(indices), generator=generator).to(images.device) < 0.5
                batch = torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)
            yield batch


def _clip(grad: Tensor, max_norm: float) -> None:
    """Scales the gradient to norm at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does, without a host round trip."""
    scale = max_norm / (torch.linalg.vector_norm(grad) + 1e-6)
    grad.mul_(torch.clamp(scale, max=1.0))


def _load_moments(optimizer: torch.optim.Adam, model: FlatModel, state: ClientState) -> None:
    device = model.vector.device
    moments = {name: torch.tensor(vector, device=device) for name, vector in state.vectors.items()}
    optimizer.state[model.flat] = {"step": torch.tensor(state.scalars["step"], device=device), **moments}


def _save_moments(optimizer: torch.optim.Adam, model: FlatModel, version: int) -> ClientState:
    moments = optimizer.state[model.flat]
    vectors = {name: np.array(moments[name].cpu().numpy()) for name in ("exp_avg", "exp_avg_sq")}
    return ClientState(vectors, {"step": float(moments["step"])}, version)
