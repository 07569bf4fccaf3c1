"""When the network is pruned, and under which penalty it trains until then."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

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
        again: more prunings, each of what the one before it has left; the penalty stays on until the last.
    """

    mode: Literal["none", "at_init", "prune", "sparse_then_prune"] = "none"
    round: PositiveInt | None = None
    ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    sparsity: NonNegativeFloat = 1e-5
    penalty: Literal["channel", "layer"] = "channel"
    again: tuple[PruningAgain, ...] = ()

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds after which the model is pruned; 0 is before the first."""
        if self.mode == "none":
            return ()
        return (0 if self.mode == "at_init" else self.round or 0, *(again.round for again in self.again))

    @property
    def ratios(self) -> tuple[float, ...]:
        """What each pruning removes of what is left."""
        return () if self.mode == "none" else (self.ratio, *(again.ratio for again in self.again))

    def sparsity_at(self, version: int) -> float:
        """Strength of the penalty while the architecture is `version`: on until the last pruning, off after it."""
        return self.sparsity if self.mode == "sparse_then_prune" and version < len(self.ratios) else 0.0
