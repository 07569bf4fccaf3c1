"""Sampling with DDIM, in chunks that any worker may draw, and pictures of the outcome.

Song, Meng, Ermon: "Denoising Diffusion Implicit Models", ICLR 2021 (arXiv 2010.02502), eta = 0.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image
from torch import Tensor, nn

from fedphd_ray.diffusion.labels import Guided
from fedphd_ray.diffusion.process import NoiseProcess
from fedphd_ray.errors import ConfigError

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel

SAMPLER = "DDIM, eta 0, uniform steps, x0 clipped"
MIN_CELL_PIXELS = 64
SEPARATOR = 0.35  # a grey that neither black nor white images swallow


def chunk_sizes(num: int, chunk: int) -> list[int]:
    """Sizes of the chunks of `num` images, all `chunk` but the last."""
    return [min(chunk, num - start) for start in range(0, num, chunk)]


def time_steps(num_timesteps: int, steps: int) -> list[int]:
    """The integer parts of linspace(-1, T - 1, S + 1)[1:], ascending: uniform, and ending at T - 1, where noise is pure."""
    if not 1 <= steps <= num_timesteps:
        raise ConfigError(
            "sampling steps",
            expected=f"1 to {num_timesteps}, the time steps of the noise process",
            found=str(steps),
            remedy="set evaluation.steps (or --steps) within these bounds",
        )
    return [step * num_timesteps // steps - 1 for step in range(1, steps + 1)]


@torch.no_grad()
def sample_chunk(
    unet: nn.Module,
    process: NoiseProcess,
    shape: tuple[int, ...],
    num: int,
    steps: int,
    generator: torch.Generator,
    labels: Sequence[int] | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Draws images [num, C, H, W] in [0, 1] in one batch, float32 and not quantised (Song et al. 2021, eq. 12, sigma = 0).

    Agrees with diffusers' `DDIMScheduler.step` where S divides T. Elsewhere that method takes T // S for the distance between
    time steps, and so leaves noise in the sample; here each step goes to the next time step, and the last to x_0 itself.

    Args:
        unet: called as (x, t [num]), returns an object with `.sample`; in eval mode while sampling, in its former mode after.
        process: whose noise it predicts (or image, or velocity).
        shape: (C, H, W).
        num: images.
        steps: DDIM steps, S; x_0 is clipped to [-1, 1] in each and the noise recomputed from it.
        generator: on the CPU; the chunk's own.
        labels: of the images, for a network that is told them.
        guidance: see `labels.Guided`.

    Raises:
        ConfigError: more steps than the process has.
    """
    times = time_steps(process.config.num_timesteps, steps)
    levels = [(1.0, 0.0), *process.levels(times)]
    device = next(unet.parameters()).device
    t = torch.tensor(times, device=device)[:, None].expand(steps, num)
    x = torch.randn((num, *shape), generator=generator).to(device)
    denoiser = unet if labels is None else Guided(cast("UNet2DModel", unet), torch.tensor(labels), guidance)
    with _evaluating(unet):
        for step in range(steps, 0, -1):
            (signal, sigma), (next_signal, next_sigma) = levels[step], levels[step - 1]
            x0 = process.denoised(x, denoiser(x, t[step - 1]).sample, signal, sigma).clamp(-1, 1)
            x = next_signal * x0 + next_sigma * (x - signal * x0) / sigma
    return (x / 2 + 0.5).clamp(0, 1).cpu()


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Writes images [N, C, H, W] in [0, 1], C 1 or 3, as a PNG grid; small images are enlarged without smoothing."""
    num, channels, height, width = images.shape
    scale = math.ceil(MIN_CELL_PIXELS / height)
    rows = math.ceil(num / columns)
    cells = torch.full((rows * columns, channels, height * scale + 2, width * scale + 2), SEPARATOR)
    cells[:num, :, 1:-1, 1:-1] = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    grid = cells.view(rows, columns, *cells.shape[1:]).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(rows * cells.shape[2], columns * cells.shape[3], channels) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(path, format="PNG")


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
