"""FID, KID and class counts say what they should of samples that are known."""

import math

import numpy as np
import pytest
import torch

from fedphd_ray.data.sources import Digits
from fedphd_ray.diffusion import quality
from fedphd_ray.diffusion.features import FeatureNetwork, load_feature_network
from fedphd_ray.diffusion.quality import QualityMeter
from fedphd_ray.errors import DataError, UserError
from fedphd_ray.system.cache import default_cache_dir

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


def kernel_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 from its formula (Gretton et al. 2012, eq. 3)."""
    a, b = first.double().numpy(), second.double().numpy()
    within = [((x @ x.T / 32 + 1) ** 3, len(x)) for x in (a, b)]
    return sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k, n in within) - 2 * float(((a @ b.T / 32 + 1) ** 3).mean())


def test_figures_order_what_is_known(meter: QualityMeter) -> None:
    """Measured: FID 0, 0.08, 30; KID -0.02, -0.01, 0.98."""
    itself, half, worst = meter.evaluate(real(), 1), meter.evaluate(real()[::2], 1), meter.evaluate(noise(900), 1)
    assert itself.fid < 1e-6 * worst.fid
    assert itself.fid < half.fid < 0.01 * worst.fid
    assert worst.fid > 10
    assert abs(itself.kid) < 0.05 * worst.kid
    assert abs(half.kid) < 0.05 * worst.kid


@pytest.mark.parametrize("num", [2, 300])
def test_fid_is_its_formula(meter: QualityMeter, network: FeatureNetwork, num: int) -> None:
    expected = frechet(network(real()), network(noise(num)))
    assert meter.evaluate(noise(num), 1).fid == pytest.approx(expected, rel=1e-5)


def test_kid_is_its_formula(network: FeatureNetwork) -> None:
    """Where the subsets are the whole sets."""
    expected = kernel_distance(network(real()[:100]), network(noise(100)))
    assert QualityMeter(DIGITS.images[:100], network).evaluate(noise(100), 1).kid == pytest.approx(expected, rel=1e-6)


def test_figures_do_not_depend_on_what_was_judged_before(meter: QualityMeter, network: FeatureNetwork) -> None:
    first = meter.evaluate(noise(100), 7)
    meter.evaluate(real(), 1)
    assert meter.evaluate(noise(100), 7) == first == QualityMeter(DIGITS.images, network).evaluate(noise(100), 7)
    assert (first.num_samples, first.steps) == (100, 7)
    assert first.sampler == "DDIM, eta 0, uniform steps, x0 clipped"


def test_samples_are_not_quantised(meter: QualityMeter) -> None:
    """A difference below one grey level of 256 is seen."""
    assert meter.evaluate(noise(300), 1).fid != meter.evaluate(noise(300) * 0.9999, 1).fid


def test_classes_of_real_images_are_their_labels(meter: QualityMeter) -> None:
    histogram = np.array(meter.evaluate(real(), 1).class_histogram)
    assert histogram.sum() == len(DIGITS)
    assert np.abs(histogram - np.bincount(DIGITS.labels)).sum() <= 0.02 * len(DIGITS)
    threes = meter.evaluate(real()[DIGITS.labels == 3], 1).class_histogram
    assert threes[3] >= 0.95 * sum(threes)


def test_a_network_that_diverged_gets_no_figure(meter: QualityMeter) -> None:
    samples = real()[:50].clone()
    samples[0, 0, 3, 3] = math.nan
    report = meter.evaluate(samples, 1)
    assert math.isnan(report.fid)
    assert math.isnan(report.kid)
    assert sum(report.class_histogram) == 49
    assert meter.evaluate(torch.full((3, 1, 8, 8), math.nan), 1).class_histogram == (0,) * 10


def test_one_image_is_too_few(meter: QualityMeter, network: FeatureNetwork) -> None:
    with pytest.raises(UserError, match="at least 2"):
        meter.evaluate(noise(1), 1)
    with pytest.raises(DataError, match="at least 2"):
        QualityMeter(DIGITS.images[:1], network)


def test_kid_is_the_unbiased_estimate_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against sums over pairs written out, for unequal numbers; in pieces of any size."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(7, 5)), rng.normal(0.3, 1.1, size=(4, 5))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 5 + 1) ** 3)

    def among(rows: np.ndarray) -> float:
        return float(np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]))

    expected = among(real) + among(fake) - 2 * np.mean([kernel(x, y) for x in real for y in fake])
    for rows in (1, 3, 1000):
        monkeypatch.setattr(quality, "KERNEL_ROWS", rows)
        x, y = torch.from_numpy(real), torch.from_numpy(fake)
        found = quality.mean_kernel(x) + quality.mean_kernel(y) - 2 * quality.mean_kernel(y, x)
        assert found == pytest.approx(expected, rel=1e-12)
