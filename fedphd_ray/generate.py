"""Images from a saved model, and their quality."""

from pathlib import Path

import torch
from torch import Tensor

from fedphd_ray.config import load_config
from fedphd_ray.data.sources import Digits, ImageDataset
from fedphd_ray.diffusion.features import default_cache_dir, load_feature_network
from fedphd_ray.diffusion.process import NoiseProcess, load_process
from fedphd_ray.diffusion.pruned_unet import load_unet
from fedphd_ray.diffusion.quality import QualityMeter, QualityReport
from fedphd_ray.diffusion.sampling import chunk_sizes, sample_chunk
from fedphd_ray.errors import DataError, ModelFileError
from fedphd_ray.seeds import Purpose, torch_generator

CHUNK = 125


def generate(model_dir: Path, num: int, seed: int, steps: int) -> Tensor:
    """Images [num, C, H, W] in [0, 1] by DDIM from a model directory or a run directory."""
    if clients := sorted(model_dir.glob("clients/client-*")):
        raise ModelFileError(
            str(model_dir),
            expected="a whole model",
            found="a run whose method leaves parts of the model with the clients",
            remedy=f"take one client's own model, e.g. {clients[0]}",
        )
    unet = load_unet(model_dir)
    process: NoiseProcess = load_process(model_dir)
    config = dict(unet.config)
    size = config["sample_size"]
    chunks = []
    for index, count in enumerate(chunk_sizes(num, CHUNK)):
        generator = torch_generator(seed, Purpose.SAMPLING, index)
        chunks.append(sample_chunk(unet, process, (config["in_channels"], size, size), count, steps, generator))
    return torch.cat(chunks)


def judge(model_dir: Path, data: str, num: int, seed: int, steps: int) -> QualityReport:
    """Quality of a saved model against a data set: `digits`, or that of an experiment's YAML file."""
    dataset = _dataset(data)
    images = generate(model_dir, num, seed, steps)
    if images.shape[1:] != dataset.images.shape[1:]:
        raise DataError(
            f"--data {data}",
            expected=f"images of the model's shape {tuple(images.shape[1:])}",
            found=str(tuple(dataset.images.shape[1:])),
            remedy="judge a model against the data it was trained on",
        )
    network = load_feature_network(dataset.images, dataset.labels, dataset.num_classes, default_cache_dir())
    return QualityMeter(dataset.images, network).evaluate(images, steps)


def _dataset(data: str) -> ImageDataset:
    if data == "digits":
        return Digits().load(0)
    config = load_config(Path(data))
    return config.data.load(config.seed)
