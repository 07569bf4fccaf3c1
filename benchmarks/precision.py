"""Local training in float32 and in bfloat16: seconds of a step, and losses of a short run.

    python benchmarks/precision.py examples/paper_cifar10.yaml --batch 8 --steps 6 --threads 2

Real steps of one client on random images of the data's shape (no data is read), the two precisions in turn. The medians leave the
first step of each out.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from fedphd_ray.config import Config, load_config
from fedphd_ray.diffusion.process import NoiseProcess
from fedphd_ray.diffusion.unet import UNetSpec, build_unet, initial_state
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.training.local_training import LocalTrainer
from fedphd_ray.pruning.importance import SparsityPenalty
from fedphd_ray.records import LocalOrder


def main() -> None:
    """Prints a line per precision, and what `auto` takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--image-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config, arguments.overrides)
    spec = UNetSpec.of(config.model, arguments.image_size, 3, 10)
    images = np.random.default_rng(0).integers(0, 256, (8 * arguments.batch, 3, arguments.image_size, arguments.image_size))
    seconds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    runs = {name: Run(config, spec, arguments.batch, name) for name in ("float32", "bfloat16")}
    for step in range(arguments.steps):
        for name, run in runs.items():
            began = time.perf_counter()
            losses.setdefault(name, []).append(run.step(step, torch.from_numpy(images.astype(np.uint8))))
            seconds.setdefault(name, []).append(time.perf_counter() - began)
    medians = {name: statistics.median(own[1:]) for name, own in seconds.items()}
    for name in runs:
        print(f"{name}: {medians[name]:.3f} s a step, losses {' '.join(f'{loss:.4f}' for loss in losses[name])}")
    apart = max(abs(a - b) / a for a, b in zip(losses["float32"], losses["bfloat16"], strict=True))
    print(f"bfloat16 / float32: {medians['bfloat16'] / medians['float32']:.2f}; losses differ by {apart:.2%} at most")


class Run:
    """A client that takes one step at a time, from its own last model."""

    def __init__(self, config: Config, spec: UNetSpec, batch: int, precision: str) -> None:
        local = config.local.model_copy(update={"steps": 1, "epochs": 1, "batch_size": batch, "precision": precision})
        loss, penalty = NoiseProcess(config.process).loss, SparsityPenalty("channel")
        self._trainer = LocalTrainer(local, config.strategy, loss, penalty, config.seed)
        self._model = FlatModel(build_unet(spec))
        self._vector = self._model.layout.flatten(initial_state(spec, config.seed))

    def step(self, round: int, images: torch.Tensor) -> float:
        """The loss before it."""
        order = LocalOrder(round=round, edge=0, learning_rate_scale=1.0, sparsity=0.0)
        result = self._trainer.train(self._model, images, order, client=0, received=self._vector, version=0)
        self._vector = self._model.vector.clone()
        return result.loss


if __name__ == "__main__":
    main()
