"""Which clients are asked, of those who can be. A rule sees what a server knows: sizes, times, and losses that were reported."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.settings.sections import Section

Clients = NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """What is to be drawn, and from whom.

    Attributes:
        num: clients wanted.
        candidates: who can be asked, ids in their order.
        images: of each registered client.
        losses: mean training loss that each reported last; not a number before that.
        seconds: what each would take for a round; None where devices are not simulated.
        rng: for what is left to chance.
    """

    num: int
    candidates: Clients
    images: NDArray[np.int64]
    losses: NDArray[np.float64]
    seconds: NDArray[np.float64] | None
    rng: np.random.Generator

    def some(self, candidates: Clients, num: int, weights: NDArray[np.float64] | None = None) -> Clients:
        """So many of them without replacement, or all; by weights, those without weight last."""
        num = min(num, len(candidates))
        if weights is None:
            return candidates[self.rng.choice(len(candidates), size=num, replace=False)]
        heavy = weights > 0
        if heavy.sum() <= num:
            return np.concatenate([candidates[heavy], self.some(candidates[~heavy], num - int(heavy.sum()))])
        return np.asarray(self.rng.choice(candidates[heavy], num, replace=False, p=weights[heavy] / weights[heavy].sum()))


class SamplingRule(Section):
    """A rule.

    Attributes:
        needs_losses: it goes by what clients report, so that nobody can foretell it without training.
        needs_times: it goes by how long clients take, which only simulated devices say.
    """

    needs_losses: ClassVar[bool] = False
    needs_times: ClassVar[bool] = False

    name: str

    def draw(self, draw: Draw) -> Clients:
        """The clients, in any order."""
        raise NotImplementedError


class UniformSampling(SamplingRule):
    """Everybody with the same probability."""

    name: Literal["uniform"] = "uniform"

    def draw(self, draw: Draw) -> Clients:
        """Without replacement."""
        return draw.some(draw.candidates, draw.num)


class BySize(SamplingRule):
    """With probability proportional to the number of images."""

    name: Literal["by_size"]

    def draw(self, draw: Draw) -> Clients:
        """Without replacement."""
        return draw.some(draw.candidates, draw.num, draw.images[draw.candidates].astype(np.float64))


class TieredSampling(SamplingRule):
    """Clients of like speed together: each round one group is drawn, by its size, and clients from it (TiFL, Chai et al. 2020).

    Attributes:
        groups: how many, of the same size, by the time that a round takes.
    """

    needs_times: ClassVar[bool] = True

    name: Literal["tiers"]
    groups: PositiveInt = 4

    def draw(self, draw: Draw) -> Clients:
        """From one group; a smaller cohort where it has not enough."""
        assert draw.seconds is not None
        ranks = np.empty(len(draw.seconds), np.int64)
        ranks[np.argsort(draw.seconds, kind="stable")] = np.arange(len(draw.seconds))
        group = (ranks * self.groups // len(ranks))[draw.candidates]
        chosen = draw.rng.choice(group) if len(group) else 0
        return draw.some(draw.candidates[group == chosen], draw.num)


class PowerOfChoice(SamplingRule):
    """Of `candidates` clients drawn by size, those with the greatest loss (Cho, Wang, Joshi 2020); who has none yet comes first.

    Attributes:
        candidates: d; a cohort's size at least.
    """

    needs_losses: ClassVar[bool] = True

    name: Literal["power_of_choice"]
    candidates: PositiveInt

    def draw(self, draw: Draw) -> Clients:
        """Ties in the order of their ids."""
        weights = draw.images[draw.candidates].astype(np.float64)
        drawn = np.sort(draw.some(draw.candidates, max(self.candidates, draw.num), weights))
        losses = np.where(np.isnan(draw.losses[drawn]), np.inf, draw.losses[drawn])
        return drawn[np.argsort(-losses, kind="stable")[: draw.num]]


class Oort(SamplingRule):
    """By utility: images times loss, less for whoever takes longer than most (Lai et al., OSDI 2021).

    Attributes:
        explore: share of a cohort that is drawn from clients without a report.
        penalty: exponent of (preferred time / time) for slower clients; of no use without simulated devices.
        preferred: quantile of the candidates' times that is preferred.
    """

    needs_losses: ClassVar[bool] = True

    name: Literal["oort"]
    explore: Annotated[float, Field(ge=0, le=1)] = 0.2
    penalty: Annotated[float, Field(ge=0, le=100)] = 2.0
    preferred: Annotated[float, Field(gt=0, le=1)] = 0.5

    def draw(self, draw: Draw) -> Clients:
        """Known ones with probability proportional to their utility; unknown ones fill up."""
        losses = draw.losses[draw.candidates]
        known, unknown = draw.candidates[~np.isnan(losses)], draw.candidates[np.isnan(losses)]
        num_new = min(len(unknown), max(round(self.explore * draw.num), draw.num - len(known)))
        utility = np.asarray(draw.images[known] * np.abs(draw.losses[known]), np.float64)
        if draw.seconds is not None and len(known):
            preferred = np.quantile(draw.seconds[draw.candidates], self.preferred)
            utility = utility * np.minimum(1.0, preferred / draw.seconds[known]) ** self.penalty
        return np.concatenate([draw.some(unknown, num_new), draw.some(known, draw.num - num_new, utility)])


Sampling = Annotated[
    UniformSampling | BySize | TieredSampling | PowerOfChoice | Oort, Field(discriminator="name"), OrOwn(SamplingRule)
]
