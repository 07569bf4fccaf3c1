"""Which ratio a pruning takes, where its configuration says what may be left."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedphd_ray.diffusion.unet import UNetSpec, build_unet, parameter_shapes
from fedphd_ray.errors import ConfigError, PruningError
from fedphd_ray.federation.prune import pruned_shapes
from fedphd_ray.pruning.groups import count_macs
from fedphd_ray.pruning.policy import PruningConfig

_STEPS = 10_000  # of a ratio: four digits


def within_budget(spec: UNetSpec, pruning: PruningConfig) -> PruningConfig:
    """The configuration with the smallest ratio, of four digits, that leaves no more than its budget; without one, as it is.

    Raises:
        ConfigError: no network that can be trained is so small.
    """
    if pruning.budget is None or pruning.mode == "none":
        return pruning
    left = _Left(spec, pruning)
    largest = _first(lambda ratio: not left.can_be(ratio)) - 1
    if not left.fits(largest):
        raise ConfigError(
            "pruning.budget",
            expected=f"at least {100 * left.share_of_params(largest):.2f} % of the parameters and "
            f"{100 * left.share_of_macs(largest):.2f} % of the MACs: so much is left by {largest / _STEPS:g}, the largest ratio "
            "that this network can be pruned by",
            found=pruning.budget.describe(),
            remedy="allow more, prune more often (pruning.rounds), or make the network wider",
        )
    return pruning.model_copy(update={"ratio": _first(left.fits) / _STEPS})


def _first(holds: Callable[[int], bool]) -> int:
    """The least number up to `_STEPS` of which something holds that then holds of all after it; `_STEPS` where of none."""
    below, first = -1, _STEPS
    while first - below > 1:
        middle = (below + first) // 2
        below, first = (below, middle) if holds(middle) else (middle, first)
    return first


@dataclass(frozen=True)
class _Left:
    """What ratios, in ten thousandths, leave of a network after all of its prunings."""

    spec: UNetSpec
    pruning: PruningConfig

    def can_be(self, ratio: int) -> bool:
        """Whether such a network can be trained."""
        try:
            self._shapes(ratio)
        except PruningError:
            return False
        return True

    def fits(self, ratio: int) -> bool:
        """Whether it is within the budget; networks that cannot be are."""
        budget = self.pruning.budget
        assert budget is not None
        if not self.can_be(ratio):
            return True
        few = budget.params is None or self.share_of_params(ratio) <= budget.params
        return few and (budget.macs is None or self.share_of_macs(ratio) <= budget.macs)

    def share_of_params(self, ratio: int) -> float:
        """Of the dense network's."""
        dense = sum(map(math.prod, parameter_shapes(self.spec).values()))
        return sum(map(math.prod, self._shapes(ratio).values())) / dense

    def share_of_macs(self, ratio: int) -> float:
        """Of the dense network's."""
        return self._macs(self._shapes(ratio)) / self._macs(dict(parameter_shapes(self.spec)))

    def _macs(self, shapes: dict[str, tuple[int, ...]]) -> int:
        return count_macs(build_unet(self.spec, shapes, device="meta"), self.spec.image_size, self.spec.channels)

    def _shapes(self, ratio: int) -> dict[str, tuple[int, ...]]:
        ratios = self.pruning.model_copy(update={"ratio": ratio / _STEPS}).ratios
        return dict(pruned_shapes(self.spec, *ratios)[-1].by_name)
