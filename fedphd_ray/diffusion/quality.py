"""Quality of samples: FID and KID in the features of a chosen network, and which of the data's classes appear."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fedphd_ray.diffusion.extractors import Extractor, features_of, real_features
from fedphd_ray.diffusion.features import FeatureNetwork
from fedphd_ray.diffusion.frechet import Normal, frechet_distance
from fedphd_ray.diffusion.metrics import Judged, Metric, figures_of
from fedphd_ray.diffusion.sampling import SAMPLER
from fedphd_ray.errors import DataError, UserError
from fedphd_ray.tensors import Pixels

KERNEL_ROWS = 1000  # of a kernel matrix at a time


@dataclass(frozen=True)
class QualityReport:
    """Figures of one set of samples. They are comparable only for the same data, features, sample number, steps and sampler.

    Attributes:
        fid: Frechet distance (Heusel et al. 2017) in the features named below; an Inception FID only where those are Inception's.
            Not a number if a sample is not finite.
        kid: squared MMD (Binkowski et al. 2018) in the same features; unbiased, so it may be a little below 0. Likewise.
        class_histogram: how many of the finite samples the data set's classifier takes for each class.
        num_samples: samples judged.
        num_finite: those of them whose every pixel is a number.
        steps: sampler steps.
        features: the network whose features are compared.
        asked_for: share of the finite samples that the classifier takes for the class they were asked for; None where no class
            was.
        sampler: the sampler in words.
        personal_fid: mean over some clients of the distance between samples of the client's own model and the client's own
            images, for methods that keep such models. With as few images as a client has it is far above an FID of many.
        personal_kid: the same with KID, which few images do not shift.
        metrics: figures of `evaluation.metrics` by name; empty if a sample is not finite.
    """

    fid: float
    kid: float
    class_histogram: tuple[int, ...]
    num_samples: int
    num_finite: int
    steps: int
    features: str
    asked_for: float | None = None
    sampler: str = SAMPLER
    personal_fid: float | None = None
    personal_kid: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def in_words(report: QualityReport) -> str:
    """The figures, or why there are none."""
    drawn = f"{report.num_samples} samples, {report.steps} steps"
    if report.num_finite < report.num_samples:
        bad = report.num_samples - report.num_finite
        return f"no FID and no KID: {bad} of {report.num_samples} samples are not finite ({drawn}): the training has diverged"
    obeyed = "" if report.asked_for is None else f", {report.asked_for:.1%} of the class asked for"
    own = (
        ""
        if report.personal_fid is None
        else f"; clients' own models: FID {report.personal_fid:.3f}, KID {report.personal_kid:.4f}"
    )
    more = "".join(f", {name} {value:.4g}" for name, value in report.metrics.items())
    return f"FID {report.fid:.3f}, KID {report.kid:.4f}{more}{obeyed}{own} ({drawn})"


def mean_report(reports: Sequence[QualityReport]) -> QualityReport:
    """Mean FID and KID of several models' samples, and all their classes together."""
    if len(reports) == 1:
        return reports[0]
    return replace(
        reports[0],
        fid=statistics.fmean(report.fid for report in reports),
        kid=statistics.fmean(report.kid for report in reports),
        class_histogram=tuple(sum(column) for column in zip(*(report.class_histogram for report in reports), strict=True)),
        num_samples=sum(report.num_samples for report in reports),
        num_finite=sum(report.num_finite for report in reports),
        asked_for=None
        if reports[0].asked_for is None
        else statistics.fmean(report.asked_for for report in reports if report.asked_for is not None),
        metrics=_mean_of(reports),
    )


def _mean_of(reports: Sequence[QualityReport]) -> dict[str, float]:
    """Mean figures by name, of the reports that have all of them."""
    whole = [report.metrics for report in reports if report.metrics]
    return {name: statistics.fmean(own[name] for own in whole if name in own) for name in (whole[0] if whole else ())}


