"""A small classifier of a data set: its penultimate layer is the feature network of FID and KID, its head counts classes."""

import hashlib
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from fedphd_ray.seeds import Purpose, global_torch_seed, torch_generator
from fedphd_ray.system.cache import write_cached
from fedphd_ray.system.files import MIB, read_regular
from fedphd_ray.system.threads import torch_threads
from fedphd_ray.tensors import Pixels, as_tensor, signed

RECIPE = 2
"""Version of network and training: part of the cache key. FIDs of different recipes are not comparable."""
SEED, STEPS, BATCH_SIZE, LEARNING_RATE = 0, 480, 64, 3e-3
NUM_FEATURES = 32


class FeatureNetwork(nn.Module):
    """Convolutional classifier for images [B, C, S, S] in [0, 1].

    Args:
        channels: C.
        image_size: S; the network halves the resolution until about 8 pixels are left.
        num_classes: labels.
    """

    name = "classifier"
    num_features, batch_size = NUM_FEATURES, 250

    def __init__(self, channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.image_size = num_classes, image_size
        halvings = max(0, round(math.log2(image_size / 8)))
        strides = [*[1] * (image_size <= 16), *[2] * halvings]  # large images are halved at once, which costs less
        widths = [channels, 32, *[64] * (len(strides) - 1)]
        layers: list[nn.Module] = []
        for (inside, outside), stride in zip(pairwise(widths), strides, strict=True):
            layers += [nn.Conv2d(inside, outside, 3, stride, padding=1), nn.GroupNorm(8, outside), nn.SiLU()]
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(widths[-1] * 16, NUM_FEATURES), nn.SiLU()]
        # Features of one scale on real images: no single direction rules FID and KID.
        layers.append(nn.BatchNorm1d(NUM_FEATURES, eps=1e-3, affine=False))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 32] of images [B, C, S, S] in [0, 1]."""
        features: Tensor = self.body(images * 2 - 1)
        return features

    def classify(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes]."""
        return self.logits(self(images))

    def logits(self, features: Tensor) -> Tensor:
        """Logits [B, num_classes] from features [B, 32]."""
        logits: Tensor = self.head(features)
        return logits


def train_feature_network(images: Pixels, labels: NDArray[np.int64], num_classes: int) -> FeatureNetwork:
    """Trains on images [N, C, S, S] (see `tensors.signed`) from a seed of its own, so that FIDs of different runs are comparable.

    The work does not grow with N: a fixed number of batches. One thread, because sums over
    several would make the last bits depend on the machine.
    """
    inputs, targets = as_tensor(images), as_tensor(labels)
    with global_torch_seed(SEED, Purpose.FEATURE_NETWORK, 1):
        network = FeatureNetwork(images.shape[1], images.shape[2], num_classes)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    generator = torch_generator(SEED, Purpose.FEATURE_NETWORK)
    with torch_threads(1), torch.enable_grad():
        for indices in _batches(len(images), generator):
            logits = network.classify(signed(inputs[indices]) / 2 + 0.5)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, targets[indices]).backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def load_feature_network(images: Pixels, labels: NDArray[np.int64], num_classes: int, cache_dir: Path | None) -> FeatureNetwork:
    """The feature network of a data set: from the cache if it lies there whole, else trained, and cached if that can be done.

    Args:
        images: [N, C, S, S], see `tensors.signed`.
        labels: [N] in {0, ..., num_classes - 1}.
        num_classes: of the data set.
        cache_dir: need not exist, nor be writable; None for no cache.
    """
    path = cache_dir and cache_dir / f"features-{_key(images, labels, num_classes)}.safetensors"
    if path is not None and (cached := _read(path, images.shape[1], images.shape[2], num_classes)) is not None:
        return cached
    network = train_feature_network(images, labels, num_classes)
    if path is not None:
        write_cached(path, safetensors.torch.save(network.state_dict()))
    return network


def _batches(num_images: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of `STEPS` batches, walking through one random order of the images after another."""
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(STEPS):
        while len(left) < BATCH_SIZE:
            left = torch.cat([left, torch.randperm(num_images, generator=generator)])
        yield left[:BATCH_SIZE]
        left = left[BATCH_SIZE:]


def _key(images: Pixels, labels: NDArray[np.int64], num_classes: int) -> str:
    sha = hashlib.sha256(f"{RECIPE} {STEPS} {num_classes} {images.shape}".encode())
    for array in (images, labels):
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()[:32]


def _read(path: Path, channels: int, image_size: int, num_classes: int) -> FeatureNetwork | None:
    """The cached network; None if it is not there or not whole."""
    with torch.device("meta"):  # nothing is drawn for parameters that are replaced
        network = FeatureNetwork(channels, image_size, num_classes)
    try:
        network.load_state_dict(safetensors.torch.load(read_regular(path, 64 * MIB)), assign=True)
    except (OSError, SafetensorError, RuntimeError):
        return None
    return network.eval().requires_grad_(False)
