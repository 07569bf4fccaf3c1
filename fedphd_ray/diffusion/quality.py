"""Quality of samples: FID and KID in the features of a data set's own classifier, and which classes appear."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from fedphd_ray.diffusion.features import FeatureNetwork
from fedphd_ray.diffusion.sampling import SAMPLER
from fedphd_ray.errors import UserError
from fedphd_ray.seeds import Purpose, global_torch_seed

BATCH = 500
KID_SUBSETS, KID_SUBSET_SIZE = 20, 250


@dataclass(frozen=True)
class QualityReport:
    """Figures of one set of samples. They are comparable only for the same data, sample number, steps and sampler.

    Attributes:
        fid: Frechet distance (Heusel et al. 2017) in the features of the data set's classifier; not an Inception FID.
        kid: squared MMD (Binkowski et al. 2018) in the same features.
        class_histogram: how many samples the classifier takes for each class.
        num_samples: samples judged.
        steps: sampler steps.
        sampler: the sampler in words.
    """

    fid: float
    kid: float
    class_histogram: tuple[int, ...]
    num_samples: int
    steps: int
    sampler: str = SAMPLER


class QualityMeter:
    """Judges samples against real images.

    Args:
        images: real images float32 [N, C, H, W] in [-1, 1]; their statistics are computed once.
        network: feature network of the data set.
    """

    def __init__(self, images: NDArray[np.float32], network: FeatureNetwork) -> None:
        self._network = network
        self._real = torch.from_numpy(images / 2 + 0.5)
        self._fid = FrechetInceptionDistance(feature=network, reset_real_features=False, normalize=True)
        self._num_real = len(images)
        self._feed(self._fid, self._real, real=True)

    def evaluate(self, samples: Tensor, steps: int) -> QualityReport:
        """Figures of samples [n, C, H, W] in [0, 1]; n is at least 2."""
        if len(samples) < 2:
            raise UserError("evaluation.num_samples", expected="at least 2 samples", found=str(len(samples)))
        self._fid.reset()
        self._feed(self._fid, samples, real=False)
        with torch.no_grad():
            classes = torch.cat([self._network.classify(batch).argmax(1) for batch in samples.split(BATCH)])
            num_classes = self._network.head.out_features
        return QualityReport(
            fid=max(0.0, float(self._fid.compute())),
            kid=self._kid(samples),
            class_histogram=tuple(torch.bincount(classes, minlength=num_classes).tolist()),
            num_samples=len(samples),
            steps=steps,
        )

    def _kid(self, samples: Tensor) -> float:
        size = min(KID_SUBSET_SIZE, len(samples), self._num_real)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")  # of its memory, which is small here
            kid = KernelInceptionDistance(feature=self._network, subsets=KID_SUBSETS, subset_size=size, normalize=True)
        self._feed(kid, self._real, real=True)
        self._feed(kid, samples, real=False)
        with global_torch_seed(0, Purpose.EVALUATION):  # subsets are drawn from the global generator
            mean, _ = kid.compute()
        return float(mean)

    @staticmethod
    def _feed(metric: FrechetInceptionDistance | KernelInceptionDistance, images: Tensor, *, real: bool) -> None:
        for batch in images.split(BATCH):
            metric.update(batch, real=real)
