"""DDIM against exact predictors and diffusers' own, chunks, and pictures."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, UNet2DModel
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.sampling import chunk_sizes, sample_chunk, save_grid, time_steps
from fedphd_ray.errors import UserError
from fedphd_ray.seeds import Purpose, global_torch_seed

PROCESS = NoiseProcess(ProcessConfig())
ALPHA_BAR = PROCESS.ddim_scheduler().alphas_cumprod


class Gaussian(nn.Module):
    """The exact noise predictor of data whose pixels are independent, N(mean, std^2); remembers how it was asked.

    E[x_0 | x_t] = mean + std^2 sqrt(a) (x_t - sqrt(a) mean) / (a std^2 + 1 - a), with a = alpha_bar_t.
    """

    def __init__(self, mean: float, std: float = 0.0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))
        self.std = std
        self.frozen = nn.Dropout().eval()
        self.modes: list[tuple[bool, bool]] = []
        self.times: list[int] = []

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        assert t.shape == (len(x),)
        self.modes.append((self.training, self.frozen.training))
        self.times.append(int(t[0]))
        a = ALPHA_BAR[t].view(-1, 1, 1, 1)
        x0 = self.mean + self.std**2 * a.sqrt() * (x - a.sqrt() * self.mean) / (a * self.std**2 + 1 - a)
        return SimpleNamespace(sample=(x - a.sqrt() * x0) / (1 - a).sqrt())


def draw(network: nn.Module, num: int = 3, steps: int = 10, seed: int = 0) -> Tensor:
    return sample_chunk(network, PROCESS, (1, 4, 4), num, steps, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 10, 30, 400, 1000])
@pytest.mark.parametrize("value", [-1.0, -0.3, 0.8])
def test_a_data_set_of_one_image_is_sampled_exactly(value: float, steps: int) -> None:
    """With the exact noise, every DDIM step keeps x_0, and the last one ends at it: no noise is left in the sample."""
    assert torch.allclose(draw(Gaussian(value), steps=steps), torch.full((3, 1, 4, 4), value / 2 + 0.5), atol=1e-4)


def test_gaussian_data_come_out_as_their_flow_says() -> None:
    """DDIM solves the probability flow, which for N(0, s^2) only scales: x_0 = s x_T / sqrt(a_T s^2 + 1 - a_T), about s x_T.

    The error goes down with the number of steps, also where that does not divide T.
    """
    std = 0.2
    x_last = torch.randn((100, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    exact = std * x_last / (ALPHA_BAR[-1] * std**2 + 1 - ALPHA_BAR[-1]).sqrt()
    errors = []
    for steps in (10, 30, 90, 270, 810):
        samples = draw(Gaussian(0.0, std), num=100, steps=steps) * 2 - 1
        errors.append(float((samples - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_time_steps_are_the_uniform_ones(num_timesteps: int, steps: int) -> None:
    """In exact arithmetic: floor(-1 + k T / S) for k = 1, ..., S."""
    if steps > num_timesteps:
        with pytest.raises(UserError, match=f"1 to {num_timesteps}"):
            time_steps(num_timesteps, steps)
        return
    times = time_steps(num_timesteps, steps)
    assert times == [(Fraction(k * num_timesteps, steps) - 1).__floor__() for k in range(1, steps + 1)]
    assert len(set(times)) == steps
    assert (times[0] >= 0, times[-1]) == (True, num_timesteps - 1)


def test_the_network_is_asked_at_the_time_steps_from_last_to_first() -> None:
    network = Gaussian(0.0)
    draw(network, steps=100)
    assert network.times == np.linspace(-1, 999, 101)[1:].astype(int)[::-1].tolist()


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    with global_torch_seed(0, Purpose.INITIAL_MODEL):
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            dropout=0.5,
        ).train()


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_pipeline_of_diffusers_draws_the_same_images(unet: UNet2DModel, steps: int) -> None:
    """Where the number of steps divides T; with dropout in the network, so only in eval mode."""
    samples = sample_chunk(unet, PROCESS, (1, 8, 8), 3, steps, torch.Generator().manual_seed(5))
    assert unet.training
    pipeline = DDIMPipeline(unet.eval(), PROCESS.ddim_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    (stock,) = pipeline(3, generator, 0.0, steps, use_clipped_model_output=True, output_type="pt", return_dict=False)
    unet.train()
    assert torch.allclose(samples, stock, rtol=0, atol=1e-5)
    assert float(samples.std()) > 0.1


@pytest.mark.parametrize(
    "change",
    [
        {"prediction": "v"},
        {"prediction": "x0"},
        {"schedule": "cosine"},
        {"schedule": "scaled_linear", "prediction": "v", "zero_terminal_snr": True},
    ],
)
def test_the_pipeline_agrees_whatever_is_predicted(unet: UNet2DModel, change: dict[str, object]) -> None:
    process = NoiseProcess(ProcessConfig.model_validate(change))
    samples = sample_chunk(unet, process, (1, 8, 8), 3, 10, torch.Generator().manual_seed(5))
    pipeline = DDIMPipeline(unet.eval(), process.ddim_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    (stock,) = pipeline(3, generator, 0.0, 10, use_clipped_model_output=True, output_type="pt", return_dict=False)
    unet.train()
    assert torch.allclose(samples, stock, rtol=0, atol=1e-5)


def test_samples_are_images_from_eval_mode() -> None:
    network = Gaussian(3.0).train()
    network.frozen.eval()
    samples = draw(network)
    assert samples.dtype == torch.float32
    assert not samples.requires_grad
    assert (float(samples.min()), float(samples.max())) == (1.0, 1.0)  # clipped
    assert set(network.modes) == {(False, False)}
    assert (network.training, network.frozen.training) == (True, False)


def test_a_network_that_fails_is_left_in_its_mode() -> None:
    network = Gaussian(0.0).train()
    network.std = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        draw(network)
    assert network.training


def test_only_the_generator_decides() -> None:
    network = Gaussian(0.0, std=0.5)
    assert torch.equal(draw(network, seed=1), draw(network, seed=1))
    assert not torch.equal(draw(network, seed=1), draw(network, seed=2))


@given(st.integers(1, 500), st.integers(1, 500))
def test_chunks_add_up(num: int, chunk: int) -> None:
    sizes = chunk_sizes(num, chunk)
    assert sum(sizes) == num
    assert set(sizes[:-1]) <= {chunk}
    assert 1 <= sizes[-1] <= chunk


def test_grids(tmp_path: Path) -> None:
    images = torch.zeros(5, 1, 8, 8)
    images[1] = 1.0
    images[2, 0, 0, 7] = 0.5
    save_grid(images, tmp_path / "grey.png", columns=3)
    grid = np.asarray(Image.open(tmp_path / "grey.png"))
    assert grid.shape == (2 * 66, 3 * 66)  # 8 pixels, eight times as large, in a frame of one
    assert (grid[1:65, 67:131] == 255).all()
    assert (grid[1:65, 1:65] == 0).all()
    assert (grid[1:9, 2 * 66 + 57 : 2 * 66 + 65] == 128).all()
    assert grid[:, 0].min() > 0  # the frame shows on black
    assert len(np.unique(grid[66:, 2 * 66 :])) == 1  # no sixth image


def test_grids_of_large_colour_images_are_not_enlarged(tmp_path: Path) -> None:
    image = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    save_grid(image, tmp_path / "colour.png", columns=1)
    grid = np.asarray(Image.open(tmp_path / "colour.png"))
    assert grid.shape == (72, 72, 3)
    assert np.abs(grid[1:-1, 1:-1] / 255 - image[0].permute(1, 2, 0).numpy()).max() < 0.5 / 255 + 1e-6
