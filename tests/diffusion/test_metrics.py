"""Figures beside FID and KID: whoever measures them, they are numbers by names of their own, and go where FID goes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from federations import tiny
from torch import Tensor

import fedphd_ray
from fedphd_ray.data.sources import Shapes
from fedphd_ray.diffusion.features import FeatureNetwork, train_feature_network
from fedphd_ray.diffusion.metrics import Judged, Metric, PrecisionRecall
from fedphd_ray.diffusion.quality import QualityMeter, in_words, mean_report
from fedphd_ray.errors import UserError
from fedphd_ray.reporters.figures import of_quality
from fedphd_ray.runtime.directory.model_card import model_card
from fedphd_ray.runtime.events import Judged as WasJudged
from fedphd_ray.tensors import signed
from fedphd_ray.views.run_view import RunView

SHAPES = Shapes(name="shapes", num_images=60, image_size=8).load(0)


class Brightness(Metric):
    """Mean pixel of samples and of real images."""

    factor: float = 1.0

    def measure(self, judged: Judged) -> Mapping[str, float]:
        return {
            "brightness": self.factor * float(judged.samples.mean()),
            "real_brightness": np.float64(judged.real_images.double().mean()),
        }


class Broken(Metric):
    def measure(self, judged: Judged) -> Mapping[str, float]:
        raise KeyError("oops")


class Wordy(Metric):
    def measure(self, judged: Judged) -> Mapping[str, float]:
        return {"mood": "good"}  # type: ignore[dict-item]


class Undefined(Metric):
    def measure(self, judged: Judged) -> Mapping[str, float]:
        return {"undefined": math.nan}


@pytest.fixture(scope="module")
def classifier() -> FeatureNetwork:
    return train_feature_network(SHAPES.images, SHAPES.labels, SHAPES.num_classes)


def meter(classifier: FeatureNetwork, *metrics: Metric) -> QualityMeter:
    return QualityMeter(SHAPES.images[:30], classifier, metrics=metrics)


def samples() -> Tensor:
    return signed(torch.from_numpy(SHAPES.images[30:])) / 2 + 0.5


def test_all_are_measured_in_their_order(classifier: FeatureNetwork) -> None:
    report = meter(classifier, Brightness(factor=2), PrecisionRecall()).evaluate(samples(), 1)
    assert list(report.metrics) == ["brightness", "real_brightness", "precision", "recall", "class_score"]
    assert report.metrics["brightness"] == pytest.approx(2 * (SHAPES.images[30:].mean() / 2 + 0.5), abs=1e-4)
    assert report.metrics["real_brightness"] == pytest.approx(SHAPES.images[:30].mean() / 2 + 0.5, abs=1e-4)
    assert f"brightness {report.metrics['brightness']:.4g}" in in_words(report)
    assert of_quality(WasJudged(3, report))["quality/brightness"] == report.metrics["brightness"]


def test_several_models_have_the_mean(classifier: FeatureNetwork) -> None:
    judge = meter(classifier, Brightness())
    both = mean_report([judge.evaluate(samples(), 1), judge.evaluate(samples() / 2, 1)])
    assert both.metrics["brightness"] == pytest.approx(0.75 * float(samples().mean()))


def test_no_figures_of_samples_that_are_not_finite(classifier: FeatureNetwork) -> None:
    bad = samples()
    bad[0, 0, 0, 0] = math.nan
    assert meter(classifier, Brightness()).evaluate(bad, 1).metrics == {}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ((Broken(),), ["Broken", "KeyError: 'oops'", "test_metrics.py, line"]),
        ((Wordy(),), ["Wordy", "a dictionary of numbers by name", "good"]),
        ((Brightness(), Brightness(factor=2)), ["brightness twice", "call it something else"]),
    ],
    ids=["fails", "no number", "twice"],
)
def test_what_cannot_be_is_said(classifier: FeatureNetwork, metrics: tuple[Metric, ...], words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        meter(classifier, *metrics).evaluate(samples(), 1)
    for word in words:
        assert word in str(refusal.value)


def test_they_go_where_the_distances_go(tmp_path: Path) -> None:
    """Books, summary, tables, report, model card; a figure that is no number is null."""
    source = tiny(evaluation={"every": 2, "num_samples": 20, "steps": 2}, runtime={"backend": "local"})
    run = fedphd_ray.run(source, tmp_path / "run", metrics=[Brightness(), Undefined()])
    lines = [json.loads(line) for line in (tmp_path / "run/quality.jsonl").read_text().splitlines()]
    assert len(lines) > 1
    for line in lines:
        assert line["metrics"]["brightness"] > 0
        assert line["metrics"]["undefined"] is None
    summary = run.summary
    assert summary is not None
    assert summary.metrics == lines[-1]["metrics"]
    assert [own["brightness"] for own in run.quality["metrics"].to_pylist()] == [own["metrics"]["brightness"] for own in lines]
    assert len(RunView.of(run.directory).qualities) == len(lines)
    page = run.report().read_text()
    assert f"<b>{summary.metrics['brightness']:.4g}</b><span>brightness</span>" in page
    card = model_card(summary, RunView.of(run.directory).settings)
    assert "| undefined | not measured |" in card
    assert "| real brightness |" in card
