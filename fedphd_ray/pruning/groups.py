"""Which channels can only go together, found by tracing the network, and what one forward pass costs.

The dependency graph is that of DepGraph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900) as
torch-pruning builds it. This is the only file that imports torch-pruning. It works on a copy of the model without memory (on
PyTorch's `meta` device), so the model itself, its mode, its gradients and all random generators stay as they are.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch_pruning
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

CLASS_TABLE = "class_embedding.weight"
"""A row per class, looked up and not multiplied: its columns go with their channels, but say nothing of how much those matter."""


@dataclass(frozen=True)
class Member:
    """A slice of a parameter that goes with a group: channel i of the group is index `offset` + i of axis `dim`.

    `dim` is 0 for outputs (and for biases and norms), 1 for inputs and for the table of classes. Concatenated skip connections
    have offsets above 0.
    """

    parameter: str
    dim: int
    offset: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together wherever they occur.

    Attributes:
        name: the layer that makes the channels, or the first of several that are added up.
        num_channels: before pruning.
        block: channels of one group of a GroupNorm, or of one attention head: each such block must keep the same number. Equal to
            `num_channels` where nothing of this kind depends on the channels.
        members: every slice of every parameter that carries these channels.
    """

    name: str
    num_channels: int
    block: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if self.num_channels < 1 or self.block < 1 or self.num_channels % self.block:
            raise ValueError(f"group {self.name}: {self.num_channels} channels in blocks of {self.block}")


def channel_groups(model: UNet2DModel, image_size: int, channels: int) -> tuple[ChannelGroup, ...]:
    """All groups of channels that may be pruned, in the order of the model's parameters.

    The image's channels (input of `conv_in`, output of `conv_out`), the sinusoids of the time step and the classes never are.

    Args:
        model: on any device, `meta` included; not changed.
        image_size: height and width of the images in pixels, the true ones.
        channels: of the images.
    """
    skeleton = _skeleton(model)
    graph = torch_pruning.DependencyGraph()
    with torch.enable_grad():
        graph.build_dependency(skeleton, _example(skeleton, image_size, channels))
    names = {module: name for name, module in skeleton.named_modules()}
    order = {name: index for index, (name, _) in enumerate(skeleton.named_parameters())}
    groups = []
    for traced in graph.get_all_groups(ignored_layers=[skeleton.conv_out]):
        num_channels = len(traced[0].idxs)
        members: set[Member] = set()
        for item in traced:
            layer = item.dep.target.module
            if layer in names:  # the graph also holds operations, which have no parameters
                outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
                members.update(_members(layer, names[layer], outputs, _offsets(item.idxs, item.root_idxs, num_channels)))
        ordered = tuple(sorted(members, key=lambda member: (order[member.parameter], member.dim, member.offset)))
        groups.append(ChannelGroup(_source(skeleton, ordered), num_channels, num_channels // _parts(skeleton, ordered), ordered))
    groups.sort(key=lambda group: order[f"{group.name}.weight"])
    _check_coverage(skeleton, groups)
    return tuple(groups)


def count_macs(model: UNet2DModel, image_size: int, channels: int) -> int:
    """Multiply-accumulates of one forward pass of one image, as torch-pruning counts them.

    Convolutions, linear layers and norms count, products inside the attention do not: the figures of FedPhD and Diff-Pruning are
    counted so, too.
    """
    skeleton = _skeleton(model)
    macs, _ = torch_pruning.utils.count_ops_and_params(skeleton, _example(skeleton, image_size, channels))
    return int(macs)


def _skeleton(model: UNet2DModel) -> UNet2DModel:
    """A deep copy whose parameters have shapes but no memory."""
    blank = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=True) for p in model.parameters()}
    return copy.deepcopy(model, blank)


def _example(model: UNet2DModel, image_size: int, channels: int) -> tuple[Tensor, ...]:
    """What one forward pass takes: an image, a time step, and a label where the network is told one."""
    step = torch.ones(1, dtype=torch.int64, device="meta")
    return torch.zeros(1, channels, image_size, image_size, device="meta"), step, *[step] * (model.class_embedding is not None)


def _offsets(indices: Iterable[int], roots: Iterable[int], num_channels: int) -> list[int]:
    """Where the group's channels start along an axis: every start must carry all channels, in order."""
    found: dict[int, list[int]] = defaultdict(list)
    for index, root in zip(indices, roots, strict=True):
        found[index - root].append(root)
    assert all(channels == list(range(num_channels)) for channels in found.values()), "the graph permutes channels"
    return sorted(found)


def _members(module: nn.Module, name: str, outputs: bool, offsets: Iterable[int]) -> Iterable[Member]:
    assert isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm | nn.Embedding), f"{name}: unknown kind of layer"
    for offset in offsets:
        if isinstance(module, nn.Embedding):  # a row per class, a column per channel
            yield Member(f"{name}.weight", 1, offset)
        elif outputs or isinstance(module, nn.GroupNorm):
            for parameter, _ in module.named_parameters():
                yield Member(f"{name}.{parameter}", 0, offset)
        else:
            yield Member(f"{name}.weight", 1, offset)


def _source(model: UNet2DModel, members: Iterable[Member]) -> str:
    """The first layer that makes the channels."""
    made = (member.parameter for member in members if member.dim == 0 and model.get_parameter(member.parameter).ndim > 1)
    return next(made).removesuffix(".weight")


def _parts(model: UNet2DModel, members: Iterable[Member]) -> int:
    """Into how many parts a layer divides the channels: a GroupNorm into its groups, an attention into its heads."""
    parts = {1}
    for member in members:
        layer = model.get_submodule(member.parameter.rpartition(".")[0])
        if isinstance(layer, nn.GroupNorm):
            parts.add(layer.num_groups)
        elif member.parameter.endswith(".to_q.weight") and member.dim == 0:
            attention = model.get_submodule(member.parameter.removesuffix(".to_q.weight"))
            assert isinstance(attention, Attention)
            parts.add(attention.heads)
    assert len(parts) <= 2, f"norms of different numbers of groups share channels: {sorted(parts)}"
    return max(parts)


def _check_coverage(model: UNet2DModel, groups: list[ChannelGroup]) -> None:
    """Every axis of every parameter is covered exactly once, but for the image's channels and the sinusoids."""
    kept = {("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0), ("time_embedding.linear_1.weight", 1)}
    kept |= {("time_proj.weight", 0), ("time_proj.weight", 1), (CLASS_TABLE, 0)}
    covered: dict[tuple[str, int], list[int]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            covered[member.parameter, member.dim] += range(member.offset, member.offset + group.num_channels)
    axes = {(name, dim): size for name, p in model.named_parameters() for dim, size in enumerate(p.shape[:2])}
    for axis, size in axes.items():
        assert sorted(covered.get(axis, [])) == ([] if axis in kept else list(range(size))), f"{axis}: not covered once"
