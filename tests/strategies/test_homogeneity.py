"""Oracles of the homogeneity score and of the two rules built on it (values from the method's own simulation)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.strategies.homogeneity import cloud_weights, homogeneity_score, merge_distribution, selection_probabilities

UNIFORM10, UNIFORM4 = np.full(10, 0.1), np.full(4, 0.25)


def pairs(groups: int) -> np.ndarray:
    """The union of `groups` disjoint two-class clients of equal size, as in the paper's CIFAR-10 partition."""
    mix = np.zeros(10)
    mix[[c for g in range(groups) for c in (g, g + 5)]] = 1 / (2 * groups)
    return mix


@pytest.mark.parametrize(("groups", "score"), [(1, 1.367544), (2, 1.6127), (3, 1.7418), (4, 1.8419), (5, 2.0)])
def test_score_of_disjoint_pairs(groups: int, score: float) -> None:
    # 2 - sqrt(2m (1/(2m) - 1/10)^2 + (10 - 2m)/100) = 2 - sqrt(1/(2m) - 1/10)
    assert homogeneity_score(pairs(groups), UNIFORM10) == pytest.approx(2 - np.sqrt(1 / (2 * groups) - 0.1), abs=1e-12)
    assert homogeneity_score(pairs(groups), UNIFORM10) == pytest.approx(score, abs=5e-5)


@pytest.mark.parametrize(("classes", "score"), [(1, 1.133975), (2, 1.5), (3, 1.7113), (4, 2.0)])
def test_score_of_celeba_classes(classes: int, score: float) -> None:
    mix = np.zeros(4)
    mix[:classes] = 1 / classes
    assert homogeneity_score(mix, UNIFORM4) == pytest.approx(score, abs=5e-5)


def test_score_of_the_celeba_mix() -> None:
    counts = np.array([14_878, 103_287, 30_986, 53_448])
    assert homogeneity_score(counts / counts.sum(), UNIFORM4) == pytest.approx(1.671, abs=5e-4)


def test_lower_bound_is_reached_by_two_different_points() -> None:
    assert homogeneity_score([1, 0], [0, 1]) == pytest.approx(2 - np.sqrt(2))


distributions = (
    st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda v: sum(v) > 1e-3).map(lambda v: np.array(v) / sum(v))
)


@given(distributions, distributions, st.integers(0, 10_000), st.integers(1, 10_000))
def test_merge_is_the_distribution_of_the_union(edge: np.ndarray, client: np.ndarray, held: int, new: int) -> None:
    merged = merge_distribution(edge, held, client, new)
    assert merged.sum() == pytest.approx(1)
    assert merged * (held + new) == pytest.approx(edge * held + client * new)


def test_first_choice_after_a_reset_is_even() -> None:
    even = selection_probabilities([UNIFORM10, UNIFORM10], [0, 0], pairs(1), 2500, UNIFORM10, 10_000)
    assert even == pytest.approx([0.5, 0.5])


def test_choice_by_hand() -> None:
    # Edge 0 holds the client's own classes, edge 1 the four other pairs: joining 1 completes it (SH 2), 0 stays at 1.3675.
    other = np.full(10, 1 / 8)
    other[[0, 5]] = 0
    probabilities = selection_probabilities([pairs(1), other], [2500, 10_000], pairs(1), 2500, UNIFORM10, 10_000)
    scores = np.array([10_000 * (2 - np.sqrt(0.4)) - 2500, 10_000 * 2.0 - 10_000])
    assert probabilities == pytest.approx(scores / scores.sum())


def test_choice_is_even_when_every_edge_is_overloaded() -> None:
    crowded = selection_probabilities([UNIFORM10, pairs(1)], [1e6, 2e6], pairs(1), 2500, UNIFORM10, 10_000)
    assert crowded == pytest.approx([0.5, 0.5])


def test_cloud_weights_by_hand() -> None:
    weights = cloud_weights([5000, 2500], [pairs(2), pairs(1)], UNIFORM10, 50_000)
    scores = np.array([5000 + 50_000 * (2 - np.sqrt(0.15)), 2500 + 50_000 * (2 - np.sqrt(0.4))])
    assert weights == pytest.approx(scores / scores.sum())


def test_cloud_weights_without_balance_are_fedavgs() -> None:
    assert cloud_weights([3, 1], [pairs(1), pairs(5)], UNIFORM10, 0.0) == pytest.approx([0.75, 0.25])


def test_cloud_weights_are_even_when_nothing_is_left() -> None:
    assert cloud_weights([1, 1], [pairs(1), pairs(2)], UNIFORM10, 0.0, offset=-10) == pytest.approx([0.5, 0.5])
