"""A run that begins from a saved model: dense, pruned in this project's class, or pruned as a stock network."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from federations import Recorder, federate, tiny
from made_files import stock
from safetensors.torch import load_file, save_file

from fedphd_ray.config import Config, parse_config
from fedphd_ray.diffusion.unet import PrunedUNet2DModel, load_unet
from fedphd_ray.errors import ConfigError, UserError
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.tensors import digest

KINDS: dict[str, dict[str, object]] = {
    "dense": {"pruning": {"mode": "none", "round": None}},
    "pruned": {},
    "stock": {
        "model": {"widths": [32, 64], "groups": 8, "attention": [False, True], "dropout": 0.0},
        "pruning": {"mode": "prune", "round": 2, "ratio": 0.25},
    },
}
LONGER = {"schedule": {"rounds": 12, "clients_per_round": 4}, "local": {"learning_rate": 3e-3}}


def continued(directory: Path, **sections: object) -> Config:
    """The same federation from what another run has left, without a word on widths."""
    tree = tiny(pruning={"mode": "none", "round": None}, local=LONGER["local"], **sections).model_dump(mode="json")
    return parse_config(tree | {"model": {"pretrained": str(directory)}})


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_where_another_ended(kind: str, tmp_path: Path) -> None:
    first = Recorder()
    summary = runs.run(tiny(**LONGER, **KINDS[kind]).build(), tmp_path / "first", first)
    pruned = isinstance(load_unet(tmp_path / "first"), PrunedUNet2DModel)
    assert pruned == (kind != "dense")
    directory = tmp_path / "first"
    if kind == "stock":
        directory = tmp_path / "first/model"
        assert type(UNet2DModel.from_pretrained(directory / "unet")) is UNet2DModel
        (directory / "config.json").unlink()  # what lies there beside the pipeline is the same network in our class
    again = continued(directory)
    experiment, outcome = again.build(), federate(again)
    start = load_unet(directory)
    assert digest(dict(start.named_parameters())) == experiment.spec.pretrained.sha256  # type: ignore[union-attr]
    if kind != "stock":
        assert experiment.spec.pretrained.sha256 == summary.model_sha256  # type: ignore[union-attr]
    losses = [record.loss for record in first.rounds]
    assert outcome.records[0].loss < (losses[0] + losses[-1]) / 2
    assert outcome.records[0].loss == pytest.approx(losses[-1], rel=0.3)
    assert outcome.state.model.layout.num_params == sum(value.numel() for value in start.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_loaded_is_pruned_and_exported_as_usual(kind: str, tmp_path: Path) -> None:
    runs.run(tiny(**KINDS[kind]).build(), tmp_path / "first", Recorder())
    if kind == "stock":
        (tmp_path / "first/model/config.json").unlink()
    start = sum(value.numel() for value in load_unet(tmp_path / "first/model").parameters())
    again = continued(tmp_path / "first/model", checkpoint={"every": 1, "keep": 1}).model_dump(mode="json")
    again["pruning"] = {"mode": "prune", "round": 2, "ratio": 0.25 if kind == "stock" else 0.5}
    if kind == "pruned":
        with pytest.raises(UserError, match="pruning"):
            parse_config(again).build()
        again["pruning"] = {"mode": "none"}
    runs.run(parse_config(again).build(), tmp_path / "second", Recorder())
    model = load_unet(tmp_path / "second")
    left = sum(value.numel() for value in model.parameters())
    assert left == start if kind == "pruned" else left < start
    image, step = torch.zeros(1, 3, 8, 8), torch.tensor([5])
    assert bool(model(image, step).sample.isfinite().all())
    finished = runs.resume(parse_config(again).build(), tmp_path / "second", Recorder())
    assert finished.model_sha256 == digest(dict(model.named_parameters()))


def foreign(directory: Path) -> Path:
    """A model as others save it: one head of all channels, another first time step, another padding."""
    return stock(
        directory,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=None,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        norm_eps=1e-6,
    )


def test_a_foreign_model_keeps_its_details(tmp_path: Path) -> None:
    """What there are no keys for is kept: outputs of the run's first model are those of the file."""
    config = continued(foreign(tmp_path / "foreign"), schedule={"rounds": 1})
    assert (config.model.widths, config.model.head_dim, config.model.attention) == ((16, 32), None, (False, True))
    from fedphd_ray.diffusion.unet import build_unet, initial_state  # noqa: PLC0415

    spec = config.build().spec
    network = build_unet(spec)
    network.load_state_dict(initial_state(spec, 0))
    original = UNet2DModel.from_pretrained(tmp_path / "foreign")
    image, step = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])
    assert torch.equal(network.eval()(image, step).sample, original.eval()(image, step).sample)
    outcome = federate(continued(tmp_path / "foreign", schedule={"rounds": 2}))
    assert outcome.state.round == 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    directory = foreign(tmp_path / "foreign")
    tree = continued(directory).model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"model\.widths\n(.|\n)*\(16, 32\), as model.pretrained has it"):
        parse_config(tree | {"model": {"pretrained": str(directory), "widths": [8, 16]}})
    grey = tree | {"data": {"name": "digits"}}
    with pytest.raises(ConfigError, match=r"model\.pretrained\n(.|\n)*1 channels"):
        parse_config(grey).build()
    DDIMScheduler(beta_end=0.1).save_pretrained(directory / "scheduler")
    with pytest.raises(ConfigError, match=r"process\n(.|\n)*beta_end: 0.1"):
        parse_config(tree)
    for wrong in (tmp_path, tmp_path / "nowhere", "~nobody/there"):
        with pytest.raises(UserError, match="expected: "):
            parse_config(tree | {"model": {"pretrained": str(wrong)}})


def test_a_model_that_changes_under_a_run_is_refused(tmp_path: Path) -> None:
    spec = continued(foreign(tmp_path / "foreign")).build().spec
    assert spec.pretrained is not None
    assert digest(spec.pretrained.state()) == spec.pretrained.sha256
    changed = UNet2DModel.from_pretrained(tmp_path / "foreign")
    with torch.no_grad():
        changed.conv_in.bias += 1.0
    changed.save_pretrained(tmp_path / "foreign")
    with pytest.raises(UserError, match="another one"):
        spec.pretrained.state()


def test_a_run_does_not_go_on_from_another_network_in_the_same_place(tmp_path: Path) -> None:
    """It has no checkpoint yet, or is resumed for more rounds: what it began with decides its result."""
    runs.run(tiny(**KINDS["dense"]).build(), tmp_path / "first", Recorder())
    again = continued(tmp_path / "first", checkpoint={"every": 1, "keep": 2})
    runs.run(again.build(), tmp_path / "second", Recorder(), config_yaml=again.to_yaml())
    longer = again.model_copy(update={"schedule": again.schedule.model_copy(update={"rounds": 6})})
    weights = tmp_path / "first/model/diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    changed = {name: value * 1.01 for name, value in load_file(weights).items()}
    save_file(changed, weights)
    with pytest.raises(UserError, match=r"parameters of the network that model\.pretrained names"):
        runs.resume(longer.build(), tmp_path / "second", Recorder())
    weights.write_bytes(kept)
    assert runs.resume(longer.build(), tmp_path / "second", Recorder()).rounds == 6
