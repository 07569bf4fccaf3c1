"""Sampling with DDIM, in chunks that any worker may draw.

Song, Meng, Ermon: "Denoising Diffusion Implicit Models", ICLR 2021 (arXiv 2010.02502), eta = 0.
"""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fedphd_ray.diffusion.process import NoiseProcess

SAMPLER = "DDIM, eta 0, trailing steps, x0 clipped"
MIN_CELL_PIXELS = 40


def chunk_sizes(num: int, chunk: int) -> list[int]:
    """Sizes of the chunks of `num` images, all `chunk` but the last."""
    return [min(chunk, num - start) for start in range(0, num, chunk)]


@torch.no_grad()
def sample_chunk(
    unet: nn.Module, process: NoiseProcess, shape: tuple[int, ...], num: int, steps: int, generator: torch.Generator
) -> Tensor:
    """Draws images [num, C, H, W] in [0, 1] in one batch, float32 and not quantised.

    Args:
        unet: called as (x, t), returns an object with `.sample`; in eval mode while sampling, in its former mode after.
        process: whose noise it predicts.
        shape: (C, H, W).
        num: images.
        steps: DDIM steps; x_0 is clipped to [-1, 1] in each and the noise recomputed from it.
        generator: on the CPU; the chunk's own.
    """
    parameter = next(unet.parameters())
    scheduler = process.ddim_scheduler()
    scheduler.set_timesteps(steps)
    x = torch.randn((num, *shape), generator=generator).to(parameter.device)
    training = unet.training
    unet.eval()
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t.to(x.device)).sample, t, x, use_clipped_model_output=True).prev_sample
    unet.train(training)
    return (x / 2 + 0.5).clamp(0, 1).cpu()


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Writes images [N, C, H, W] in [0, 1], C 1 or 3, as a PNG grid; small images are enlarged without smoothing."""
    num, channels, height, width = images.shape
    scale = max(1, math.ceil(MIN_CELL_PIXELS / height))
    rows = math.ceil(num / columns)
    cells = torch.zeros(rows * columns, channels, height * scale + 2, width * scale + 2)
    enlarged = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    cells[:num, :, 1:-1, 1:-1] = enlarged
    grid = cells.view(rows, columns, *cells.shape[1:]).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(rows * cells.shape[2], columns * cells.shape[3], channels) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(path, format="PNG")
