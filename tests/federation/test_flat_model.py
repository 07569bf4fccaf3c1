"""A compiled network computes what the module computes, dense and pruned, in whole batches and in what is left over."""

from pathlib import Path

import pytest
import torch
from federations import Recorder, tiny

from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.sampling import sample_chunk
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, build_unet, initial_state
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.training.local_training import LocalTrainer
from fedphd_ray.pruning.groups import channel_groups
from fedphd_ray.pruning.importance import SparsityPenalty
from fedphd_ray.pruning.plan import make_plan
from fedphd_ray.records import LocalOrder
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.strategies import FedAvg
from fedphd_ray.tensors import Layout

SPEC = UNetSpec(UNetConfig(widths=(8,), attention=(True,), groups=2, head_dim=4, layers_per_block=1), 8, 1)
IMAGES = torch.linspace(-1, 1, 11 * 64).sin().view(11, 1, 8, 8)
LOSS = NoiseProcess(ProcessConfig()).loss
CONFIG = LocalConfig(epochs=2, batch_size=4, learning_rate=1e-2, clip_norm=0.5, compile=True)


def states():
    """The network as it begins, and a pruned one."""
    dense = initial_state(SPEC, 1)
    groups = channel_groups(build_unet(SPEC, device="meta"), SPEC.image_size, SPEC.channels)
    return dense, make_plan(groups, dense, 0.5, 1).cut(dense)


def trained(model, state):
    trainer = LocalTrainer(CONFIG, FedAvg(), LOSS, SparsityPenalty("channel"), 1)
    order = LocalOrder(round=3, edge=0, learning_rate_scale=1.0, sparsity=0.0)
    return trainer.train(model, IMAGES, order, client=7, received=Layout.of(state).flatten(state), version=0)


def loss_and_gradient(model, state):
    """Of one batch at given parameters."""
    model.vector.copy_(Layout.of(state).flatten(state))
    model.grad.zero_()
    loss = LOSS(model.denoiser, IMAGES[:4], torch.Generator().manual_seed(5))
    loss.backward()
    return loss.detach(), model.grad.clone()


# torch's compiler imports a module of its own that uses what torch has since deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_training_is_training() -> None:
    """Both architectures in one process, as a host has them around a pruning; after a training, the code is used again."""
    for state in states():
        shapes = Layout.of(state).by_name
        plain, compiled = (FlatModel(build_unet(SPEC, shapes), compiled_batch=batch) for batch in (0, CONFIG.compiled_batch))
        loss, gradient = loss_and_gradient(plain, state)
        once = trained(compiled, state)
        compiled_loss, compiled_gradient = loss_and_gradient(compiled, state)
        torch.testing.assert_close(compiled_loss, loss, rtol=1e-5, atol=0)
        assert (compiled_gradient - gradient).norm() < 1e-5 * gradient.norm()
        again = trained(compiled, state)
        assert torch.equal(once.update.vector, again.update.vector)
        expected = trained(plain, state)  # Adam turns the rounding of a gradient near zero into a step: a few parameters differ
        assert once.num_steps == expected.num_steps == 6  # two of the six with three images instead of four
        assert (once.update.vector - expected.update.vector).norm() < 1e-2 * expected.update.vector.norm()


def test_only_whole_batches_go_through_the_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code would be remade for each size: a minute each."""
    state, _ = states()
    model = FlatModel(build_unet(SPEC, Layout.of(state).by_name), compiled_batch=CONFIG.compiled_batch)
    sizes: list[int] = []
    monkeypatch.setattr(
        model.denoiser, "_denoise", lambda flat, images, *rest: sizes.append(len(images)) or model.module(images, *rest)
    )
    trained(model, state)
    assert sizes == [4, 4, 4, 4]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_classes_and_casts_are_compiled() -> None:
    """In mixed precision, and told classes, as the module is; the casts are of the graph, whatever is on when it is called."""
    config = UNetConfig(widths=(8,), attention=(True,), groups=2, head_dim=4, layers_per_block=1, class_conditional=True)
    model = FlatModel(build_unet(UNetSpec.of(config, image_size=8, channels=1, num_classes=10)), compiled_batch=4)
    model.vector.copy_(0.2 * torch.randn(len(model.vector), generator=torch.Generator().manual_seed(1)))
    found = []
    for denoiser in (model.denoiser, model.module):
        model.grad.zero_()
        with torch.autocast("cpu", torch.bfloat16):
            drawn = denoiser(IMAGES[:4], torch.tensor([1, 500, 900, 999]), torch.tensor([1, 2, 10, 3])).sample
        assert drawn.dtype == torch.bfloat16
        drawn.float().square().mean().backward()
        found.append((drawn.detach().float(), model.grad.clone()))
    for compiled, plain in zip(*found, strict=True):
        assert 0 < (compiled - plain).norm() < 2e-2 * plain.norm()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_samples_are_drawn_compiled() -> None:
    """The same images to rounding, of whole chunks and of what is left over; dropout is off while they are drawn."""
    config = UNetConfig(widths=(8,), attention=(False,), groups=2, layers_per_block=1, dropout=0.5)
    model = FlatModel(build_unet(UNetSpec(config, 8, 1)), sampled_batch=4)
    model.vector.copy_(0.2 * torch.randn(len(model.vector), generator=torch.Generator().manual_seed(1)))
    model.module.train()
    process = NoiseProcess(ProcessConfig())
    for num in (4, 3):
        drawn, expected = (
            sample_chunk(network, process, (1, 8, 8), num, 5, torch.Generator().manual_seed(5))
            for network in (model.sampler, model.module)
        )
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-4)
    assert model.module.training
    assert model.denoiser is model.module
    assert model.sampler is not model.module
    assert model.sampler._denoise is not None


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_run_trains_and_samples_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once per architecture and process, for batches of training and for chunks of samples; what they compute is as without."""
    sizes: list[int] = []

    def not_really(module, layout, flat, images, *rest):
        sizes.append(len(images))
        return lambda flat, images, *inputs: (module(images, *inputs).sample,)

    monkeypatch.setattr("fedphd_ray.federation.compiled.compiled", not_really)
    sections = {"evaluation": {"every": 2, "num_samples": 10, "chunk_size": 7, "steps": 2}, "runtime": {"backend": "local"}}
    local = {"batch_size": 5, "epochs": 1}
    once = runs.run(tiny(**sections, local=local | {"compile": True}).build(), tmp_path / "compiled", Recorder())
    assert set(sizes) == {5, 7}
    assert len(sizes) == 4  # dense and pruned
    again = runs.run(tiny(**sections, local=local).build(), tmp_path / "not", Recorder())
    assert (once.model_sha256, once.fid) == (again.model_sha256, again.fid)
