"""A network that cannot see the time step is refused before anything starts; one that can is not."""

from pathlib import Path

import pytest
import torch
from federations import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, blind_blocks, build_unet, initial_state, parameter_shapes
from fedphd_ray.errors import ConfigError, PruningError, UserError
from fedphd_ray.federation.prune import groups_of, pruned_shapes
from fedphd_ray.pruning.groups import ChannelGroup
from fedphd_ray.pruning.plan import kept_per_block, largest_ratio, uniform_plan
from fedphd_ray.tensors import Layout


def seen(spec: UNetSpec, ratio: float) -> float:
    """Largest difference of outputs between the first and the last time step, of a random network pruned so."""
    plan = uniform_plan(groups_of(spec), ratio, 1)
    state = plan.cut(initial_state(spec, 1))
    unet = build_unet(spec, Layout.of(state).by_name).eval()
    unet.load_state_dict(state)
    image = torch.randn(1, spec.channels, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, last = (unet(image, torch.tensor([step])).sample for step in (0, 999))
    return float((first - last).abs().max())


def blind_one() -> UNetSpec:
    """The issue's own: blocks of two channels, of which one stays."""
    return UNetSpec(UNetConfig(widths=(32, 32), attention=(False, True), groups=16), 8, 1)


def test_a_norm_of_single_channels_takes_the_time_step_away() -> None:
    spec = blind_one()
    assert seen(spec, 0.0) > 1e-3
    assert seen(spec, 0.125) < 1e-5
    with pytest.raises(PruningError, match="norms of three channels or more"):
        pruned_shapes(spec, 0.125)


def test_one_blind_level_is_enough_to_be_refused() -> None:
    with pytest.raises(PruningError, match=r"leaves one in 3 residual blocks, among them down_blocks\.0"):
        pruned_shapes(UNetSpec(UNetConfig(widths=(32, 48, 64), attention=(False,) * 3, groups=16, head_dim=16), 8, 1), 0.25)


def test_the_dense_network_is_refused_by_its_configuration() -> None:
    with pytest.raises(ConfigError, match=r"more channels than groups \(32\)"):
        tiny(model={"widths": [32, 64], "groups": 32, "attention": [False, True]})


@settings(max_examples=12, deadline=None)
@given(
    groups=st.sampled_from([2, 4, 8]),
    blocks=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    ratio=st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.6]),
)
def test_what_is_accepted_sees_the_time_step_and_can_be_trained(groups: int, blocks: list[int], ratio: float) -> None:
    widths = [groups * block for block in blocks]
    model = {"widths": widths, "groups": groups, "attention": [False] * len(widths), "head_dim": widths[-1], "dropout": 0.0}
    mode = {"mode": "at_init", "round": None, "ratio": ratio}
    try:
        experiment = tiny(model=model, pruning=mode).build()
    except UserError:
        return
    spec = experiment.spec
    assert not blind_blocks(spec, parameter_shapes(spec))
    assert seen(spec, ratio) > 1e-4
    unet = build_unet(spec, pruned_shapes(spec, ratio)[-1].by_name)
    unet(torch.zeros(1, spec.channels, spec.image_size, spec.image_size), torch.tensor([1]))  # in training mode


@given(st.integers(1, 60), st.integers(1, 3))
def test_the_ratio_that_a_message_advises_is_taken(block: int, least: int) -> None:
    if least <= block:
        assert kept_per_block(ChannelGroup("layer", block, block, ()), largest_ratio(block, least)) >= least


@pytest.mark.parametrize("command", ["run", "plan", "compare"])
def test_every_command_refuses_before_it_writes(command: str, tmp_path: Path) -> None:
    from processes import fedphd_in_process  # noqa: PLC0415

    config = tmp_path / "blind.yaml"
    tree = tiny().model_copy(update={"pruning": tiny().pruning.model_copy(update={"ratio": 0.7})})
    config.write_text(tree.to_yaml())
    more = {"run": ["--out", tmp_path / "out"], "compare": ["--strategies", "fedavg,fedphd", "--out", tmp_path / "out"]}
    said = fedphd_in_process(command, config, *more.get(command, []), code=2)
    assert "at most 0.5" in said
    assert not (tmp_path / "out").exists()
