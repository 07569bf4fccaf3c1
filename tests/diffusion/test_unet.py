"""The denoiser: sizes against oracles, building from shapes, and files that are what they say or are refused."""

import contextlib
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedphd_ray.diffusion.pruned_unet import CONFIG_FILE, WEIGHTS_FILE
from fedphd_ray.diffusion.unet import (
    PrunedUNet2DModel,
    UNetConfig,
    UNetSpec,
    build_unet,
    initial_state,
    load_unet,
    parameter_shapes,
)
from fedphd_ray.errors import ConfigError, ModelFileError
from fedphd_ray.seeds import Purpose, global_torch_seed
from fedphd_ray.tensors import digest

TINY = UNetSpec(UNetConfig(widths=(8, 16), attention=(False, True), groups=4), image_size=8, channels=1)
DIGITS = UNetSpec(UNetConfig(widths=(32, 64), attention=(False, True)), image_size=8, channels=1)
CIFAR = UNetSpec(
    UNetConfig(widths=(128, 256, 256, 256), attention=(False, True, False, False), groups=32, layers_per_block=2), 32, 3
)
CELEBA = UNetSpec(
    UNetConfig(widths=(128, 256, 256, 256, 512), attention=(False, False, True, False, False), groups=32, layers_per_block=2),
    64,
    3,
)


def narrow_time_embedding(spec, width):
    """Shapes of the network whose time embedding has a hidden layer of `width`: the smallest honest pruning."""
    shapes = dict(parameter_shapes(spec))
    dense = shapes["time_embedding.linear_1.bias"][0]
    shapes["time_embedding.linear_1.weight"] = (width, shapes["time_embedding.linear_1.weight"][1])
    shapes["time_embedding.linear_1.bias"] = (width,)
    shapes["time_embedding.linear_2.weight"] = (dense, width)
    return shapes


def random_model(spec, shapes=None, seed=0):
    model = build_unet(spec, shapes)
    generator = torch.Generator().manual_seed(seed)
    model.load_state_dict({name: torch.randn(p.shape, generator=generator) * 0.1 for name, p in model.state_dict().items()})
    return model.eval()


def outputs(model, spec=TINY):
    images = torch.linspace(-1, 1, 2 * spec.channels * spec.image_size**2)
    with torch.no_grad():
        return model(images.view(2, spec.channels, spec.image_size, spec.image_size), torch.tensor([3, 700])).sample


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [(DIGITS, 701_345), (CIFAR, 35_746_307), (replace(CIFAR, image_size=64), 35_746_307), (CELEBA, 78_700_803)],
)
def test_dense_sizes_are_those_of_the_literature(spec, parameters):
    assert sum(math.prod(shape) for shape in parameter_shapes(spec).values()) == parameters


def test_a_dense_network_is_diffusers_own():
    with global_torch_seed(1, Purpose.INITIAL_MODEL):
        stock = UNet2DModel(**TINY.stock_kwargs())
    model = build_unet(TINY)
    assert type(model) is UNet2DModel
    assert model.training
    assert [name for name, _ in model.named_parameters()] == list(stock.state_dict())
    model.load_state_dict(stock.state_dict())
    assert torch.equal(outputs(model.eval()), outputs(stock.eval()))
    assert type(build_unet(TINY, parameter_shapes(TINY))) is UNet2DModel


def test_shapes_alone_make_a_pruned_network_that_trains():
    shapes = narrow_time_embedding(TINY, 5)
    model = build_unet(TINY, shapes)
    assert isinstance(model, PrunedUNet2DModel)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == shapes
    assert all(not p.any() for p in model.parameters())
    assert not list(model.buffers())
    model = random_model(TINY, shapes).train()
    model(torch.ones(2, 1, 8, 8), torch.tensor([1, 2])).sample.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_skeleton_takes_no_memory():
    assert {p.device.type for p in build_unet(CIFAR, device="meta").parameters()} == {"meta"}


def test_initial_states_follow_the_seed_and_nothing_else():
    first = initial_state(TINY, 7)
    with global_torch_seed(1, Purpose.DATASET):
        assert digest(initial_state(TINY, 7)) == digest(first)
    assert digest(initial_state(TINY, 8)) != digest(first)
    assert {name: tuple(value.shape) for name, value in first.items()} == parameter_shapes(TINY)
    assert not any(value.requires_grad for value in first.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention": (True,)}, ["attention", "2", "found:    1", "same length"]),
        ({"groups": 8}, ["more channels than groups (8)", "4 at most"]),
        ({"groups": 3}, ["widths", "groups", "(3)", "found:    8"]),
        ({"head_dim": 5}, ["widths", "head_dim", "(5)", "found:    16"]),
        ({"attention": (True, False), "head_dim": 16}, ["head_dim", "(16)", "found:    8"]),
        ({"dropout": 1.0}, ["dropout"]),
        ({"width": 3}, ["width"]),
    ],
)
def test_impossible_networks_are_refused_with_the_key(change, words):
    with pytest.raises((ValidationError, ConfigError)) as caught:
        UNetConfig.model_validate(TINY.config.model_dump() | change)
    assert all(word in str(caught.value) for word in words)


def test_images_must_halve_at_every_level():
    with pytest.raises(ConfigError, match="divisible by 4"):
        UNetSpec(UNetConfig(widths=(8, 8, 8), attention=(False,) * 3, groups=4), image_size=10, channels=1)


