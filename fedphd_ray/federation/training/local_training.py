"""Training on one client: the only place that steps an optimiser."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.training.batches import Examples, batches
from fedphd_ray.federation.training.masks import masked
from fedphd_ray.federation.update import Update
from fedphd_ray.records import ClientState, Kind, LocalOrder
from fedphd_ray.seeds import Purpose, global_torch_seed, torch_generator
from fedphd_ray.strategies.base import LocalEnd, LocalMethod, LocalStart, Loss, Strategy
from fedphd_ray.tensors import as_numpy, as_tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


class Penalty(Protocol):
    """Adds the gradient of strength * Omega(weights) to the gradients, in place."""

    def add_gradient(self, weights: list[Tensor], grads: list[Tensor], strength: float) -> None:
        """Weights and gradients correspond one to one."""
        ...


@dataclass(frozen=True)
class LocalResult:
    """Outcome of local training on one client.

    Attributes:
        update: trained against initial parameters; the next training of the same model overwrites it.
        beside: what the method sends beside it, by name [num_params].
        loss: noise-prediction loss, mean over the optimiser steps.
        num_steps: optimiser steps taken.
        num_images: images that went through them, repetitions counted.
        state: what the client keeps for its next round, or None.
        importance: how much each channel matters to it, where it was asked [num_scores].
    """

    update: Update
    beside: Mapping[Kind, Tensor]
    loss: float
    num_steps: int
    num_images: int
    state: ClientState | None
    importance: Tensor | None = None

    def why_unusable(self, received: Tensor) -> str:
        """Why it must not be aggregated; empty if it may."""
        sent = {"update": self.update.trained} | {name.value: vector for name, vector in self.beside.items()}
        for name, vector in sent.items():
            if vector.shape != received.shape:
                return f"the {name} has shape {tuple(vector.shape)}, the model {tuple(received.shape)}"
        if not math.isfinite(self.loss):
            return f"loss became {self.loss}"
        # One non-finite entry makes the sum non-finite; finite entries overflow it only when they are useless too.
        for name, vector in sent.items():
            if not math.isfinite(float(vector.sum())):
                return f"the {name} holds non-finite values"
        if self.importance is not None and not bool(torch.isfinite(self.importance).all()):
            return "the importance of its channels holds non-finite values"
        return ""


class Pieces(Protocol):
    """Cuts a batch [B, C, H, W] into pieces of at most `size` images, each with a loss whose noise is that of the whole batch."""

    def __call__(self, images: Tensor, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Loss]]:
        """The pieces, in order."""
        ...


@dataclass(frozen=True)
class LocalTrainer:
    """Trains one client at a time. Randomness is keyed by (seed, round, client), so training a client again gives the same bits,
    wherever it happens.

    Attributes:
        config: what a client does.
        strategy: its method.
        loss: of a batch.
        penalty: of sparse training.
        seed: of the run.
        pieces: of a batch, where `config.micro_batch` asks for them.
        num_classes: of the labels that the network is told; None where it is told none.
    """

    config: LocalConfig
    strategy: Strategy
    loss: Loss
    penalty: Penalty
    seed: int
    pieces: Pieces | None = None
    num_classes: int | None = None

    def train(
        self,
        model: FlatModel,
        images: Tensor,
        order: LocalOrder,
        *,
        client: int,
        received: Tensor,
        version: int,
        beside: Mapping[Kind, Tensor] = MappingProxyType({}),
        state: ClientState | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        before_step: Callable[[], None] = lambda: None,
    ) -> LocalResult:
        """Trains `model` in place on one client's images [n, C, H, W], from what it received [num_params].

        Args:
            model: its parameters are overwritten.
            images: of the client, see `tensors.signed`.
            order: round, learning rate, penalty.
            client: part of the key of its randomness.
            received: the model that arrived.
            version: its architecture.
            beside: what arrived beside it, by name.
            state: what the client kept from its last round.
            labels: of the images, int64 [n], where the network is told them.
            mask: 1 where parameters are trained, 0 where they are zero and stay so [num_params]; None trains all.
            before_step: called before every optimiser step; an exception from it ends the training.
        """
        assert state is None or state.version == version, "a client's state was not cut when the model was pruned"
        config, key, examples = self.config, (order.round, client), Examples(images, labels)
        generator = torch_generator(self.seed, Purpose.LOCAL_TRAINING, *key)
        learning_rate = config.learning_rate * order.learning_rate_scale
        kept = {} if state is None else {name: as_tensor(vector).to(received.device) for name, vector in state.vectors.items()}
        if not model.module.training:
            model.module.train()
        with global_torch_seed(self.seed, Purpose.LOCAL_TRAINING, *key, 1):  # dropout takes no generator
            gradient = partial(self._full_gradient, model, examples, received, key)
            start = LocalStart(received, beside, kept, model.module, model.layout, learning_rate, gradient)
            method = self.strategy.local_method(start)
            method, kept = (method, kept) if mask is None else masked(method, kept, mask)
            model.vector.copy_(initial := method.initial())
            optimizer = _optimizer(config, model, learning_rate, kept, {} if state is None else state.scalars)
            losses, num_images = [], 0
            all_batches = batches(examples, config, self.num_classes, generator)
            for batch in islice(all_batches, config.num_steps(len(images), order.work.get(client, 1.0))):
                before_step()
                losses.append(self._step(model, batch, method, optimizer, generator, order.sparsity))
                num_images += len(batch)
        end = method.end(model.vector, len(losses))
        return LocalResult(
            update=Update.whole(model.vector, initial),
            beside=end.beside,
            loss=_mean(losses, config),
            num_steps=len(losses),
            num_images=num_images,
            state=self._state(end, optimizer, model, version),
        )

    def _step(
        self,
        model: FlatModel,
        batch: Examples,
        method: LocalMethod,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        sparsity: float,
    ) -> Tensor:
        """One optimiser step; the noise-prediction loss before it, a scalar, without what the method adds."""
        model.grad.zero_()
        losses = []
        for piece, loss in self._pieces(batch, generator):
            task, share = _Remembered(loss), len(piece) / len(batch)
            with self._precision(piece.images):
                value = method.loss(task, piece.told_to(model.denoiser), piece.images, generator)
            (value * share).backward()
            assert task.value is not None, "a method's loss asks for the task's"
            losses.append(task.value * share)
        if sparsity > 0:
            self.penalty.add_gradient(model.weights, model.weight_grads, sparsity)
        method.correct(model.grad, model.vector)
        if self.config.clip_norm is not None:
            _clip(model.grad, self.config.clip_norm)
        optimizer.step()
        return torch.stack(losses).sum()

    def _pieces(self, batch: Examples, generator: torch.Generator) -> Iterator[tuple[Examples, Loss]]:
        """What goes through the network at once."""
        size = self.config.micro_batch
        if size is None or len(batch) <= size:
            return iter([(batch, self.loss)])
        assert self.pieces is not None, "micro_batch asks for a loss that comes in pieces"
        losses = (loss for _, loss in self.pieces(batch.images, size, generator))
        return zip(batch.split(size), losses, strict=True)

    def _precision(self, images: Tensor) -> torch.autocast:
        """What the forward pass computes in."""
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _full_gradient(self, model: FlatModel, examples: Examples, received: Tensor, key: tuple[int, int]) -> Tensor:
        """Mean gradient [num_params] over one pass through the images at the received model, with noise of its own."""
        model.vector.copy_(received)
        model.grad.zero_()
        generator = torch_generator(self.seed, Purpose.LOCAL_TRAINING, *key, 2)
        for batch in examples.split(self.config.batch_size):
            for piece, loss in self._pieces(batch, generator):
                with self._precision(piece.images):
                    value = loss(piece.told_to(model.module), piece.images, generator)
                (value * (len(piece) / len(examples))).backward()
        return model.grad.clone()

    def _state(self, end: LocalEnd, optimizer: torch.optim.Optimizer, model: FlatModel, version: int) -> ClientState | None:
        vectors, scalars = {name: as_numpy(vector) for name, vector in end.kept.items()}, {}
        if self.config.keeps_moments:
            moments = optimizer.state[model.flat]
            vectors |= {name: np.array(moments[name].cpu().numpy()) for name in MOMENTS}
            scalars["step"] = float(moments["step"])
        return ClientState(vectors, scalars, version) if vectors else None


class _Remembered:
    """A loss that remembers its last value."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self.value: Tensor | None = None

    def __call__(self, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """As the loss itself."""
        value = self._loss(denoiser, images, generator)
        self.value = value.detach()
        return value


def _mean(losses: list[Tensor], config: LocalConfig) -> float:
    """Mean loss; of no steps it is 0 where none were asked for, and not a number where a client had nothing to train on."""
    if losses:
        return float(torch.stack(losses).mean())
    return 0.0 if config.steps == 0 else math.nan


def _clip(grad: Tensor, max_norm: float) -> None:
    """Scales the gradient to norm at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does, without a host round trip."""
    scale = max_norm / (torch.linalg.vector_norm(grad) + 1e-6)
    grad.mul_(torch.clamp(scale, max=1.0))


def _optimizer(
    config: LocalConfig, model: FlatModel, learning_rate: float, kept: Mapping[str, Tensor], scalars: Mapping[str, float]
) -> torch.optim.Optimizer:
    """The local optimiser as it is before a client's first step: with the moments that the client kept, or with none."""
    if model.optimizer is None:
        model.optimizer = _new_optimizer(config, model.flat)
    optimizer = model.optimizer
    optimizer.param_groups[0]["lr"] = learning_rate
    moments = optimizer.state[model.flat]
    for name in MOMENTS if config.optimizer == "adam" and config.steps != 0 else ():
        if config.keeps_moments and name in kept:
            moments[name].copy_(kept[name])
        else:
            moments[name].zero_()
        moments["step"].fill_(scalars.get("step", 0.0))
    return optimizer


def _new_optimizer(config: LocalConfig, flat: nn.Parameter) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD([flat], lr=config.learning_rate)
    optimizer = torch.optim.Adam([flat], lr=config.learning_rate, fused=True)
    optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **{name: torch.zeros_like(flat) for name in MOMENTS}}
    return optimizer
