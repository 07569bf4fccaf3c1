"""When the network is pruned, by how much, by what, and under which penalty it trains until then."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from fedphd_ray.errors import ConfigError
from fedphd_ray.pruning.criteria import AnyCriterion, GroupL2
from fedphd_ray.settings.sections import Section

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class PruningAgain(Section):
    """One more pruning.

    Attributes:
        round: the round after which.
        ratio: share of the channels that are left then, as in `PruningConfig`.
    """

    round: PositiveInt
    ratio: Share


class Budget(Section):
    """What may be left of the dense network, as a share of it; the smallest ratio that keeps to it is taken.

    Attributes:
        params: of its parameters.
        macs: of its multiply-accumulates.
    """

    params: Share | None = None
    macs: Share | None = None

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.params is None and self.macs is None:
            raise ConfigError("pruning.budget", expected="params, macs, or both", found="neither", remedy="e.g. {params: 0.5}")
        return self

    def describe(self) -> str:
        """In words."""
        shares = {"parameters": self.params, "MACs": self.macs}
        return " and ".join(f"{100 * share:g} % of the {what}" for what, share in shares.items() if share is not None)


class PruningConfig(Section):
    """Structured pruning at the cloud: once, as in the paper, or more often.

    Attributes:
        mode: `none`; `at_init` prunes the random network before the first round and trains the small one; `prune` trains dense
            rounds, then prunes; `sparse_then_prune` does so with the group-norm penalty before (FedPhD).
        round: the round after which `prune` and `sparse_then_prune` prune.
        rounds: instead of `round`, several of them, each with the same ratio.
        ratio: share of channels removed in every group coupled by a GroupNorm, rounded up to what the norm's groups allow; of the
            channels that are left then, where there are several prunings.
        budget: instead of a ratio, what may be left after the last pruning.
        sparsity: lambda, strength of the penalty in `sparse_then_prune`.
        penalty: `channel` is the sum of L2 norms of output channels (the paper's intention), `layer` one norm per layer (the
            authors' code).
        criterion: which channels stay: those of largest `group_l2` norm (the paper) or `group_l1` norm, or `random` ones; by what
            the clients of the pruning round say of their loss: `taylor` or `diff_pruning`; or a class of your own by its path.
        scored_images: images of its own by which a client scores the channels, where it is asked.
        least_loss: `diff_pruning` looks at the time steps before the loss has fallen to this share of its largest value.
        again: more prunings with ratios of their own, each of what the one before has left; the penalty stays on until the last.
    """

    mode: Literal["none", "at_init", "prune", "sparse_then_prune"] = "none"
    round: PositiveInt | None = None
    rounds: tuple[PositiveInt, ...] = ()
    ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    budget: Budget | None = None
    sparsity: NonNegativeFloat = 1e-5
    penalty: Literal["channel", "layer"] = "channel"
    criterion: AnyCriterion = GroupL2()
    scored_images: PositiveInt = 128
    least_loss: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    again: tuple[PruningAgain, ...] = ()

    def require_fit(self, last_round: int) -> None:
        """Sees that every pruning has its round, in a run of so many.

        Raises:
            ConfigError: one has none, or comes too late; or keys contradict one another.
        """
        self._require_one_way()
        if self.mode == "none" and (self.again or self.rounds):
            key, found = ("again", f"{len(self.again)} of them") if self.again else ("rounds", ", ".join(map(str, self.rounds)))
            raise ConfigError(f"pruning.{key}", expected="no more prunings where pruning.mode is none", found=found)
        if (self.again or self.rounds) and not all(before < after for before, after in pairwise((*self.moments, last_round))):
            raise ConfigError(
                "pruning.again" if self.again else "pruning.rounds",
                expected=f"rounds that follow the one before, and come before the last one (schedule.rounds = {last_round})",
                found=", ".join(map(str, self.moments)),
            )
        if self.mode not in ("prune", "sparse_then_prune") or self.rounds:
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

    def _require_one_way(self) -> None:
        """What is said in two ways is said twice."""
        if self.mode == "none":
            return
        if self.rounds and (self.again or self.round is not None):
            found = "pruning.again, too" if self.again else f"pruning.round: {self.round}, too"
            raise ConfigError("pruning.rounds", expected="either all rounds, or the first one and more", found=found)
        if self.rounds and self.at_start:
            found = ", ".join(map(str, self.rounds))
            remedy = "name later prunings by pruning.again"
            raise ConfigError("pruning.rounds", expected="none where pruning.mode is at_init", found=found, remedy=remedy)
        if self.budget is not None and self.again:
            found, remedy = "pruning.again with ratios, too", "name the rounds by pruning.rounds"
            raise ConfigError("pruning.budget", expected="prunings whose ratio follows from it", found=found, remedy=remedy)
        if self.asks_clients and self.at_start:
            raise ConfigError(
                "pruning.criterion",
                expected="group_l2, group_l1 or random where pruning.mode is at_init: nobody has been asked yet",
                found=self.criterion.name,
            )

    @property
    def at_start(self) -> bool:
        """Whether the random network is pruned before the first round."""
        return self.mode == "at_init"

    @property
    def asks_clients(self) -> bool:
        """Whether clients score the channels."""
        return self.mode != "none" and self.criterion.asks_clients

    def describe(self) -> str:
        """What is pruned when, in words."""
        asked = f"{100 * self.ratio:.1f} % of the channels"
        if self.budget is not None:
            asked = f"to {self.budget.describe()} at most"
        when = " and ".join(map(str, self.rounds)) if self.rounds else str(self.round)
        after = f"pruned after round{'s' * (len(self.rounds) > 1)} {when} ({asked})"
        first = {
            "none": "not pruned",
            "at_init": f"pruned before the first round ({asked})",
            "prune": after,
            "sparse_then_prune": f"sparse training, {after}",
        }[self.mode]
        return first + "".join(f", then after round {one.round} ({100 * one.ratio:.1f} % of the rest)" for one in self.again)

    @property
    def moments(self) -> tuple[int, ...]:
        """The rounds after which the model is pruned; 0 is before the first."""
        if self.mode == "none":
            return ()
        return self.rounds or (0 if self.at_start else self.round or 0, *(again.round for again in self.again))

    @property
    def ratios(self) -> tuple[float, ...]:
        """What each pruning removes of what is left."""
        if self.mode == "none":
            return ()
        return (self.ratio,) * len(self.rounds) or (self.ratio, *(again.ratio for again in self.again))

    def sparsity_at(self, version: int) -> float:
        """Strength of the penalty while the architecture is `version`: on until the last pruning, off after it."""
        return self.sparsity if self.mode == "sparse_then_prune" and version < len(self.ratios) else 0.0
