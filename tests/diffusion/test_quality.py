"""FID, KID and class counts say what they should of samples that are known; the feature network learns and is cached."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fedphd_ray.data.sources import Digits
from fedphd_ray.diffusion import features
from fedphd_ray.diffusion.features import FeatureNetwork, default_cache_dir, load_feature_network, train_feature_network
from fedphd_ray.diffusion.quality import QualityMeter
from fedphd_ray.errors import UserError

DIGITS = Digits().load(0)


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_feature_network(DIGITS.images, DIGITS.labels, 10, default_cache_dir())


@pytest.fixture(scope="module")
def meter(network: FeatureNetwork) -> QualityMeter:
    return QualityMeter(DIGITS.images, network)


def real() -> torch.Tensor:
    return torch.from_numpy(DIGITS.images / 2 + 0.5)


def noise(num: int) -> torch.Tensor:
    return torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def frechet(first: torch.Tensor, second: torch.Tensor) -> float:
    """The Frechet distance from its formula, in double precision: the oracle."""
    a, b = first.double().numpy(), second.double().numpy()
    gap = a.mean(0) - b.mean(0)
    roots = np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).astype(complex) ** 0.5
    return float(gap @ gap + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * roots.real.sum())


def test_fid_orders_what_is_known(meter: QualityMeter) -> None:
    itself, half, worst = meter.evaluate(real(), 1), meter.evaluate(real()[::2], 1), meter.evaluate(noise(900), 1)
    assert itself.fid < 1e-3 * worst.fid
    assert half.fid < 0.05 * worst.fid
    assert abs(itself.kid) < abs(half.kid) + 0.05 * worst.kid
    assert half.kid < 0.05 * worst.kid


def test_fid_is_its_formula(meter: QualityMeter, network: FeatureNetwork) -> None:
    with torch.no_grad():
        expected = frechet(network(real()), network(noise(300)))
    assert meter.evaluate(noise(300), 1).fid == pytest.approx(expected, rel=1e-4)


def test_figures_do_not_depend_on_what_was_judged_before(meter: QualityMeter) -> None:
    first = meter.evaluate(noise(100), 7)
    meter.evaluate(real(), 1)
    assert meter.evaluate(noise(100), 7) == first
    assert (first.num_samples, first.steps) == (100, 7)
    assert "DDIM" in first.sampler


def test_classes_of_real_images_are_their_labels(meter: QualityMeter) -> None:
    histogram = np.array(meter.evaluate(real(), 1).class_histogram)
    assert np.abs(histogram - np.bincount(DIGITS.labels)).sum() <= 0.02 * len(DIGITS)


def test_one_sample_is_too_few(meter: QualityMeter) -> None:
    with pytest.raises(UserError, match="at least 2"):
        meter.evaluate(noise(1), 1)


def test_the_network_generalises() -> None:
    """Trained on four fifths, it knows the rest."""
    held_out = np.arange(len(DIGITS)) % 5 == 0
    network = train_feature_network(DIGITS.images[~held_out], DIGITS.labels[~held_out], 10)
    guesses = network.classify(real()[held_out]).argmax(1).numpy()
    assert (guesses == DIGITS.labels[held_out]).mean() > 0.95


def test_the_cache_is_used_and_a_broken_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = DIGITS.images[:200], DIGITS.labels[:200]
    monkeypatch.setattr(features, "EPOCHS", 1)
    first = load_feature_network(images, labels, 10, tmp_path)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = load_feature_network(images, labels, 10, tmp_path)
    assert path.stat().st_mtime_ns == written
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    path.write_bytes(path.read_bytes()[:-10])
    repaired = load_feature_network(images, labels, 10, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), repaired.parameters(), strict=True))
    load_feature_network(images[:100], labels[:100], 10, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_depends_on_a_writable_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "EPOCHS", 1)
    load_feature_network(DIGITS.images[:50], DIGITS.labels[:50], 10, Path("/proc/none"))
    load_feature_network(DIGITS.images[:50], DIGITS.labels[:50], 10, None)
    for name in ("FEDPHD_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    assert os.access(default_cache_dir().parent, os.W_OK)
