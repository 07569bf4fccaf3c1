"""The pruning plan: which channels of each group stay, and how to cut everything that is shaped like the model.

Parameters, averages of them, optimiser moments, control variates and whole payloads are cut by the same plan. It is a small
record that goes into JSON, so clients that keep state of the former architecture can cut it themselves.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fedphd_ray.errors import PruningError
from fedphd_ray.pruning.groups import ChannelGroup, Member
from fedphd_ray.pruning.importance import Importance, group_l2_importance
from fedphd_ray.records import Payload
from fedphd_ray.tensors import Layout, Shape, State, as_numpy, as_tensor

FORMAT_VERSION = 1


@dataclass(frozen=True)
class GroupCut:
    """The channels of one group that stay: indices in ascending order."""

    group: ChannelGroup
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.kept, self.kept[1:], strict=False))
        if not self.kept or not ascending or self.kept[0] < 0 or self.kept[-1] >= self.group.num_channels:
            raise ValueError(f"group {self.group.name}: kept channels must ascend within 0..{self.group.num_channels - 1}")


@dataclass(frozen=True)
class PrunePlan:
    """How to get from the dense network to the one of architecture version `version`."""

    cuts: tuple[GroupCut, ...]
    version: int

    @property
    def num_channels(self) -> int:
        """Prunable channels of all groups: one bit each says the plan."""
        return sum(cut.group.num_channels for cut in self.cuts)

    @property
    def num_removed(self) -> int:
        """Channels of all groups that go."""
        return self.num_channels - sum(len(cut.kept) for cut in self.cuts)

    @property
    def effective_ratio(self) -> float:
        """Share of all prunable channels that go; at least the ratio asked for, as blocks keep whole channels."""
        return self.num_removed / self.num_channels if self.cuts else 0.0

    def cut(self, state: State) -> dict[str, Tensor]:
        """The pruned state, each tensor with memory of its own. Names that no group touches are copied whole."""
        result = {}
        for name, value in state.items():
            axes = self._axes.get(name, {})
            result[name] = value.detach() if axes else value.detach().clone(memory_format=torch.contiguous_format)
            for dim, axis in axes.items():
                kept = torch.tensor(axis.kept(value.shape[dim], name), device=value.device)
                result[name] = result[name].index_select(dim, kept)
        return result

    def cut_vector(self, vector: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        """The same for a flat vector [num_params] of any kind, with the new layout."""
        state = self.cut(layout.views(vector))
        cut = Layout.of(state)
        return cut.flatten(state, vector.dtype), cut

    def cut_payload(self, payload: Payload) -> Payload:
        """The pruned model on its way, with the plan's architecture version."""
        vector, layout = self.cut_vector(as_tensor(payload.vector), payload.layout)
        return Payload(as_numpy(vector), layout, self.version)

    def shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes that `cut` would leave, from shapes alone."""
        result = {}
        for name, shape in shapes.items():
            axes = self._axes.get(name, {})
            result[name] = tuple(len(axes[dim].kept(size, name)) if dim in axes else size for dim, size in enumerate(shape))
        return result

    def groups_left(self) -> tuple[ChannelGroup, ...]:
        """The groups of the network that `cut` leaves, to prune it again."""
        left = []
        for cut in self.cuts:
            group, axes = cut.group, self._axes
            members = tuple(
                Member(one.parameter, one.dim, axes[one.parameter][one.dim].place(one.offset)) for one in group.members
            )
            block = len(cut.kept) * group.block // group.num_channels  # of every block as many stay
            left.append(ChannelGroup(group.name, len(cut.kept), block, members))
        return tuple(left)

    def then(self, second: "PrunePlan") -> "PrunePlan":
        """The two prunings as one plan, which cuts in one step. The second is made from `groups_left`."""
        cuts = tuple(
            GroupCut(cut.group, tuple(cut.kept[index] for index in further.kept))
            for cut, further in zip(self.cuts, second.cuts, strict=True)
        )
        return PrunePlan(cuts, second.version)

    def to_json(self) -> str:
        """The plan as text for `from_json`."""
        return _FILE.dump_json(_File(FORMAT_VERSION, self)).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "PrunePlan":
        """Reads what `to_json` wrote; `PruningError` if it is something else."""
        try:
            file = _FILE.validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise PruningError("pruning plan", expected="a plan written by this program", found=found) from error
        if file.format != FORMAT_VERSION:
            expected, found = f"format {FORMAT_VERSION}", f"format {file.format}"
            raise PruningError("pruning plan", expected=expected, found=found, remedy="use the version that wrote it")
        return file.plan

    @cached_property
    def _axes(self) -> dict[str, dict[int, "_Axis"]]:
        """Parameter -> dimension -> everything the groups say about it."""
        spans: dict[str, dict[int, list[tuple[int, GroupCut]]]] = defaultdict(lambda: defaultdict(list))
        for cut in self.cuts:
            for member in cut.group.members:
                spans[member.parameter][member.dim].append((member.offset, cut))
        return {name: {dim: _Axis(tuple(parts)) for dim, parts in dims.items()} for name, dims in spans.items()}


@dataclass(frozen=True)
class _Axis:
    """One dimension of one parameter: the groups on it with their offsets. A concatenation has several."""

    parts: tuple[tuple[int, GroupCut], ...]

    def place(self, offset: int) -> int:
        """Where a group that starts at an offset starts after the cut."""
        return offset - sum(cut.group.num_channels - len(cut.kept) for start, cut in self.parts if start < offset)

    def kept(self, size: int, name: str) -> list[int]:
        """Indices that stay of `size`: those the groups keep, and those that belong to no group."""
        stays = [True] * size
        for offset, cut in self.parts:
            end = offset + cut.group.num_channels
            assert end <= size, f"{name}: {size} channels where the plan knows {end}; was it cut before?"
            stays[offset:end] = [False] * cut.group.num_channels
            for index in cut.kept:
                stays[offset + index] = True
        return [index for index, stay in enumerate(stays) if stay]


@dataclass(frozen=True)
class _File:
    format: int
    plan: PrunePlan


_FILE = TypeAdapter(_File)


def kept_per_block(group: ChannelGroup, ratio: float) -> int:
    """Channels that stay in each block of the group: removal is rounded up, as torch-pruning does.

    Raises:
        PruningError: `ratio` is not in [0, 1) or leaves the block empty.
    """
    if not 0.0 <= ratio < 1.0:
        raise PruningError("pruning.ratio", expected="a number from 0 up to, not including, 1", found=str(ratio))
    kept = math.floor(group.block * (1.0 - ratio) + 1e-9)  # 10 * (1 - 0.9) is a little less than 1
    if kept == 0:
        raise PruningError(
            "pruning.ratio",
            expected=f"at most {largest_ratio(group.block, 1):g}, so that each block of {group.block} channels keeps one",
            found=f"{ratio}, which leaves nothing of {group.name}",
            remedy="lower the ratio, or make the network wider or its norm groups fewer",
        )
    return kept


def largest_ratio(block: int, least: int) -> float:
    """The largest ratio, rounded down to four digits, with which each block of so many channels keeps the least number."""
    return math.floor(10_000 * (block - least) / block) / 10_000


def make_plan(
    groups: Iterable[ChannelGroup], state: State, ratio: float, version: int, importance: Importance = group_l2_importance
) -> PrunePlan:
    """Keeps the most important channels of every block; of equally important ones those with the lower index.

    Args:
        groups: of the network to prune.
        state: its parameters.
        ratio: share of the channels that go, in [0, 1), the same in every group; rounded up to whole channels of each block.
        version: architecture version that the plan leads to.
        importance: scores [num_channels] of a group; how many channels stay does not depend on it.

    Raises:
        PruningError: the ratio cannot be had, or the scores are not finite.
    """
    cuts = []
    for group in groups:
        per_block = kept_per_block(group, ratio)
        scores = importance(group, state)
        if not bool(torch.isfinite(scores).all()):
            raise PruningError(
                "pruning",
                expected=f"finite weights in {group.name}",
                found="nan or infinity",
                remedy="the training has diverged before the pruning: lower local.learning_rate or pruning.sparsity",
            )
        best = scores.view(-1, group.block).argsort(dim=1, descending=True, stable=True)[:, :per_block]
        starts = torch.arange(0, group.num_channels, group.block, device=best.device)
        kept = (best + starts[:, None]).flatten().sort().values
        cuts.append(GroupCut(group, tuple(kept.tolist())))
    return PrunePlan(tuple(cuts), version)


def uniform_plan(groups: Iterable[ChannelGroup], ratio: float, version: int) -> PrunePlan:
    """A plan without weights: it keeps the first channels of every block. Its shapes are those of every plan of this ratio."""
    return make_plan(groups, {}, ratio, version, importance=lambda group, _: torch.zeros(group.num_channels))