class QualityMeter:
    """Judges samples against real images. Every image passes the network once; the metrics are given its features.

    Args:
        images: real images [N, C, H, W] (see `tensors.signed`), N at least 2; their statistics are computed once.
        classifier: of the data set.
        extractor: whose features are compared; None for the classifier.
        cache_dir: where features of real images are kept; None for nowhere.
        metrics: that samples are judged by beside FID and KID.
    """

    def __init__(
        self,
        images: Pixels,
        classifier: FeatureNetwork,
        extractor: Extractor | None = None,
        cache_dir: Path | None = None,
        metrics: Sequence[Metric] = (),
    ) -> None:
        if len(images) < 2:
            raise DataError("data", expected="at least 2 images to compare samples with", found=str(len(images)))
        self._classifier, self._extractor = classifier, extractor or classifier
        self._real = real_features(images, self._extractor, cache_dir)
        self._images, self._metrics = images, tuple(metrics)

    @cached_property
    def _real_normal(self) -> Normal:
        return Normal.of(self._real)

    @cached_property
    def _among_real(self) -> float:
        return mean_kernel(self._real)

    def evaluate(self, samples: Tensor, steps: int, labels: Sequence[int] | None = None) -> QualityReport:
        """Figures of samples [n, C, H, W] in [0, 1].

        Args:
            samples: as the sampler returns them, not quantised.
            steps: sampler steps they were drawn with, for the report.
            labels: classes that were asked for.

        Raises:
            UserError: fewer than 2 samples, of which no covariance can be taken.
        """
        if len(samples) < 2:
            raise UserError(
                "evaluation.num_samples", expected="at least 2 samples", found=str(len(samples)), remedy="draw more samples"
            )
        good = samples.flatten(1).isfinite().all(1)
        finite, whole = samples[good], bool(good.all())
        classes = self._classes(finite)
        fid, kid, figures = math.nan, math.nan, dict[str, float]()
        if whole:
            features = features_of(finite, self._extractor)
            fid, kid = self._distances(features)
            judged = Judged(finite, classes, labels, features, self._real, self._extractor, self._images)
            figures = figures_of(self._metrics, judged)
        return QualityReport(
            fid=fid,
            kid=kid,
            metrics=figures,
            class_histogram=tuple(torch.bincount(classes, minlength=self._classifier.num_classes).tolist()),
            num_samples=len(samples),
            num_finite=len(finite),
            steps=steps,
            features=self._extractor.name,
            asked_for=None if labels is None else float((classes == torch.tensor(labels)[good]).double().mean()),
        )

    @torch.no_grad()
    def _classes(self, samples: Tensor) -> Tensor:
        """What the classifier takes each sample for, int64 [n]."""
        return self._classifier.logits(features_of(samples, self._classifier).float()).argmax(1)

    def _distances(self, features: Tensor) -> tuple[float, float]:
        """FID and KID."""
        kid = self._among_real + mean_kernel(features) - 2 * mean_kernel(features, self._real)
        return frechet_distance(self._real_normal, Normal.of(features)), kid


def mean_kernel(features: Tensor, others: Tensor | None = None) -> float:
    """Mean of the kernel (x . y / d + 1)^3 over pairs of rows of float64 [m, d] and [n, d], or of different rows of one.

    The squared MMD of Binkowski et al. 2018 is that within one set, plus that within the other, minus twice that between them: an
    unbiased estimate from all pairs, without drawing subsets. The kernel's matrix is never held whole.
    """
    right = features if others is None else others
    sums = [((rows @ right.T / right.shape[1] + 1) ** 3).sum() for rows in features.split(KERNEL_ROWS)]
    total, pairs = float(torch.stack(sums).sum()), len(features) * len(right)
    if others is None:
        total -= float(((features.square().sum(1) / features.shape[1] + 1) ** 3).sum())
        pairs -= len(features)
    return total / pairs
