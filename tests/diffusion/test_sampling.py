"""DDIM by hand, chunks that do not depend on one another, and pictures."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.sampling import chunk_sizes, sample_chunk, save_grid

PROCESS = NoiseProcess(ProcessConfig())


class Points(nn.Module):
    """The exact noise predictor of a data set of one image, all pixels `value`; also says in which mode it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.modes: list[bool] = []
        self.times: list[int] = []

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        self.modes.append(self.training)
        self.times.append(int(t))
        alpha_bar = PROCESS.ddim_scheduler().alphas_cumprod[int(t)]
        return SimpleNamespace(sample=(x - alpha_bar.sqrt() * self.value) / (1 - alpha_bar).sqrt())


def draw(network: nn.Module, num: int = 3, steps: int = 10, seed: int = 0) -> Tensor:
    return sample_chunk(network, PROCESS, (1, 4, 4), num, steps, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("value", [-1.0, -0.3, 0.8])
def test_an_exact_predictor_is_sampled_exactly(value: float) -> None:
    """With the exact noise, every DDIM step keeps x_0, and the last one ends at it: no noise is left in the sample."""
    assert torch.allclose(draw(Points(value)), torch.full((3, 1, 4, 4), value / 2 + 0.5), atol=1e-4)


def test_time_steps_are_the_uniform_ones() -> None:
    network = Points(0.0)
    draw(network, steps=100)
    assert network.times == np.linspace(-1, 999, 101)[1:].astype(int)[::-1].tolist()


def test_samples_are_images_from_eval_mode() -> None:
    network = Points(3.0).train()
    samples = draw(network)
    assert samples.dtype == torch.float32
    assert (float(samples.min()), float(samples.max())) == (1.0, 1.0)  # clipped
    assert not any(network.modes)
    assert network.training


def test_only_the_generator_decides() -> None:
    noisy = nn.Module()
    noisy.forward = lambda x, t: SimpleNamespace(sample=0.9 * x)  # type: ignore[method-assign]
    noisy.weight = nn.Parameter(torch.zeros(1))
    assert torch.equal(draw(noisy, seed=1), draw(noisy, seed=1))
    assert not torch.equal(draw(noisy, seed=1), draw(noisy, seed=2))


def test_chunks() -> None:
    assert chunk_sizes(250, 100) == [100, 100, 50]
    assert chunk_sizes(3, 100) == [3]


def test_grids(tmp_path: Path) -> None:
    images = torch.zeros(5, 1, 8, 8)
    images[1] = 1.0
    save_grid(images, tmp_path / "grey.png", columns=3)
    grid = np.asarray(Image.open(tmp_path / "grey.png"))
    height, width = grid.shape
    assert (height // 2, width // 3) == (66, 66)
    assert grid[:66, 67:131].max() == 255
    assert grid[:, :66].max() == 0
    save_grid(torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(0)), tmp_path / "colour.png", columns=2)
    assert np.asarray(Image.open(tmp_path / "colour.png")).shape == (72, 144, 3)