@pytest.fixture(scope="module")
def pruned_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pruned")
    random_model(TINY, narrow_time_embedding(TINY, 5)).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("shapes", [None, narrow_time_embedding(TINY, 5)], ids=["dense", "pruned"])
@pytest.mark.parametrize("place", [".", "model", "unet"])
def test_saved_models_come_back(shapes, place, tmp_path):
    model = random_model(TINY, shapes)
    model.save_pretrained(tmp_path / place)
    assert {path.name for path in (tmp_path / place).iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    loaded = load_unet(tmp_path)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert digest(loaded.state_dict()) == digest(model.state_dict())
    assert torch.equal(outputs(loaded), outputs(model))


def test_a_pruned_model_gives_the_same_outputs_in_a_new_process(tmp_path):
    model = random_model(TINY, narrow_time_embedding(TINY, 5))
    model.save_pretrained(tmp_path / "model")
    images, steps = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 700])
    with torch.no_grad():
        expected = model(images, steps).sample
    assert expected.abs().max() > 0.1
    probe = tmp_path / "probe.safetensors"
    safetensors.torch.save_file({"images": images, "steps": steps, "expected": expected}, probe)
    script = """
import sys, torch, safetensors.torch
from fedphd_ray.diffusion.unet import load_unet
probe = safetensors.torch.load_file(sys.argv[2])
with torch.no_grad():
    difference = (load_unet(sys.argv[1])(probe["images"], probe["steps"]).sample - probe["expected"]).abs().max()
assert difference <= 1e-6, difference
"""
    subprocess.run([sys.executable, "-c", script, tmp_path, probe], check=True)


def test_the_class_opens_its_own_kind_only(pruned_dir, tmp_path):
    assert isinstance(PrunedUNet2DModel.from_pretrained(pruned_dir), PrunedUNet2DModel)
    random_model(TINY).save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="stock"):
        PrunedUNet2DModel.from_pretrained(tmp_path)


def edit_config(directory, **changes):
    path = directory / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory, **changes):
    state = safetensors.torch.load_file(directory / WEIGHTS_FILE)
    for name, value in changes.items():
        state[name.replace("__", ".")] = value
    safetensors.torch.save_file(state, directory / WEIGHTS_FILE)


DAMAGE = {
    "no directory": (shutil.rmtree, "no such directory"),
    "no configuration": (lambda d: (d / CONFIG_FILE).unlink(), "no config.json"),
    "no weights": (lambda d: (d / WEIGHTS_FILE).unlink(), "no such file"),
    "pickled weights": (lambda d: (d / WEIGHTS_FILE).rename(d / "diffusion_pytorch_model.bin"), "not opened"),
    "weights that are a pickle": (lambda d: torch.save({"a": torch.ones(1)}, d / WEIGHTS_FILE), "damaged"),
    "not JSON": (lambda d: (d / CONFIG_FILE).write_text("{"), "unreadable"),
    "a list": (lambda d: (d / CONFIG_FILE).write_text("[]"), "unreadable"),
    "another class": (lambda d: edit_config(d, _class_name="VQModel"), "_class_name"),
    "a newer format": (lambda d: edit_config(d, format_version=2), "format_version"),
    "an unknown key": (lambda d: edit_config(d, trust_remote_code=True), "trust_remote_code"),
    "an unknown block": (lambda d: edit_config(d, down_block_types=["os.system", "DownBlock2D"]), "down_block_types"),
    "endless layers": (lambda d: edit_config(d, layers_per_block=10**9), "layers_per_block"),
    "other widths": (lambda d: edit_config(d, block_out_channels=[4, 16]), "instead of"),
    "impossible widths": (lambda d: edit_config(d, block_out_channels=[8, 9]), "found"),
    "more layers": (lambda d: edit_config(d, layers_per_block=2), "missing or unknown"),
    "no image size": (lambda d: edit_config(d, sample_size=None), "sample_size"),
    "a foreign tensor": (lambda d: edit_weights(d, extra=torch.ones(1)), "extra"),
    "a wider layer": (lambda d: edit_weights(d, conv_in__bias=torch.ones(9)), "conv_in.bias"),
    "a narrower kernel": (lambda d: edit_weights(d, conv_in__weight=torch.ones(8, 1, 2, 2)), "conv_in.weight"),
    "an empty layer": (lambda d: edit_weights(d, conv_in__bias=torch.ones(0)), "conv_in.bias"),
    "layers that do not fit": (lambda d: edit_weights(d, time_embedding__linear_1__weight=torch.ones(4, 8)), "found"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_files_are_refused_by_name(damage, pruned_dir, tmp_path):
    directory = tmp_path / "model-of-mine"
    shutil.copytree(pruned_dir, directory)
    apply, words = DAMAGE[damage]
    apply(directory)
    with pytest.raises(ModelFileError) as caught:
        load_unet(directory)
    assert words in str(caught.value)
    assert "model-of-mine" in caught.value.where
    assert caught.value.remedy


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_do_worse_than_being_refused(data, pruned_dir, tmp_path):
    directory = tmp_path / "fuzzed"
    shutil.copytree(pruned_dir, directory, dirs_exist_ok=True)
    path = directory / data.draw(st.sampled_from([CONFIG_FILE, WEIGHTS_FILE]))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content.rstrip()) - 1))])  # only white space may be missing
        with pytest.raises(ModelFileError):
            load_unet(directory)
        return
    for position in data.draw(st.lists(st.integers(0, min(len(content), 20_000) - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(ModelFileError):
        assert isinstance(load_unet(directory), UNet2DModel)
