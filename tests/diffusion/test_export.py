"""Pruned networks as stock diffusers models: exact, or refused."""

import math
import os
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMPipeline
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from fedphd_ray.diffusion.export import export_stock, save_pipeline
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.unet import PrunedUNet2DModel, UNetConfig, UNetSpec, build_unet, initial_state, load_unet
from fedphd_ray.pruning.groups import channel_groups
from fedphd_ray.pruning.plan import make_plan
from fedphd_ray.tensors import digest

DIGITS = UNetSpec(UNetConfig(widths=(32, 64), attention=(False, True)), 8, 1)
CIFAR = UNetSpec(
    UNetConfig(widths=(128, 256, 256, 256), attention=(False, True, False, False), groups=32, layers_per_block=2), 32, 3
)
CELEBA = UNetSpec(
    UNetConfig(
        widths=(128, 128, 256, 256, 512, 512), attention=(False, False, False, False, True, False), groups=32, layers_per_block=2
    ),
    64,
    3,
)


def pruned(spec, ratio=0.25, seed=0):
    state = initial_state(spec, seed)
    groups = channel_groups(build_unet(spec, device="meta"), spec.image_size, spec.channels)
    cut = make_plan(groups, state, ratio, 1).cut(state)
    model = build_unet(spec, {name: tuple(value.shape) for name, value in cut.items()})
    model.load_state_dict(cut)
    return model


@pytest.mark.parametrize(
    ("spec", "widths", "parameters"),
    [
        (DIGITS, (24, 48), 396_409 + 1000 * 24 - 96 * 8),
        (CIFAR, (96, 192, 192, 192), 20_214_915),
        (CELEBA, (96, 96, 192, 192, 384, 384), None),
    ],
    ids=["digits", "cifar", "celeba"],
)
def test_a_quarter_less_everywhere_is_a_stock_network(spec, widths, parameters):
    """The table adds 1000 x columns; `linear_1` loses a quarter of its inputs."""
    model = pruned(spec)
    before = digest(model.state_dict())
    export = export_stock(model, spec, num_timesteps=1000)
    assert type(export.model) is UNet2DModel
    assert export.model.config.block_out_channels == widths
    assert export.model.config.attention_head_dim == 6
    assert parameters in (None, sum(p.numel() for p in export.model.parameters()))
    assert 0 < export.max_difference <= 1e-5
    assert export.reason == ""
    assert not export.model.training
    assert model.training
    assert digest(model.state_dict()) == before
    steps, generator = torch.tensor([17, 333]), torch.Generator().manual_seed(3)  # neither is a probe's
    shape = (2, spec.channels, spec.image_size, spec.image_size)
    noise, smooth = torch.randn(shape, generator=generator), torch.linspace(-1, 1, math.prod(shape)).view(shape)
    with torch.no_grad():
        expected = model.eval()(noise, steps).sample
        assert (export.model(noise, steps).sample - expected).abs().max() <= 1e-5
        # A smooth image magnifies rounding, for either network alone, to more than that: exact arithmetic tells.
        smooth, steps = smooth[:1].double(), steps[:1]
        difference = export.model.double()(smooth, steps).sample - model.double()(smooth, steps).sample
        assert difference.abs().max() <= 1e-6
    assert expected.abs().max() > 0.1


def test_a_dense_network_is_one_already():
    model = build_unet(DIGITS)
    export = export_stock(model, DIGITS, num_timesteps=1000)
    assert (export.model, export.reason, export.max_difference) == (model, "", 0.0)


def test_too_few_columns_for_the_sinusoids_are_refused_with_the_figure():
    spec = UNetSpec(UNetConfig(widths=(16, 32), attention=(False, True), groups=4), 8, 1)
    export = export_stock(pruned(spec), spec, num_timesteps=1000)
    assert export.model is None
    assert 1e-3 < export.max_difference < 1
    assert "16 sinusoids do not fit into 12 columns" in export.reason
    assert f"{export.max_difference:.1e}" in export.reason


@pytest.mark.parametrize(
    ("config", "ratio", "words"),
    [
        (UNetConfig(widths=(96,), attention=(False,), groups=16), 0.25, "unequal shares"),  # 64 of 96 channels, 6 of 8 a head
        (UNetConfig(widths=(32, 64), attention=(False, False), layers_per_block=1), 0.2, "unequal shares"),  # 51 of 64 free ones
    ],
)
def test_unequal_shares_are_refused_with_the_layer(config, ratio, words):
    spec = UNetSpec(config, 8, 1)
    export = export_stock(pruned(spec, ratio), spec, num_timesteps=1000)
    assert export.model is None
    assert words in export.reason
    assert math.isnan(export.max_difference)


def test_a_pipeline_opens_without_this_program(tmp_path):
    spec = DIGITS
    model = pruned(spec)
    export = export_stock(model, spec, num_timesteps=1000)
    assert export.model is not None
    model.save_pretrained(tmp_path)
    assert save_pipeline(tmp_path, export.model, DDIMScheduler(num_train_timesteps=1000)) == ""
    script = """
import sys, torch
from diffusers import DDIMPipeline, DDIMPipeline
pipeline = DDIMPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
images = pipeline(batch_size=2, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np").images
assert images.shape == (2, 8, 8, 1), images.shape
assert (images == images).all() and images.std() > 0
assert not [name for name in sys.modules if name.startswith("fedphd_ray")]
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=tmp_path, env=environment)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".ckpt"))]
    assert isinstance(load_unet(tmp_path), PrunedUNet2DModel)  # the exact model lies beside it and comes first
    stock = load_unet(tmp_path / "unet")
    assert type(stock) is UNet2DModel
    assert digest(stock.state_dict()) == digest(export.model.state_dict())


@pytest.mark.parametrize("num_timesteps", [1, 10, 500])
def test_the_promise_holds_for_every_number_of_time_steps(num_timesteps, tmp_path):
    model = pruned(DIGITS)
    export = export_stock(model, DIGITS, num_timesteps=num_timesteps)
    assert export.model is not None, export.reason
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([0, num_timesteps - 1])
    with torch.no_grad():
        assert (export.model(images, steps).sample - model.eval()(images, steps).sample).abs().max() <= 1e-5
    scheduler = NoiseProcess(ProcessConfig(num_timesteps=num_timesteps, beta_end=0.01)).ddim_scheduler()
    assert save_pipeline(tmp_path, export.model, scheduler) == ""
    pipeline = DDIMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline(num_inference_steps=min(50, num_timesteps), generator=generator, output_type="np").images
    assert drawn.shape == (1, 8, 8, 1)


def test_more_time_steps_than_the_columns_can_tell_apart_are_refused():
    assert "32 sinusoids do not fit into 24 columns" in export_stock(pruned(DIGITS), DIGITS, num_timesteps=2000).reason


def test_a_pipeline_that_cannot_draw_is_no_pipeline(tmp_path):
    """Exported for 10 time steps, and given a process of 1,000: stock diffusers looks up a row that is not there."""
    export = export_stock(pruned(DIGITS), DIGITS, num_timesteps=10)
    assert export.model is not None
    assert "IndexError" in save_pipeline(tmp_path, export.model, DDIMScheduler(num_train_timesteps=1000))
    assert not (tmp_path / "model_index.json").exists()


def test_only_stock_networks_go_into_a_pipeline(tmp_path):
    with pytest.raises(AssertionError, match="only stock"):
        save_pipeline(tmp_path, pruned(DIGITS), DDIMScheduler())
