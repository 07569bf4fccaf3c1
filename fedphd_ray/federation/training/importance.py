"""How much each channel matters to one client, by the gradients of its loss: what it is asked for before a pruning."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedphd_ray.diffusion.process import NoiseProcess
from fedphd_ray.diffusion.unet import UNetSpec
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.prune import groups_at
from fedphd_ray.federation.training.batches import Examples
from fedphd_ray.pruning.criteria import Criterion, gradient_scores
from fedphd_ray.pruning.policy import PruningConfig
from fedphd_ray.seeds import Purpose, torch_generator
from fedphd_ray.strategies.base import Loss


@dataclass(frozen=True)
class Scoring:
    """What a client does to score channels.

    Attributes:
        criterion: what it makes of weights and gradients.
        num_images: of its own that it looks at, the first ones.
        least_loss: share of the largest loss at which `diff_pruning` stops: later time steps say little of what an image holds.
    """

    criterion: Criterion
    num_images: int
    least_loss: float

    @classmethod
    def of(cls, pruning: PruningConfig) -> "Scoring | None":
        """As configured; None where clients are not asked."""
        return cls(pruning.criterion, pruning.scored_images, pruning.least_loss) if pruning.asks_clients else None


@dataclass(frozen=True)
class Scorer:
    """Scores channels at the model that a client received, without drop-out.

    Attributes:
        scoring: how.
        process: noise and loss.
        spec: of the dense network.
        ratios: of the prunings that there will be.
        seed: of the run.
        at_once: images that go through the network together.
    """

    scoring: Scoring
    process: NoiseProcess
    spec: UNetSpec
    ratios: tuple[float, ...]
    seed: int
    at_once: int

    def scores(
        self, model: FlatModel, version: int, received: torch.Tensor, examples: Examples, key: tuple[int, int]
    ) -> torch.Tensor:
        """Importance float32 [num_channels of all groups].

        `taylor` goes by the gradient of the training loss, one draw of time and noise for each image. `diff_pruning` adds up the
        gradients at time steps 0, 1, 2, ... with one draw of noise, until the loss is small (Fang et al. 2023, algorithm 1).

        Args:
            model: its parameters are overwritten.
            version: its architecture.
            received: the model [num_params].
            examples: of the client.
            key: round and client, of its randomness.
        """
        chosen = torch.arange(min(self.scoring.num_images, len(examples)))
        own = Examples(examples.images[chosen], None if examples.labels is None else examples.labels[chosen])
        model.vector.copy_(received)
        model.grad.zero_()
        model.module.eval()
        generator = torch_generator(self.seed, Purpose.IMPORTANCE, *key)
        if self.scoring.criterion.early_steps:
            self._add_early_gradients(model, own, generator)
        else:
            self._add_gradient(model, own, [self.process.loss for _ in own.split(self.at_once)], generator)
        model.module.train()
        layout, groups = model.layout, groups_at(self.spec, self.ratios[:version])
        return gradient_scores(self.scoring.criterion, groups, layout.views(model.vector), layout.views(model.grad))

    def _add_gradient(
        self, model: FlatModel, examples: Examples, losses: Sequence[Loss], generator: torch.Generator, least: float = 0.0
    ) -> float:
        """Adds the mean gradient over some images, if the loss is at least so large; the loss."""
        total = 0.0
        before = model.grad.clone() if least > 0 else None
        for piece, loss in zip(examples.split(self.at_once), losses, strict=True):
            value = loss(piece.told_to(model.module), piece.images, generator) * (len(piece) / len(examples))
            value.backward()
            total += float(value.detach())
        if before is not None and total < least:
            model.grad.copy_(before)
        return total

    def _add_early_gradients(self, model: FlatModel, examples: Examples, generator: torch.Generator) -> None:
        """Adds up the gradients of the first time steps, those before the loss falls below a share of its largest value."""
        noise = torch.randn(examples.images.shape, generator=generator).to(examples.images.device)
        largest = 0.0
        for t in range(self.process.config.num_timesteps):
            losses = [self.process.loss_at(piece, t) for piece in noise.split(self.at_once)]
            loss = self._add_gradient(model, examples, losses, generator, self.scoring.least_loss * largest)
            largest = max(largest, loss)
            if loss < self.scoring.least_loss * largest:
                return
