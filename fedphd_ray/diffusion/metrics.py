"""Figures of samples beside FID and KID: those that a configuration asks for, the user's own among them."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedphd_ray.diffusion.extractors import Extractor
from fedphd_ray.diffusion.neighbours import manifolds
from fedphd_ray.errors import UserError
from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.settings.sections import Section
from fedphd_ray.tensors import Pixels, as_tensor, signed

WHERE = "evaluation.metrics"


@dataclass(frozen=True)
class Judged:
    """What a metric looks at. All samples are finite.

    Attributes:
        samples: float32 [n, C, H, W] in [0, 1], not quantised.
        classes: which of the data's classes its classifier takes each sample for, int64 [n].
        labels: the classes that were asked for [n]; None of a model that is told none.
        features: of the samples, in the network by which FID is measured, float64 [n, d].
        real_features: of the real images, float64 [N, d].
        extractor: that network.
        real: the real images, as the data set has them [N, C, H, W].
    """

    samples: Tensor
    classes: Tensor
    labels: Sequence[int] | None
    features: Tensor
    real_features: Tensor
    extractor: Extractor
    real: Pixels

    @property
    def real_images(self) -> Tensor:
        """The real images, float32 [N, C, H, W] in [0, 1]."""
        return signed(as_tensor(self.real)) / 2 + 0.5


class Metric(Section):
    """A way to judge samples. Its fields are keys of the configuration."""

    def measure(self, judged: Judged) -> Mapping[str, float]:
        """Figures by name. It runs in the driver, beside the next round: randomness must come from a generator of its own."""
        raise NotImplementedError


class PrecisionRecall(Metric):
    """Precision and recall, and the class score; see `neighbours.Manifolds`."""

    name: Literal["precision_recall"] = "precision_recall"

    def measure(self, judged: Judged) -> Mapping[str, float]:
        """In the features of the judging network."""
        logits = judged.extractor.logits(judged.features.float())
        return vars(manifolds(judged.real_features, judged.features, logits))


AnyMetric = Annotated[PrecisionRecall, OrOwn(Metric)]


@torch.no_grad()
def figures_of(metrics: Sequence[Metric], judged: Judged) -> dict[str, float]:
    """What all of them say, in their order.

    Raises:
        UserError: one of them fails, gives something else than numbers, or a name that another has given.
    """
    found: dict[str, float] = {}
    for metric in metrics:
        for name, value in _measured(metric, judged).items():
            if name in found:
                raise UserError(
                    WHERE,
                    expected="every figure by a name of its own",
                    found=f"{name} twice, the second time by {type(metric).__name__}",
                    remedy="let one of them call it something else",
                )
            found[name] = value
    return found


def _measured(metric: Metric, judged: Judged) -> dict[str, float]:
    who = f"{WHERE}: {type(metric).__name__}"
    try:
        figures = metric.measure(judged)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        raise UserError(who, expected="figures", found=found, remedy="mend the class; the run can be resumed then") from error
    if not isinstance(figures, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Real) for name, value in figures.items()
    ):
        raise UserError(who, expected="a dictionary of numbers by name, e.g. {'sharpness': 0.3}", found=repr(figures)[:200])
    return {name: float(value) for name, value in figures.items()}
