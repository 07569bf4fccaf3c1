"""Which classifier serves as the feature network of digits: chosen without looking at any generated image.

Rule, fixed before the figures were seen: (1) accuracy on held-out images (five folds) within one standard error of the best;
(2) FID grows with every step of every known degradation of real images (Heusel et al. 2017, appendix A1, does the same for
Inception); (3) of those left, the fewest parameters. See docs/decisions/004.

    python benchmarks/feature_network.py        (about ten minutes on one core)
"""

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedphd_ray.data.sources import Digits
from fedphd_ray.diffusion import features
from fedphd_ray.diffusion.quality import QualityMeter
from fedphd_ray.tensors import Pixels, as_tensor, signed


def candidate(depth: int, width: int, num_features: int) -> type[features.FeatureNetwork]:
    """`depth` convolutions: `width` channels in the first, twice as many in the others; the second halves the image."""

    class Candidate(features.FeatureNetwork):
        def __init__(self, channels: int, image_size: int, num_classes: int) -> None:
            nn.Module.__init__(self)
            self.num_classes, self.num_features = num_classes, num_features
            widths = [channels, width, *[2 * width] * (depth - 1)]
            layers: list[nn.Module] = []
            for index, (inside, outside) in enumerate(pairwise(widths)):
                layers += [nn.Conv2d(inside, outside, 3, 2 if index == 1 else 1, padding=1), nn.GroupNorm(8, outside), nn.SiLU()]
            layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(widths[-1] * 16, num_features), nn.SiLU()]
            layers.append(nn.BatchNorm1d(num_features, eps=1e-3, affine=False))
            self.body, self.head = nn.Sequential(*layers), nn.Linear(num_features, num_classes)

    return Candidate


def accuracy(images: Pixels, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Mean over five folds of the accuracy on the images left out, and its standard error."""
    folds = np.array_split(np.random.default_rng(0).permutation(len(labels)), 5)
    found = []
    for test in folds:
        train = np.setdiff1d(np.arange(len(labels)), test)
        network = features.train_feature_network(images[train], labels[train], 10)
        with torch.no_grad():
            answers = network.classify(signed(as_tensor(images[test])) / 2 + 0.5).argmax(1).numpy()
        found.append(float((answers == labels[test]).mean()))
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found)))


def degradations(images: Tensor, labels: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """Per kind of damage, the same images ever more damaged, the undamaged ones first."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(images.shape, generator=generator)
    yield "noise", [(images + level * noise).clamp(-1, 1) for level in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)]
    random = torch.rand(images.shape, generator=generator) * 2 - 1
    order = torch.rand(len(images), 1, 1, 1, generator=generator)
    yield "images of pure noise", [torch.where(order < share, random, images) for share in (0.0, 0.1, 0.2, 0.4, 0.8)]
    yield "missing classes", [images[labels >= missing] for missing in (0, 1, 2, 4, 6, 8)]
    blurred = [images]
    for _ in range(4):
        blurred.append(nn.functional.avg_pool2d(nn.functional.pad(blurred[-1], (1, 1, 1, 1), mode="replicate"), 3, 1))
    yield "blur", blurred
    shuffled = images.flatten(1)[:, torch.randperm(images[0].numel(), generator=generator)].view_as(images)
    yield "shuffled pixels", [torch.where(order < share, shuffled, images) for share in (0.0, 0.1, 0.2, 0.4, 0.8)]


def out_of_order(images: Pixels, labels: NDArray[np.int64]) -> tuple[list[str], float]:
    """Kinds of damage whose FIDs do not grow with every step; and the FID between two halves of the real images."""
    order = np.random.default_rng(1).permutation(len(labels))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    network = features.train_feature_network(images, labels, 10)

    meter = QualityMeter(images[first], network)
    wrong, halves = [], 0.0
    for kind, steps in degradations(signed(as_tensor(images[second])), torch.from_numpy(labels[second])):
        fids = [meter.evaluate(step / 2 + 0.5, steps=0).fid for step in steps]
        halves = fids[0]
        if any(after <= before for before, after in pairwise(fids)):
            wrong.append(kind)
    return wrong, halves


def main() -> None:
    """Prints the table and the choice."""
    torch.set_num_threads(1)
    data = Digits().load(0)
    rows = []
    for shape in product((1, 2, 3, 4), (16, 32), (32, 64, 128)):
        features.FeatureNetwork = candidate(*shape)  # type: ignore[misc]  # what train_feature_network builds
        mean, error = accuracy(data.images, data.labels)
        wrong, halves = out_of_order(data.images, data.labels)
        size = sum(value.numel() for value in features.FeatureNetwork(1, 8, 10).parameters())
        rows.append((size, shape, mean, error, wrong))
        print(
            f"{shape[0]} convolutions from {shape[1]:2} channels, {shape[2]:3} features: {size:7,} parameters, "
            f"held out {mean:.4f} +- {error:.4f}, FID of halves {halves:.2f}, out of order: {', '.join(wrong) or 'nothing'}",
            flush=True,
        )
    best = max(rows, key=lambda row: row[2])
    chosen = min(row for row in rows if row[2] >= best[2] - best[3] and not row[4])
    print(f"chosen: {chosen[1][0]} convolutions from {chosen[1][1]} channels, {chosen[1][2]} features")


if __name__ == "__main__":
    main()
