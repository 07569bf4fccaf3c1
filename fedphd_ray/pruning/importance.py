"""How much channels matter, and the penalty that pushes unimportant ones towards zero before they are pruned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedphd_ray.pruning.groups import CLASS_TABLE, ChannelGroup
from fedphd_ray.tensors import State

PenaltyForm = Literal["channel", "layer"]

# Below this norm the penalty's gradient fades to zero, which is its value at zero; float32 norms of weights live far above.
_SMALLEST_NORM = 1e-12


Importance = Callable[[ChannelGroup, State], Tensor]
"""Scores of a group's channels [num_channels]; the lowest go."""


def group_l2_importance(group: ChannelGroup, state: State) -> Tensor:
    """Group L2 importance of every channel, float64 [num_channels], with mean 1.

    The squared norm of the channel's slice, averaged over the convolution and linear weights that carry it on either side and
    divided by the mean over channels (DepGraph, arXiv 2301.12900, as torch-pruning's default with p = 2; biases and norms do not
    count).
    """
    return _magnitude(group, state, torch.square)


def group_l1_importance(group: ChannelGroup, state: State) -> Tensor:
    """The same of absolute values instead of squares (torch-pruning's p = 1)."""
    return _magnitude(group, state, torch.abs)


def _magnitude(group: ChannelGroup, state: State, of: Callable[[Tensor], Tensor]) -> Tensor:
    total = torch.zeros(group.num_channels, dtype=torch.float64)
    for member in group.members:
        weight = state[member.parameter].detach()
        if weight.ndim > 1 and member.parameter != CLASS_TABLE:
            part = weight.narrow(member.dim, member.offset, group.num_channels).transpose(0, member.dim).flatten(1)
            total += of(part.double()).sum(1).cpu()
    return total / total.mean().clamp_min(torch.finfo(torch.float64).tiny)


def importance_from(scores: Tensor, groups: Sequence[ChannelGroup]) -> Importance:
    """What scores of all channels say, group after group as in `criteria.gradient_scores`."""
    lengths = [group.num_channels for group in groups]
    by_name = dict(zip((group.name for group in groups), scores.double().split(lengths), strict=True))
    return lambda group, state: by_name[group.name]


@dataclass(frozen=True)
class SparsityPenalty:
    """The group-norm penalty Omega of sparse training (FedPhD, arXiv 2507.06449; DepGraph, arXiv 2301.12900).

    Attributes:
        form: `channel`: Omega is the sum, over weight tensors and their output channels c, of ||w_c||_2. `layer`: the sum over
            weight tensors of the norm of the whole tensor, as in the authors' code.
    """

    form: PenaltyForm = "channel"

    def value(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Omega, a scalar that autograd can differentiate, over the parameters whose name contains `weight`."""
        norms = [norm.sum() for norm in self._norms([value for name, value in weights.items() if "weight" in name])]
        return torch.stack(norms).sum()

    @torch.no_grad()
    def add_gradient(self, weights: Sequence[Tensor], grads: Sequence[Tensor], strength: float) -> None:
        """Adds strength * dOmega/dw = strength * w_c / ||w_c||_2 to each gradient, in place; 0 where the norm is 0.

        Args:
            weights: weight tensors, the output channel first.
            grads: their gradients, of the same shapes.
            strength: lambda.
        """
        norms = self._norms(weights)
        torch._foreach_clamp_min_(norms, _SMALLEST_NORM)
        torch._foreach_reciprocal_(norms)
        torch._foreach_addcmul_(list(grads), list(weights), norms, value=strength)

    def _norms(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Norms of the groups of each tensor, shaped to broadcast with it."""
        if self.form == "layer":
            return list(torch._foreach_norm(list(weights)))
        return [
            torch.linalg.vector_norm(w, dim=tuple(range(1, w.ndim)), keepdim=True) if w.ndim > 1 else w.abs() for w in weights
        ]
