"""Which channels stay: criteria that go by the weights alone, and criteria for which clients are asked."""

import zlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from fedphd_ray.pruning.groups import CLASS_TABLE, ChannelGroup
from fedphd_ray.pruning.importance import Importance, group_l1_importance, group_l2_importance
from fedphd_ray.seeds import Purpose, torch_generator
from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.settings.sections import Section
from fedphd_ray.tensors import State


class Criterion(Section):
    """How much channels matter. One that goes by weights has `scores`, one that asks the clients has `of_products`.

    Attributes:
        asks_clients: it needs data, which the clients have.
        early_steps: gradients are summed over the first time steps, instead of that of the training loss.
    """

    asks_clients: ClassVar[bool] = False
    early_steps: ClassVar[bool] = False

    name: str = ""

    def scores(self, group: ChannelGroup, state: State, generator: torch.Generator) -> Tensor:
        """What the weights say of a group's channels [num_channels]: the lowest go.

        Args:
            group: of channels that stay or go together.
            state: the parameters by name.
            generator: for what is left to chance; keyed by seed, architecture and group.
        """
        raise NotImplementedError

    def of_products(self, products: Tensor) -> Tensor:
        """What a client's products of weight and gradient [num_channels, weights of each] say of channels [num_channels]."""
        raise NotImplementedError

    def of_norms(self, products: Tensor) -> Tensor:
        """The same of a norm's scales [num_channels]; by default nothing."""
        return torch.zeros_like(products)

    def importance(self, seed: int, version: int) -> Importance:
        """As it is used for the pruning that leads to architecture `version`; not of one that asks the clients."""

        def scores(group: ChannelGroup, state: State) -> Tensor:
            key = version, zlib.crc32(group.name.encode())
            return self.scores(group, state, torch_generator(seed, Purpose.PRUNING, *key))

        return scores


class GroupL2(Criterion):
    """The norm of all weights that carry a channel (FedPhD, DepGraph)."""

    name: Literal["group_l2"] = "group_l2"

    def scores(self, group: ChannelGroup, state: State, generator: torch.Generator) -> Tensor:
        """See `group_l2_importance`."""
        return group_l2_importance(group, state)


class GroupL1(Criterion):
    """The same of absolute values."""

    name: Literal["group_l1"] = "group_l1"

    def scores(self, group: ChannelGroup, state: State, generator: torch.Generator) -> Tensor:
        """See `group_l1_importance`."""
        return group_l1_importance(group, state)


class Random(Criterion):
    """To compare with: it looks at no weight."""

    name: Literal["random"] = "random"

    def scores(self, group: ChannelGroup, state: State, generator: torch.Generator) -> Tensor:
        """Uniform."""
        return torch.rand(group.num_channels, generator=generator, dtype=torch.float64)


class Taylor(Criterion):
    """First-order change of the loss without a channel (Molchanov et al. 2019, arXiv 1906.10771; torch-pruning's default)."""

    asks_clients: ClassVar[bool] = True

    name: Literal["taylor"] = "taylor"

    def of_products(self, products: Tensor) -> Tensor:
        """The sum of absolute values."""
        return products.abs().sum(1)


class DiffPruning(Criterion):
    """Squares of the same products, by gradients of the early time steps, and absolute values of norms (arXiv 2305.10924)."""

    asks_clients: ClassVar[bool] = True
    early_steps: ClassVar[bool] = True

    name: Literal["diff_pruning"] = "diff_pruning"

    def of_products(self, products: Tensor) -> Tensor:
        """The sum of squares."""
        return products.square().sum(1)

    def of_norms(self, products: Tensor) -> Tensor:
        """Absolute values."""
        return products.abs()


def _spelt_out(value: Any) -> Any:
    """`taylor` for `{name: taylor}`."""
    return {"name": value} if isinstance(value, str) else value


AnyCriterion = Annotated[
    Annotated[GroupL2 | GroupL1 | Random | Taylor | DiffPruning, Field(discriminator="name"), OrOwn(Criterion)],
    BeforeValidator(_spelt_out),
]


def gradient_scores(criterion: Criterion, groups: Sequence[ChannelGroup], state: State, gradient: State) -> Tensor:
    """What a criterion makes of weights and gradients, float32 [num_channels of all groups], group after group.

    Biases and the table of classes do not count.

    Args:
        criterion: one that asks the clients.
        groups: of the network.
        state: its parameters.
        gradient: of the loss, by the same names.
    """
    products = {name: weight.detach() * gradient[name] for name, weight in state.items()}
    return torch.cat([_of_group(criterion, group, products) for group in groups])


def _of_group(criterion: Criterion, group: ChannelGroup, products: State) -> Tensor:
    total = torch.zeros(group.num_channels)
    for member in group.members:
        if member.parameter == CLASS_TABLE or not member.parameter.endswith("weight"):
            continue
        part = products[member.parameter].narrow(member.dim, member.offset, group.num_channels)
        if part.ndim > 1:
            total += criterion.of_products(part.transpose(0, member.dim).flatten(1)).cpu()
        else:
            total += criterion.of_norms(part).cpu()
    return total
