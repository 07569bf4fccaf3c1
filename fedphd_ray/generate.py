"""Images from a saved model, and their quality."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.folders import ImageFolder
from fedphd_ray.data.sources import DataSource, Digits
from fedphd_ray.diffusion.extractors import Features
from fedphd_ray.diffusion.labels import in_proportion, num_classes_of
from fedphd_ray.diffusion.metrics import PrecisionRecall
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig, load_process
from fedphd_ray.diffusion.pruned_unet import load_unet, model_folder, read_config
from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.diffusion.sampling import SAMPLER, chunk_sizes, sample_chunk
from fedphd_ray.errors import ConfigError, DataError, ModelFileError
from fedphd_ray.runtime.evaluation import EvaluationConfig, quality_meter
from fedphd_ray.seeds import Purpose, torch_generator
from fedphd_ray.settings.overrides import read_tree
from fedphd_ray.settings.plugins import named_in, trusting
from fedphd_ray.settings.sections import Section
from fedphd_ray.settings.validation import explained
from fedphd_ray.system.saying import Say
from fedphd_ray.tensors import as_tensor, signed

CHUNK = 125
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def generate(
    model_dir: Path, num: int, seed: int, steps: int, say: Say, classes: Sequence[int] = (), guidance: float = 1.0
) -> Tensor:
    """Images [num, C, H, W] in [0, 1] by DDIM from a model directory or a run directory.

    Args:
        model_dir: the directory.
        num: images.
        seed: of the noise.
        steps: of the sampler.
        say: told what had to be assumed.
        classes: that a class-conditional model is asked for in turn; all of them if none is named.
        guidance: by them, see `diffusion.labels.Guided`.
    """
    _require_whole(model_dir)
    unet, process = load_unet(model_dir), load_process(model_dir)
    shape = _image_shape(unet, model_dir)
    if process is None:
        process = NoiseProcess(ProcessConfig())
        say(f"note: no scheduler lies with {model_dir}: DDPM's noise process is assumed (1,000 steps, variances 1e-4 to 0.02)")
    labels = _labels(unet, num, classes, guidance, model_dir)
    chunks = []
    for index, count in enumerate(chunk_sizes(num, CHUNK)):
        generator, start = torch_generator(seed, Purpose.SAMPLING, index), index * CHUNK
        own = None if labels is None else labels[start : start + count]
        chunks.append(sample_chunk(unet, process, shape, count, steps, generator, own, guidance))
    images = torch.cat(chunks)
    if bad := int((~images.flatten(1).isfinite().all(1)).sum()):
        raise ModelFileError(str(model_dir), expected="images of finite numbers", found=f"{bad} of {num} that are not")
    return images


def _require_whole(model_dir: Path) -> None:
    """Sees that one model lies there.

    Raises:
        ModelFileError: it is a file, or a run whose clients keep parts of the model.
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


def _labels(unet: UNet2DModel, num: int, classes: Sequence[int], guidance: float, model_dir: Path) -> Sequence[int] | None:
    """Labels of so many images; None for a network that is told none.

    Raises:
        ModelFileError: something is asked for that the network does not know.
    """
    known = num_classes_of(unet)
    if known is None and (classes or guidance != 1.0):
        remedy = "train one with model.class_conditional: true, or ask for no class and no guidance"
        raise ModelFileError(str(model_dir), expected="a class-conditional model", found="one without classes", remedy=remedy)
    if known is None:
        return None
    if unknown := sorted({label for label in classes if not 0 <= label < known}):
        raise ModelFileError(str(model_dir), expected=f"classes from 0 to {known - 1}", found=str(unknown[0]))
    asked = classes or range(known)
    return [asked[index % len(asked)] for index in range(num)]


@dataclass(frozen=True)
class Judgement:
    """Figures of a model's samples, or of pictures.

    Attributes:
        quality: FID, KID, classes; precision, recall and the class score, and what else the configuration asks for.
        what: what was judged, in words.
    """

    quality: QualityReport
    what: str


