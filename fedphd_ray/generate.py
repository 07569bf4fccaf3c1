"""Images from a saved model, and their quality."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from fedphd_ray.cache import default_cache_dir
from fedphd_ray.config import load_config
from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.sources import Digits
from fedphd_ray.diffusion.features import load_feature_network
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig, load_process
from fedphd_ray.diffusion.pruned_unet import load_unet
from fedphd_ray.diffusion.quality import QualityMeter, QualityReport
from fedphd_ray.diffusion.sampling import chunk_sizes, sample_chunk
from fedphd_ray.errors import DataError, ModelFileError
from fedphd_ray.seeds import Purpose, torch_generator

CHUNK = 125
Say = Callable[[str], None]


def generate(model_dir: Path, num: int, seed: int, steps: int, say: Say) -> Tensor:
    """Images [num, C, H, W] in [0, 1] by DDIM from a model directory or a run directory.

    Args:
        model_dir: the directory.
        num: images.
        seed: of the noise.
        steps: of the sampler.
        say: told what had to be assumed.
    """
    if clients := sorted(model_dir.glob("clients/client-*")):
        raise ModelFileError(
            str(model_dir),
            expected="a whole model",
            found="a run whose method leaves parts of the model with the clients",
            remedy=f"take one client's own model, e.g. {clients[0]}",
        )
    if model_dir.is_file():
        raise ModelFileError(
            str(model_dir),
            expected="a model directory, or the directory of a finished run",
            found="a file",
            remedy="`fedphd run` trains what a YAML file describes",
        )
    unet, process = load_unet(model_dir), load_process(model_dir)
    shape = _image_shape(unet, model_dir)
    if process is None:
        process = NoiseProcess(ProcessConfig())
        say(f"note: no scheduler lies with {model_dir}: DDPM's noise process is assumed (1,000 steps, variances 1e-4 to 0.02)")
    chunks = []
    for index, count in enumerate(chunk_sizes(num, CHUNK)):
        generator = torch_generator(seed, Purpose.SAMPLING, index)
        chunks.append(sample_chunk(unet, process, shape, count, steps, generator))
    images = torch.cat(chunks)
    if bad := int((~images.flatten(1).isfinite().all(1)).sum()):
        raise ModelFileError(str(model_dir), expected="images of finite numbers", found=f"{bad} of {num} that are not")
    return images


def judge(model_dir: Path, data: str | None, num: int, seed: int, steps: int, say: Say) -> QualityReport:
    """Quality of a saved model against a data set.

    Args:
        model_dir: see `generate`.
        data: `digits`, or the YAML file of an experiment; None for the data that the run around the model was trained on.
        num: images to draw.
        seed: of the noise.
        steps: of the sampler.
        say: told what had to be assumed.
    """
    dataset = _dataset(_configuration_of(model_dir, say) if data is None else data)
    images = generate(model_dir, num, seed, steps, say)
    if images.shape[1:] != dataset.images.shape[1:]:
        raise DataError(
            f"--data {data or dataset.name}",
            expected=f"images of the model's shape {tuple(images.shape[1:])}",
            found=str(tuple(dataset.images.shape[1:])),
            remedy="judge a model against the data it was trained on",
        )
    network = load_feature_network(dataset.images, dataset.labels, dataset.num_classes, default_cache_dir())
    return QualityMeter(dataset.images, network).evaluate(images, steps)


def _configuration_of(model_dir: Path, say: Say) -> str:
    """The configuration of the run that a model lies in (itself, `model/`, `model/unet/` or `clients/client-000/`)."""
    directory = model_dir.resolve()
    for folder in (directory, *directory.parents[:2]):
        if (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").exists():
            return str(folder / "config.yaml")
    say(f"note: {model_dir} lies in no run directory: it is judged against digits; --data says otherwise")
    return "digits"


def _dataset(data: str) -> ImageDataset:
    if data == "digits":
        return Digits().load(0)
    config = load_config(Path(data))
    return config.data.load(config.seed)


def _image_shape(unet: UNet2DModel, model_dir: Path) -> tuple[int, int, int]:
    """(C, H, W) of what a network draws.

    Raises:
        ModelFileError: it says no size, or one that its levels do not divide, or predicts more than the noise of pictures.
    """
    config = dict(unet.config)
    size, channels, factor = config["sample_size"], config["in_channels"], 2 ** (len(config["block_out_channels"]) - 1)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if height is None:
        expected, found = "a network that says the size of its images", "sample_size: null"
    elif height % factor or width % factor:
        expected, found = f"a sample_size that {factor} divides: each level halves the image", f"{height} x {width}"
    elif config["out_channels"] != channels:
        expected, found = f"as many output as input channels, {channels}: the noise", f"out_channels: {config['out_channels']}"
    elif channels not in (1, 3):
        expected, found = "1 channel (grey) or 3 (colour)", f"in_channels: {channels}"
    else:
        return channels, height, width
    raise ModelFileError(str(model_dir), expected=expected, found=found, remedy="this sampler cannot draw from it")
