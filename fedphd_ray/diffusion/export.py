"""A pruned network as a stock diffusers model, which opens without this program.

Where every width has shrunk by the same share, a pruned network is the stock one with smaller `block_out_channels` and
`attention_head_dim`, but for its time embedding: it still takes the sinusoids of the dense base width, of which the stock class
would make fewer, of other frequencies. The table of all sinusoids (time steps x dense width) has a low numerical rank, so it
factors through fewer columns: with its singular value decomposition U S V^T, the first columns of U S become the table of a
*learned* time embedding, and `linear_1.weight` is multiplied by V. Whether that is exact is measured, every time.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import logging
from torch import Tensor, nn

from fedphd_ray.diffusion.pruned_unet import PrunedUNet2DModel, stock_shapes
from fedphd_ray.diffusion.unet import UNetSpec
from fedphd_ray.seeds import Purpose, torch_generator

PROBES = 8  # time steps, evenly from the first to the last, at which outputs are compared
TOLERANCE = 1e-5  # float32 rounding through the whole network leaves about 1e-6

_TABLE = "time_proj.weight"
_FIRST_LAYER = "time_embedding.linear_1.weight"


@dataclass(frozen=True)
class StockExport:
    """The outcome: a model, or why there is none.

    Attributes:
        model: a `UNet2DModel` that diffusers saves and opens by itself, in evaluation mode; None if refused.
        reason: why it was refused, one sentence; empty if it was not.
        max_difference: largest difference of outputs on the probes; 0 for a dense network, nan where there was nothing to
            compare.
    """

    model: UNet2DModel | None
    reason: str
    max_difference: float


def opener(spec: UNetSpec) -> str:
    """What of diffusers opens an exported network."""
    if spec.num_classes is None:
        return "diffusers.DDIMPipeline"
    return "diffusers.UNet2DModel (folder unet; no pipeline of diffusers gives it classes)"


def export_stock(model: UNet2DModel, spec: UNetSpec, *, num_timesteps: int) -> StockExport:
    """The same function as a stock `UNet2DModel`, if there is one, and only if its outputs agree to 1e-5.

    Args:
        model: dense (then it is returned as it is) or pruned; not changed.
        spec: the dense network it comes from.
        num_timesteps: length of the noise process; the exported network knows the integer time steps below it.
    """
    if not isinstance(model, PrunedUNet2DModel):
        return StockExport(model, "", 0.0)
    kwargs = _narrow_kwargs(model, spec, num_timesteps)
    if isinstance(kwargs, str):
        return StockExport(None, kwargs, float("nan"))
    narrow = _narrow_model(model, kwargs, num_timesteps)
    difference = _largest_difference(model, narrow, spec, num_timesteps)
    if not difference <= TOLERANCE:
        dense, left = model.time_embedding.linear_1.in_features, narrow.time_proj.embedding_dim
        reason = (
            f"outputs differ by {difference:.1e}, more than {TOLERANCE:.0e}: {dense} sinusoids do not fit into {left} columns"
        )
        return StockExport(None, reason, difference)
    return StockExport(narrow, "", difference)


def save_pipeline(directory: Path, unet: UNet2DModel, scheduler: DDIMScheduler) -> str:
    """Writes what `diffusers.DDIMPipeline.from_pretrained(directory)` opens, and tries it: model_index.json, unet/, scheduler/.

    Returns:
        Empty, or why the pipeline draws no image; there is no pipeline then.

    Args:
        directory: may exist; other files in it stay.
        unet: a stock network (`export_stock`).
        scheduler: of the noise process that the network was trained for.
    """
    assert not isinstance(unet, PrunedUNet2DModel), "only stock networks open without this program"
    pipeline = DDIMPipeline(unet=unet, scheduler=scheduler)  # type: ignore[arg-type]  # mypy sees a dummy of the scheduler
    pipeline.save_pretrained(directory, safe_serialization=True)
    try:
        opened = _open_quietly(directory)
        opened.set_progress_bar_config(disable=True)
        steps = min(3, scheduler.config["num_train_timesteps"])
        generator = torch_generator(0, Purpose.SAMPLING, 1)
        (images,) = opened(generator=generator, num_inference_steps=steps, output_type="np", return_dict=False)
        failure = "" if np.isfinite(np.asarray(images)).all() else "it draws what is not finite"
    except Exception as error:  # whatever stock diffusers raises is the reason
        failure = f"{type(error).__name__}: {error}".partition("\n")[0]
    if failure:
        (directory / "model_index.json").unlink()
        shutil.rmtree(directory / "unet")
    return failure


def _open_quietly(directory: Path) -> DDIMPipeline:
    """Without a bar of its own, and without advice on other packages."""
    logging.disable_progress_bar()
    try:
        pipeline: DDIMPipeline = DDIMPipeline.from_pretrained(directory, local_files_only=True, low_cpu_mem_usage=False)
    finally:
        logging.enable_progress_bar()
    return pipeline


def _narrow_kwargs(model: PrunedUNet2DModel, spec: UNetSpec, num_timesteps: int) -> dict[str, object] | str:
    """Arguments of the stock network with the same parameter shapes, or what stands against it."""
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    head_dims = {module.inner_dim // module.heads for module in attentions.values()}
    if len(head_dims) > 1:
        return f"attention heads have different widths, {sorted(head_dims)}"
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    widths = tuple(shapes[f"down_blocks.{level}.resnets.0.conv2.weight"][0] for level in range(len(spec.config.widths)))
    kwargs = spec.stock_kwargs() | {
        "block_out_channels": widths,
        "attention_head_dim": head_dims.pop(),
        "time_embedding_type": "learned",
        "time_embedding_dim": shapes[_FIRST_LAYER][0],
        "num_train_timesteps": num_timesteps,
    }
    stock = stock_shapes(kwargs)
    stock.pop(_TABLE)
    for name, shape in stock.items():
        if name != _FIRST_LAYER and shapes[name] != shape:
            return f"{name} is {shapes[name]}, where a stock network of widths {widths} has {shape}: pruned by unequal shares"
    return kwargs


def _narrow_model(model: PrunedUNet2DModel, kwargs: dict[str, object], num_timesteps: int) -> UNet2DModel:
    with torch.device("meta"):
        narrow: UNet2DModel = UNet2DModel(**kwargs)
    columns: int = narrow.time_proj.embedding_dim  # type: ignore[assignment]
    device = model.conv_in.weight.device
    sinusoids = model.time_proj(torch.arange(num_timesteps, device=device)).double()
    left, singular, right = torch.linalg.svd(sinusoids, full_matrices=False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    # Of fewer time steps than columns there are fewer singular values: the other columns are zero.
    missing = (0, max(0, columns - len(singular)))
    table, back = nn.functional.pad(left * singular, missing), nn.functional.pad(right.T, missing)
    state[_TABLE] = table[:, :columns].float().contiguous()
    state[_FIRST_LAYER] = (state[_FIRST_LAYER].double() @ back[:, :columns]).float().contiguous()
    narrow.load_state_dict(state, assign=True)
    narrow.eval()
    return narrow


@torch.no_grad()
def _largest_difference(model: UNet2DModel, other: UNet2DModel, spec: UNetSpec, num_timesteps: int) -> float:
    """Over time steps from first to last, and classes; each image by itself, to need no more memory than one forward pass."""
    generator = torch_generator(0, Purpose.SAMPLING)
    differences = []
    with _evaluating(model):
        for step in sorted({round(share * (num_timesteps - 1) / PROBES) for share in range(PROBES + 1)}):
            image = torch.randn(1, spec.channels, spec.image_size, spec.image_size, generator=generator)
            device = model.conv_in.weight.device
            labels = () if spec.num_classes is None else (torch.tensor([step % (spec.num_classes + 1)], device=device),)
            inputs = image.to(device), torch.tensor([step], device=device), *labels
            differences.append(_output(model, *inputs).sub(_output(other, *inputs)).abs().max())
    return float(torch.stack(differences).max())


def _output(model: UNet2DModel, *inputs: Tensor) -> Tensor:
    output: Tensor = model(*inputs).sample
    return output


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
