"""A sub-model as a share of a network's parameters: cut out before it is sent, and put back where it came from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from fedphd_ray.diffusion.unet import UNetSpec, blind_blocks
from fedphd_ray.errors import ConfigError, PruningError
from fedphd_ray.federation.channel.links import Content, Delivery, Parameters
from fedphd_ray.federation.channel.protocol import Holdings
from fedphd_ray.federation.channel.sparsification import largest
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.prune import groups_at, pruned_shapes, shapes_at
from fedphd_ray.federation.submodels.widths import SubModels
from fedphd_ray.federation.update import Update
from fedphd_ray.pruning.plan import GroupCut, PrunePlan, kept_per_block
from fedphd_ray.records import ClientState, Kind, Slice
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.parts import Part, named
from fedphd_ray.tensors import Layout, as_numpy, as_tensor


@dataclass(frozen=True, eq=False)
class SubNetwork:
    """Some coordinates of a network's vector: a network themselves, or what a mask keeps.

    Attributes:
        layout: of the small network; of a mask, one vector of all that it keeps.
        places: where its parameters lie in the large one's vector, int32 [layout.num_params].
        whole: length of that vector.
        is_mask: nobody can tell the places without being told.
    """

    layout: Layout
    places: Tensor
    whole: int
    is_mask: bool = False

    def cut(self, vector: Tensor) -> Tensor:
        """The small network's share [layout.num_params] of a vector [whole] of any meaning."""
        return vector.index_select(0, self.places.to(vector.device))

    def grown(self, small: Tensor, onto: Tensor | None = None) -> Tensor:
        """A vector [whole] with these values in their places, and elsewhere those of `onto`, or zeros; in new memory."""
        large = torch.zeros(self.whole, dtype=small.dtype, device=small.device) if onto is None else onto.to(small.device).clone()
        return large.index_copy_(0, self.places.long().to(small.device), small)

    def cut_state(self, state: ClientState | None) -> ClientState | None:
        """What a client keeps, as its small network needs it."""
        if state is None:
            return None
        return replace(state, vectors={name: as_numpy(self.cut(as_tensor(own))) for name, own in state.vectors.items()})

    def grown_state(self, small: ClientState | None, before: ClientState | None) -> ClientState | None:
        """What a client keeps in the large network's coordinates: another pruning, or another slice, finds it there."""
        if small is None:
            return None
        former = {} if before is None else {name: as_tensor(own) for name, own in before.vectors.items()}
        grown = {name: as_numpy(self.grown(as_tensor(own), former.get(name))) for name, own in small.vectors.items()}
        return replace(small, vectors=grown)

    def held(self, whole: Holdings, strategy: Strategy) -> Holdings:
        """What an aggregator sends to a client that trains the small network."""
        beside = {kind: self.cut(vector) for kind, vector in whole.beside.items()}
        masked = self.whole if self.is_mask else 0
        return replace(whole, model=self.cut(whole.model), parts=strategy.parts(self.layout), beside=beside, masked=masked)

    def delivery(self, sent: Delivery, reported: Sequence[Part]) -> Delivery:
        """What arrived of a small network, in the large one's coordinates, with those that it covers.

        Args:
            sent: an update and what came beside it.
            reported: parts of the small network that the client has sent.
        """
        version, update = sent.version, sent.update
        covered = torch.zeros_like(update.trained)
        for piece in (piece for part in reported for piece in part.slices):
            covered[piece] = 1.0
        beside = {kind: self.grown(vector) for kind, vector in sent.beside.items()}
        beside[Kind.COVERAGE] = self.grown(covered) * beside.get(Kind.COVERAGE, 1.0)
        difference = self.grown(update.vector)
        contents: dict[Kind, Content] = {
            Kind.MODEL: Parameters.whole(Update(difference, None, (slice(0, self.whole),)), version),
            **{kind: Parameters.whole(vector, version) for kind, vector in beside.items()},
        }
        return replace(sent, contents=contents)


@dataclass(frozen=True, eq=False)
class Seat:
    """Where a client trains: its network, what is sent to it, and how that lies in the whole network.

    Attributes:
        model: the module.
        held: what its aggregator has for it.
        sub: its share of the whole network; None for all of it.
        covers: others train less, so that it has to be said that it covers everything.
    """

    model: FlatModel
    held: Holdings
    sub: SubNetwork | None = None
    covers: bool = False

    @property
    def mask(self) -> Tensor | None:
        """1 where the client trains, and 0 elsewhere [num_params]; None where it trains all of its network."""
        return None

    def received(self, arrived: Tensor) -> Tensor:
        """What arrived, as the module takes it."""
        return arrived

    def to_send(self, update: Update) -> Update:
        """What the module's update is on a link."""
        return update

    def of_state(self, state: ClientState | None) -> ClientState | None:
        """What a client keeps, for its network."""
        return state if self.sub is None else self.sub.cut_state(state)

    def to_keep(self, small: ClientState | None, before: ClientState | None) -> ClientState | None:
        """What it keeps after that, in the whole network's coordinates."""
        return small if self.sub is None else self.sub.grown_state(small, before)

    def arrived(self, sent: Delivery, reported: Sequence[str] | None) -> Delivery:
        """What its aggregator adds up; `reported` are the names of the parts that were sent, None for all that travel."""
        if self.sub is not None:
            return self.sub.delivery(sent, named(self.held.parts, reported))
        if not self.covers or Kind.COVERAGE in sent.contents:
            return sent
        ones = Parameters.whole(torch.ones_like(sent.update.trained), sent.version)
        return replace(sent, contents={**sent.contents, Kind.COVERAGE: ones})


