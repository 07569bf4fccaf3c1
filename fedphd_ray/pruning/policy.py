"""When the network is pruned, and under which penalty it trains until then."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from fedphd_ray.sections import Section


class PruningConfig(Section):
    """One-shot structured pruning at the cloud.

    Attributes:
        mode: `none`; `at_init` prunes the random network before the first round and trains the small one; `prune` trains dense
            rounds, then prunes once; `sparse_then_prune` does so with the group-norm penalty before (FedPhD).
        round: the round after which `prune` and `sparse_then_prune` prune.
        ratio: share of channels removed in every group coupled by a GroupNorm, rounded up to what the norm's groups allow.
        sparsity: lambda, strength of the penalty in `sparse_then_prune`.
        penalty: `channel` is the sum of L2 norms of output channels (the paper's intention), `layer` one norm per layer (the
            authors' code).
    """

    mode: Literal["none", "at_init", "prune", "sparse_then_prune"] = "none"
    round: PositiveInt | None = None
    ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    sparsity: NonNegativeFloat = 1e-5
    penalty: Literal["channel", "layer"] = "channel"

    @property
    def prune_round(self) -> int:
        """The round after which the trained model is pruned; 0 for never."""
        return self.round or 0 if self.mode in ("prune", "sparse_then_prune") else 0

    def sparsity_at(self, version: int) -> float:
        """Strength of the penalty while the architecture is `version`: on until the pruning, off after it."""
        return self.sparsity if self.mode == "sparse_then_prune" and version == 0 else 0.0
