"""A small classifier of a data set: its penultimate layer is the feature network of FID and KID, its head counts classes."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedphd_ray.seeds import Purpose, global_torch_seed, torch_generator

RECIPE = 1
"""Version of network and training: part of the cache key. FIDs of different recipes are not comparable."""
SEED, EPOCHS, BATCH_SIZE, LEARNING_RATE = 0, 12, 64, 2e-3
NUM_FEATURES = 64


class FeatureNetwork(nn.Module):
    """Convolutional classifier for images [B, C, H, W] in [0, 1].

    Args:
        channels: C.
        num_classes: labels.
    """

    num_features = NUM_FEATURES

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, NUM_FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 64] of images [B, C, H, W] in [0, 1]."""
        features: Tensor = self.body(images * 2 - 1)
        return features

    def classify(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes]."""
        logits: Tensor = self.head(self(images))
        return logits


def train_feature_network(images: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> FeatureNetwork:
    """Trains on images [N, C, H, W] in [-1, 1] from a seed of its own, so that FIDs of different runs are comparable.

    Each image is shifted by up to one pixel, drawn anew every epoch.
    """
    inputs, targets = torch.from_numpy(images / 2 + 0.5), torch.from_numpy(labels)
    generator = torch_generator(SEED, Purpose.FEATURE_NETWORK)
    with global_torch_seed(SEED, Purpose.FEATURE_NETWORK, 1):
        network = FeatureNetwork(images.shape[1], num_classes)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - epoch / EPOCHS)
        for indices in torch.randperm(len(inputs), generator=generator).split(BATCH_SIZE):
            shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
            logits = network.classify(torch.roll(inputs[indices], shift, dims=(2, 3)))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, targets[indices]).backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def load_feature_network(
    images: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int, cache_dir: Path | None
) -> FeatureNetwork:
    """The feature network of a data set: from the cache if it lies there whole, else trained, and cached if that can be done."""
    path = cache_dir and cache_dir / f"features-{_key(images, labels, num_classes)}.safetensors"
    if path is not None and (cached := _read(path, images.shape[1], num_classes)) is not None:
        return cached
    network = train_feature_network(images, labels, num_classes)
    if path is not None:
        _write(network, path)
    return network


def default_cache_dir() -> Path:
    """$FEDPHD_CACHE_DIR, else $XDG_CACHE_HOME/fedphd_ray, else ~/.cache/fedphd_ray, else a temporary directory."""
    if directory := os.environ.get("FEDPHD_CACHE_DIR"):
        return Path(directory)
    if directory := os.environ.get("XDG_CACHE_HOME"):
        return Path(directory) / "fedphd_ray"
    home = Path(os.environ.get("HOME", ""))
    if home.is_absolute() and os.access(home, os.W_OK):
        return home / ".cache" / "fedphd_ray"
    return Path(tempfile.gettempdir()) / "fedphd_ray-cache"


def _key(images: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> str:
    sha = hashlib.sha256(f"{RECIPE} {num_classes} {images.shape}".encode())
    sha.update(np.ascontiguousarray(images).tobytes())
    sha.update(np.ascontiguousarray(labels).tobytes())
    return sha.hexdigest()[:32]


def _read(path: Path, channels: int, num_classes: int) -> FeatureNetwork | None:
    """The cached network; None if it is not there or not whole."""
    network = FeatureNetwork(channels, num_classes)
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError, KeyError):
        return None
    return network.eval().requires_grad_(False)


def _write(network: FeatureNetwork, path: Path) -> None:
    """Beside and renamed; a cache that cannot be written is done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
        save_file(network.state_dict(), partial)
        partial.replace(path)
    except OSError:
        return