@dataclass(frozen=True, eq=False)
class MaskedSeat(Seat):
    """A client that trains some coordinates of the whole network, and has zeros in place of the others."""

    @property
    def mask(self) -> Tensor:
        """See `Seat`."""
        assert self.sub is not None
        return self.sub.grown(torch.ones(len(self.sub.places), device=self.held.model.device))

    def received(self, arrived: Tensor) -> Tensor:
        """With zeros."""
        assert self.sub is not None
        return self.sub.grown(arrived)

    def to_send(self, update: Update) -> Update:
        """Without them."""
        assert self.sub is not None
        assert update.initial is not None
        return Update.whole(self.sub.cut(update.trained), self.sub.cut(update.initial))

    def of_state(self, state: ClientState | None) -> ClientState | None:
        """As it is."""
        return state

    def to_keep(self, small: ClientState | None, before: ClientState | None) -> ClientState | None:
        """As it is."""
        return small


def masked_network(model: Tensor, density: float) -> SubNetwork:
    """The largest parameters of a model."""
    places = torch.nonzero(largest(model, num_kept(len(model), density))).flatten().to(torch.int32)
    return SubNetwork(kept_layout(len(places)), places, len(model), is_mask=True)


def num_kept(num_params: int, density: float) -> int:
    """So many parameters does a mask keep."""
    return max(1, math.ceil(density * num_params))


def kept_layout(num: int) -> Layout:
    """Of parameters that are no network by themselves."""
    return Layout(("kept",), ((num,),))


def slice_plan(spec: UNetSpec, ratios: tuple[float, ...], own: Slice) -> PrunePlan:
    """The plan that cuts a slice out of the network that prunings by these ratios have left."""
    cuts = []
    for group in groups_at(spec, ratios):
        per_block = kept_per_block(group, 1.0 - own.width)
        window = [(own.shift + step) % group.block for step in range(per_block)]
        starts = range(0, group.num_channels, group.block)
        cuts.append(GroupCut(group, tuple(sorted(start + step for start in starts for step in window))))
    return PrunePlan(tuple(cuts), version=len(ratios))


@lru_cache(maxsize=8)
def sub_network(spec: UNetSpec, ratios: tuple[float, ...], own: Slice) -> SubNetwork:
    """A slice of the network that prunings by these ratios have left."""
    layout = Layout.of({name: torch.empty(shape, device="meta") for name, shape in shapes_at(spec, ratios).items()})
    plan, num = slice_plan(spec, ratios, own), layout.num_params
    assert num < 2**31
    cut = plan.cut(layout.views(torch.arange(num, dtype=torch.int32)))
    small = Layout.of(cut)
    return SubNetwork(small, small.flatten(cut, torch.int32), num)


def narrow_layout(spec: UNetSpec, ratios: tuple[float, ...], width: float) -> Layout:
    """Names and shapes of the network at a width.

    Raises:
        ConfigError: nothing of some layer is left, or a residual block that could not see the time step.
    """
    dense = shapes_at(spec, ratios)
    pruned = f" after pruning by {', '.join(f'{ratio:g}' for ratio in ratios)}" if ratios else ""
    try:
        shapes = slice_plan(spec, ratios, Slice(width, 0)).shapes(dense)
    except PruningError as error:
        raise ConfigError(
            "submodels.widths",
            expected=f"widths that leave every norm group a channel{pruned}",
            found=f"{width:g}",
            remedy="take wider ones",
        ) from error
    if blind := blind_blocks(spec, shapes):
        raise ConfigError(
            "submodels.widths",
            expected=f"widths that leave two channels of every norm group{pruned}, so that the network can see the time step",
            found=f"{width:g}, which leaves one in {len(blind)} residual blocks, among them {blind[0]}",
            remedy="take wider ones, widen the network, or set model.groups to a smaller divisor of the widths",
        )
    return Layout.of({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})


def require_networks(spec: UNetSpec, ratios: tuple[float, ...], submodels: SubModels | None) -> None:
    """Sees that every network there will be is one.

    Raises:
        PruningError: a pruning would empty a layer, or leave a residual block that cannot see the time step.
        ConfigError: a width would.
    """
    pruned_shapes(spec, *ratios)
    for width in () if submodels is None or submodels.scheme == "masked" else submodels.widths:
        for version in range(len(ratios) + 1):
            narrow_layout(spec, ratios[:version], width)


def num_slices(spec: UNetSpec, ratios: tuple[float, ...], submodels: SubModels) -> int:
    """Different slices there are, the whole network among them: windows repeat when every group has come round.

    Of masks there are too many: what they have covered is not told above the edges, and the cloud takes means of whole models.
    """
    if submodels.scheme == "masked":
        return 0
    narrow = sum(width < 1 for width in submodels.widths)
    turns = math.lcm(*(group.block for group in groups_at(spec, ratios))) if submodels.scheme == "rolling" else 1
    return len(submodels.widths) - narrow + narrow * turns
