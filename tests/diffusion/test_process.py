"""The noise process against diffusers' own."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig, load_process

IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Constant(nn.Module):
    """Predicts the same everywhere, and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        self.asked.append((x, t))
        return SimpleNamespace(sample=torch.full_like(x, self.value))


def test_noising_is_diffusers() -> None:
    process, stock = NoiseProcess(ProcessConfig()), DDPMScheduler(num_train_timesteps=1000)
    generator = torch.Generator().manual_seed(1)
    noise, t = torch.randn(IMAGES.shape, generator=generator), torch.randint(1000, (64,), generator=generator)
    assert torch.allclose(process.add_noise(IMAGES, noise, t), stock.add_noise(IMAGES, noise, t), atol=1e-6)


def test_loss_is_the_error_of_the_noise() -> None:
    """A network that predicts zero errs by the variance of the noise, 1; one that predicts 2 by 1 + 4."""
    process = NoiseProcess(ProcessConfig())
    images = IMAGES.repeat(20, 1, 1, 1)
    assert float(process.loss(Constant(0.0), images, torch.Generator().manual_seed(2))) == pytest.approx(1.0, abs=0.02)
    assert float(process.loss(Constant(2.0), images, torch.Generator().manual_seed(2))) == pytest.approx(5.0, abs=0.08)


def test_time_steps_are_uniform_and_noise_is_what_the_generator_says() -> None:
    process, network = NoiseProcess(ProcessConfig(num_timesteps=50)), Constant(0.0)
    generator = torch.Generator().manual_seed(3)
    for _ in range(100):
        process.loss(network, IMAGES, generator)
    t = torch.cat([t for _, t in network.asked])
    assert (int(t.min()), int(t.max())) == (0, 49)
    counts = torch.bincount(t, minlength=50).float()
    assert float(((counts - 128) ** 2 / 128).sum()) < 90  # chi-square, 49 degrees of freedom: 90 is beyond 0.9997
    again = Constant(0.0)
    process.loss(again, IMAGES, torch.Generator().manual_seed(3))
    assert torch.equal(again.asked[0][0], network.asked[0][0])


def test_the_saved_scheduler_brings_the_process_back(tmp_path: Path) -> None:
    config = ProcessConfig(num_timesteps=200, beta_start=1e-3, beta_end=0.05)
    NoiseProcess(config).ddim_scheduler().save_pretrained(tmp_path / "model" / "scheduler")
    assert load_process(tmp_path).config == load_process(tmp_path / "model").config == config
    assert load_process(tmp_path / "elsewhere").config == ProcessConfig()
