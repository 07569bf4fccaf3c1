"""What every client does in its round."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fedphd_ray.settings.sections import Section

Precision = Literal["float32", "bfloat16"]
"""What a forward pass computes in."""


class LocalConfig(Section):
    """What every client does in its round.

    Attributes:
        epochs: passes over the client's images, E.
        batch_size: images per optimiser step; a last smaller batch of an epoch is used too.
        micro_batch: images that go through the network at once: a batch goes in pieces whose gradients add up to its own, up to
            rounding, in the memory of one piece. null for the whole batch.
        steps: so many optimiser steps instead of epochs, each on a batch drawn with replacement; 0 trains nothing, which
            leaves what everything else costs.
        optimizer: `adam` (default betas, no weight decay) or plain `sgd`.
        learning_rate: of the optimiser.
        optimizer_state: `fresh` moments each round, or `per_client` moments kept between rounds.
        clip_norm: largest global norm of the gradient; null for no limit.
        warmup_rounds: the learning rate grows linearly over so many rounds from the start and from the pruning.
        horizontal_flip: mirror each image with probability 1/2.
        label_dropout: probability that a class-conditional network is not told an image's label, which guidance needs.
        compile: run networks as inductor's kernels: steps take about a quarter less time on a CPU, after about a minute of
            compiling per machine and architecture, and four seconds at later starts. Smaller batches than `batch_size` run as
            without. Samples that judge a model are drawn so, too. Changes rounding.
        precision: `bfloat16` runs the network in mixed precision (torch's autocast); parameters, gradients, optimiser and updates
            stay float32. `auto` takes it where the processor has it and a short trial finds steps at least 15 % shorter; that is
            decided once, when the run begins.
    """

    epochs: PositiveInt = 1
    batch_size: PositiveInt = 128
    micro_batch: PositiveInt | None = None
    steps: NonNegativeInt | None = None
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: PositiveFloat = 2e-4
    optimizer_state: Literal["fresh", "per_client"] = "fresh"
    clip_norm: PositiveFloat | None = 1.0
    warmup_rounds: NonNegativeInt = 0
    horizontal_flip: bool = False
    label_dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    compile: bool = False
    precision: Precision | Literal["auto"] = "float32"

    def images_through(self, num_images: int) -> int:
        """Images that one client's training takes, repetitions counted, for a client of `num_images`; 1 at least."""
        return max(1, self.epochs * num_images if self.steps is None else self.steps * self.batch_size)

    def num_steps(self, num_images: int, share: float = 1.0) -> int:
        """Optimiser steps of a client of `num_images`; of a share of them one at least, if it takes any."""
        steps = self.epochs * -(-num_images // self.batch_size) if self.steps is None else self.steps
        return steps if share >= 1 else min(steps, max(1, round(share * steps)))

    @property
    def compiled_batch(self) -> int:
        """Images in the batches that go through a compiled network; 0 for none."""
        return self.images_at_once if self.compile else 0

    @property
    def images_at_once(self) -> int:
        """The most that go through the network together."""
        return min(self.batch_size, self.micro_batch or self.batch_size)

    @property
    def keeps_moments(self) -> bool:
        """Whether clients keep their optimiser's moments between rounds."""
        return self.optimizer == "adam" and self.optimizer_state == "per_client"

    def learning_rate_scale(self, rounds_since_start: int) -> float:
        """Warm-up factor in (0, 1]; `rounds_since_start` is 1 in the first round of the present architecture."""
        return min(1.0, rounds_since_start / self.warmup_rounds) if self.warmup_rounds else 1.0