def judge(
    model_dir: Path,
    data: str | None,
    num: int,
    seed: int,
    steps: int,
    say: Say,
    split: str | None = None,
    features: Features | None = None,
    guidance: float = 1.0,
    trust: Collection[str] = (),
) -> Judgement:
    """Quality of a saved model, or of a folder of pictures, against a data set.

    Args:
        model_dir: see `generate`; or a folder of pictures, all of which are judged.
        data: `digits`, or the YAML file of an experiment; None for the data that the run around the model was trained on.
        num: images to draw.
        seed: of the noise.
        steps: of the sampler.
        say: told what had to be assumed, and what takes time.
        split: `train` or `test`, to compare with; None for the one that the configuration names. The network of features learns
            from the training split in any case.
        features: to compare in; None for those of the configuration.
        guidance: of a class-conditional model, which is asked for classes as often as the data has them.
        trust: classes of the user's own that the configuration may import (`module:Name`).
    """
    chosen, data_seed, judging = _source(_configuration_of(model_dir, say) if data is None else data, trust, say)
    compared = chosen if split is None else chosen.of_split(split)
    reference = compared.load(data_seed, say)
    labels = None
    if _holds_pictures(model_dir):
        images = _pictures(model_dir, reference, say)
        what, steps = f"{len(images)} pictures", 0
    else:
        _require_whole(model_dir)
        if read_config(model_folder(model_dir)).num_class_embeds is not None:
            labels = in_proportion(reference.class_counts, num)
        images = generate(model_dir, num, seed, steps, say, labels or (), guidance)
        what = f"{num} samples, {steps} steps, {SAMPLER}"
    if images.shape[1:] != reference.images.shape[1:]:
        raise DataError(
            f"--data {data or reference.name}",
            expected=f"images of the model's shape {tuple(images.shape[1:])}",
            found=str(tuple(reference.images.shape[1:])),
            remedy="judge a model against the data it was trained on",
        )
    learnt = reference if compared == chosen.training else chosen.training.load(data_seed, say)
    metrics = (PrecisionRecall(), *(metric for metric in judging.metrics if not isinstance(metric, PrecisionRecall)))
    meter = quality_meter(reference, learnt, features or judging.features, metrics)
    return Judgement(meter.evaluate(images, steps, labels), what)


def named_features(text: str) -> Features:
    """Reads `classifier`, `efficientnet_lite0` or `inception:WEIGHTS_FILE`.

    Raises:
        ConfigError: it is none of these.
    """
    name, colon, weights = text.partition(":")
    try:
        return TypeAdapter[Features](Features).validate_python({"name": name} | ({"weights": weights} if colon else {}))
    except ValidationError:
        expected = "classifier, efficientnet_lite0 or inception:WEIGHTS_FILE"
        raise ConfigError("--features", expected=expected, found=text) from None


def _holds_pictures(directory: Path) -> bool:
    """Whether a folder holds pictures and no model."""
    if not directory.is_dir() or any(
        (directory / name).exists() for name in ("config.json", "model_index.json", "model", "unet")
    ):
        return False
    return any(entry.suffix.lower() in PICTURES for entry in directory.rglob("*"))


def _pictures(directory: Path, like: ImageDataset, say: Say) -> Tensor:
    """All pictures below a folder [N, C, H, W] in [0, 1]; grey ones in three channels where the data has colours."""
    found = as_tensor(ImageFolder(name="image_folder", path=str(directory.absolute())).load(0, say).images)
    if found.shape[1] == 1 and like.channels == 3:
        found = found.repeat_interleave(3, dim=1)
    return signed(found) / 2 + 0.5


def _configuration_of(model_dir: Path, say: Say) -> str:
    """The configuration of the run that a model lies in (itself, `model/`, `model/unet/` or `clients/client-000/`)."""
    directory = model_dir.resolve()
    for folder in (directory, *directory.parents[:2]):
        if (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").exists():
            return str(folder / "config.yaml")
    say(f"note: {model_dir} lies in no run directory: it is judged against digits; --data says otherwise")
    return "digits"


class _Judged(Section):
    """What a configuration says of the images that samples are compared with."""

    data: DataSource = Digits()
    seed: NonNegativeInt = 2025
    evaluation: EvaluationConfig = EvaluationConfig()


def _source(data: str, trust: Collection[str], say: Say) -> tuple[DataSource, int, EvaluationConfig]:
    """A data set's configuration, the seed it is loaded with, and how it is judged."""
    if data == "digits":
        return Digits(), 0, EvaluationConfig()
    tree = {key: value for key, value in read_tree(Path(data)).items() if key in _Judged.model_fields}
    _leave_out(tree, trust, say)
    try:  # the file may lie in somebody else's run directory
        own = _Judged.model_validate_json(json.dumps(tree), strict=True, context=trusting(trust))
    except ValidationError as error:
        raise explained(error, _Judged) from None
    return own.data, own.seed, own.evaluation


def _leave_out(tree: dict[str, Any], trust: Collection[str], say: Say) -> None:
    """Takes out what a judgement needs not: who has which image, and metrics for which nobody vouches."""
    data, judging = tree.get("data"), tree.get("evaluation")
    if isinstance(data, dict):
        data.pop("partition", None)
    if not isinstance(judging, dict) or not isinstance(judging.get("metrics"), list):
        return
    unknown = sorted(named_in(judging["metrics"]) - set(trust))
    judging["metrics"] = [metric for metric in judging["metrics"] if not named_in(metric) & set(unknown)]
    for path in unknown:
        say(f"note: the configuration names a metric to import, {path}: it is left out; if it is yours, add --trust {path}")


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
