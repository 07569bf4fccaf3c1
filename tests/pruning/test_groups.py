"""Groups of coupled channels: what they must contain, what they must leave alone, and the cost of a forward pass."""

import copy

import pytest
import torch

from fedphd_ray.diffusion.unet import build_unet, initial_state
from fedphd_ray.pruning.groups import ChannelGroup, Member, channel_groups, count_macs
from fedphd_ray.tensors import digest


def by_name(groups):
    return {group.name: group for group in groups}


def test_skip_connections_carry_the_channels_of_conv_in(groups_of):
    """`conv_in` is added to by every residual block of its level and joined behind 64 and behind 32 channels on the way up."""
    group = by_name(groups_of["digits"])["conv_in"]
    assert (group.num_channels, group.block) == (32, 4)
    expected = {
        Member("conv_in.weight", 0, 0),
        Member("conv_in.bias", 0, 0),
        Member("down_blocks.0.resnets.0.norm1.weight", 0, 0),
        Member("down_blocks.0.resnets.0.norm1.bias", 0, 0),
        Member("down_blocks.0.resnets.0.conv1.weight", 1, 0),
        Member("down_blocks.0.resnets.0.conv2.weight", 0, 0),
        Member("down_blocks.0.resnets.0.conv2.bias", 0, 0),
        Member("down_blocks.0.downsamplers.0.conv.weight", 1, 0),
    }
    for block, offset in (("up_blocks.1.resnets.0", 64), ("up_blocks.1.resnets.1", 32)):
        for layer, dim in (("norm1.weight", 0), ("norm1.bias", 0), ("conv1.weight", 1), ("conv_shortcut.weight", 1)):
            expected.add(Member(f"{block}.{layer}", dim, offset))
    assert set(group.members) == expected


def test_a_channel_may_reach_the_same_layer_twice(groups_of):
    """The middle block adds to the channels of the lowest level, and the way up joins both: offsets 0 and 64."""
    members = by_name(groups_of["digits"])["down_blocks.1.attentions.0.to_out.0"].members
    assert [m.offset for m in members if m.parameter == "up_blocks.0.resnets.0.conv1.weight"] == [0, 64]


def test_queries_keys_and_values_go_head_by_head(groups_of):
    group = by_name(groups_of["digits"])["mid_block.attentions.0.to_q"]
    assert (group.num_channels, group.block) == (64, 8)
    layers = [(f"mid_block.attentions.0.{name}", 0) for name in ("to_q", "to_k", "to_v")]
    expected = {Member(f"{layer}.{kind}", dim, 0) for layer, dim in layers for kind in ("weight", "bias")}
    assert set(group.members) == expected | {Member("mid_block.attentions.0.to_out.0.weight", 1, 0)}


def test_blocks_are_norm_groups_or_heads_or_everything(groups_of):
    """In `tiny`, norms have 2 groups and the attention of 16 channels 4 heads, so a mix-up of the two would show."""
    blocks = {group.name: (group.num_channels, group.block) for group in groups_of["tiny"]}
    assert blocks["conv_in"] == (8, 4)
    assert blocks["down_blocks.1.attentions.0.to_out.0"] == (16, 8)
    assert blocks["mid_block.attentions.0.to_q"] == (16, 4)
    assert blocks["time_embedding.linear_1"] == (32, 32)


def test_layers_without_a_norm_behind_them_are_free(groups_of):
    """The output of an upper level without attention goes into the upsampling convolution only (spec 13, D5)."""
    free = {group.name for group in groups_of["cifar"] if group.block == group.num_channels}
    time = {"time_embedding.linear_1", "time_embedding.linear_2"}
    assert free == time | {f"up_blocks.{level}.resnets.2.conv2" for level in (0, 1)}


@pytest.mark.parametrize("name", ["tiny", "digits", "cifar", "celeba"])
def test_every_axis_but_the_images_and_the_sinusoids_is_covered_once(name, specs, groups_of):
    covered = {}
    for group in groups_of[name]:
        for member in group.members:
            span = range(member.offset, member.offset + group.num_channels)
            covered.setdefault((member.parameter, member.dim), []).extend(span)
    model = build_unet(specs[name], device="meta")
    axes = {(key, dim): size for key, p in model.named_parameters() for dim, size in enumerate(p.shape[:2])}
    fixed = {("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0), ("time_embedding.linear_1.weight", 1)}
    assert covered.keys() == axes.keys() - fixed
    assert all(sorted(indices) == list(range(axes[axis])) for axis, indices in covered.items())


def test_tracing_leaves_the_model_and_the_world_as_they_were(specs, groups_of):
    spec = specs["tiny"]
    model = build_unet(spec)
    model.load_state_dict(initial_state(spec, 1))
    model.conv_in.weight.requires_grad_(False)
    model.mid_block.eval()
    model.conv_out.bias.grad = torch.ones(1)
    before, modes = digest(model.state_dict()), [module.training for module in model.modules()]
    pointers, attributes = [p.data_ptr() for p in model.parameters()], [copy.copy(vars(module)) for module in model.modules()]
    random = torch.get_rng_state()
    with torch.no_grad():
        groups = channel_groups(model, 8, 1)
        assert count_macs(model, 8, 1) > 0
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)
    assert groups == groups_of["tiny"]
    assert digest(model.state_dict()) == before
    assert [module.training for module in model.modules()] == modes
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert not any(module._forward_hooks for module in model.modules())
    assert [vars(module).keys() for module in model.modules()] == [old.keys() for old in attributes]
    assert not model.conv_in.weight.requires_grad
    assert [p.grad is not None for p in model.parameters()].count(True) == 1


def test_a_group_must_be_whole_blocks():
    with pytest.raises(ValueError, match="blocks"):
        ChannelGroup("layer", 10, 4, ())
