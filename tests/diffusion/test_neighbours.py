"""Precision, recall and class score against NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from fedphd_ray.diffusion import neighbours
from fedphd_ray.diffusion.neighbours import class_score, manifolds


def within(rows: np.ndarray, centres: np.ndarray) -> float:
    """Share of the rows within the distance of some centre to its third nearest other."""
    radii = np.sort(np.linalg.norm(centres[:, None] - centres[None], axis=2), axis=1)[:, min(3, len(centres) - 1)]
    return float((np.linalg.norm(rows[:, None] - centres[None], axis=2) <= radii).any(1).mean())


@given(st.integers(2, 60), st.integers(2, 60), st.integers(1, 5), st.integers(0, 1000))
def test_they_are_their_definitions(m: int, n: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake, logits = rng.normal(size=(m, size)), rng.normal(0.5, 0.7, (n, size)), rng.normal(size=(n, 4))
    found = manifolds(torch.from_numpy(real), torch.from_numpy(fake), torch.from_numpy(logits))
    assert found.precision == pytest.approx(within(fake, real), abs=1e-12)
    assert found.recall == pytest.approx(within(real, fake), abs=1e-12)
    each = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.class_score == pytest.approx(float(np.exp(entropy(each, each.mean(0)[None], axis=1).mean())), rel=1e-9)


def test_far_samples_have_neither_and_a_collapsed_model_has_no_recall() -> None:
    real = torch.randn(100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.eye(5, dtype=torch.float64).repeat(20, 1) * 100
    far = manifolds(real, real + 100, logits)
    assert (far.precision, far.recall) == (0.0, 0.0)
    collapsed = manifolds(real, real[:1].repeat(100, 1), logits[:1].repeat(100, 1))
    assert collapsed.precision == 1.0
    assert collapsed.recall <= 0.02
    assert collapsed.class_score == pytest.approx(1.0)
    assert class_score(logits) == pytest.approx(5.0)


def test_many_rows_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_ROWS", 10)
    real = torch.arange(1000, dtype=torch.float64)[:, None]
    assert manifolds(real, real, real).precision == 1.0
    assert neighbours._spread(real).flatten().tolist() == [100.0 * row for row in range(10)]
