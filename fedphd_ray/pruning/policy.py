"""When the network is pruned, and under which penalty it trains until then."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from fedphd_ray.errors import ConfigError
from fedphd_ray.pruning.importance import Criterion
from fedphd_ray.sections import Section


class PruningAgain(Section):
    """One more pruning.

    Attributes:
        round: the round after which.
        ratio: share of the channels that are left then, as in `PruningConfig`.
    """

    round: PositiveInt
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)]


class PruningConfig(Section):
    """One-shot structured pruning at the cloud, and more of it where that is wanted.

    Attributes:
        mode: `none`; `at_init` prunes the random network before the first round and trains the small one; `prune` trains dense
            rounds, then prunes once; `sparse_then_prune` does so with the group-norm penalty before (FedPhD).
        round: the round after which `prune` and `sparse_then_prune` prune.
        ratio: share of channels removed in every group coupled by a GroupNorm, rounded up to what the norm's groups allow.
        sparsity: lambda, strength of the penalty in `sparse_then_prune`.
        penalty: `channel` is the sum of L2 norms of output channels (the paper's intention), `layer` one norm per layer (the
            authors' code).
        criterion: which channels stay: those of largest `group_l2` norm (the paper) or `group_l1` norm, or `random` ones.
        again: more prunings, each of what the one before it has left; the penalty stays on until the last.
    """

    mode: Literal["none", "at_init", "prune", "sparse_then_prune"] = "none"
    round: PositiveInt | None = None
    ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    sparsity: NonNegativeFloat = 1e-5
    penalty: Literal["channel", "layer"] = "channel"
    criterion: Criterion = "group_l2"
    again: tuple[PruningAgain, ...] = ()

    def require_fit(self, last_round: int) -> None:
        """Sees that every pruning has its round, in a run of so many.

        Raises:
            ConfigError: one has none, or comes too late.
        """
        if self.mode == "none" and self.again:
            found = f"{len(self.again)} of them"
            raise ConfigError("pruning.again", expected="no more prunings where pruning.mode is none", found=found)
        if self.again and not all(before < after for before, after in pairwise((*self.rounds, last_round))):
            raise ConfigError(
                "pruning.again",
                expected=f"rounds that follow the one before, and come before the last one (schedule.rounds = {last_round})",
                found=", ".join(map(str, self.rounds)),
            )
        if self.mode not in ("prune", "sparse_then_prune"):
            return
        if self.round is None:
            raise ConfigError(
                "pruning.round",
                expected=f"the round after which to prune, 1 to {last_round - 1}",
                found="nothing",
                remedy=f"set it, or use pruning.mode at_init or none instead of {self.mode}",
            )
        if self.round >= last_round:
            raise ConfigError(
                "pruning.round",
                expected=f"a round before the last one, 1 to {last_round - 1} (schedule.rounds = {last_round})",
                found=str(self.round),
                remedy="prune earlier, run longer, or set pruning.mode: none",
            )

    @property
    def at_start(self) -> bool:
        """Whether the random network is pruned before the first round."""
        return self.mode == "at_init"

    def describe(self) -> str:
        """What is pruned when, in words."""
        asked = f"{100 * self.ratio:.1f} % of the channels"
        first = {
            "none": "not pruned",
            "at_init": f"pruned before the first round ({asked})",
            "prune": f"pruned after round {self.round} ({asked})",
            "sparse_then_prune": f"sparse training, pruned after round {self.round} ({asked})",
        }[self.mode]
        return first + "".join(f", then after round {one.round} ({100 * one.ratio:.1f} % of the rest)" for one in self.again)

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds after which the model is pruned; 0 is before the first."""
        if self.mode == "none":
            return ()
        return (0 if self.at_start else self.round or 0, *(again.round for again in self.again))

    @property
    def ratios(self) -> tuple[float, ...]:
        """What each pruning removes of what is left."""
        return () if self.mode == "none" else (self.ratio, *(again.ratio for again in self.again))

    def sparsity_at(self, version: int) -> float:
        """Strength of the penalty while the architecture is `version`: on until the last pruning, off after it."""
        return self.sparsity if self.mode == "sparse_then_prune" and version < len(self.ratios) else 0.0
