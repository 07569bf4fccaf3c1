"""Who is asked: the rules against what they say, over many draws."""

import numpy as np
import pytest

from fedphd_ray.federation.planning.sampling import (
    BySize,
    Draw,
    Oort,
    PowerOfChoice,
    SamplingRule,
    TieredSampling,
    UniformSampling,
)

RULES: list[SamplingRule] = [
    UniformSampling(),
    BySize(name="by_size"),
    TieredSampling(name="tiers", groups=2),
    PowerOfChoice(name="power_of_choice", candidates=6),
    Oort(name="oort"),
]
IMAGES = np.array([10, 20, 30, 40, 50, 60, 70, 80, 90, 100])
SECONDS = np.array([9.0, 1, 8, 2, 7, 3, 6, 4, 5, 10])


def draw(seed: int, num: int = 3, candidates: list[int] | None = None, losses: np.ndarray | None = None) -> Draw:
    chosen = np.arange(10) if candidates is None else np.array(candidates, np.int64)
    known = np.full(10, np.nan) if losses is None else losses
    return Draw(num, chosen, IMAGES, known, SECONDS, np.random.default_rng(seed))


def often(rule: SamplingRule, **more: object) -> np.ndarray:
    """How often each client is drawn in 4,000 draws."""
    counts = np.zeros(10)
    for seed in range(4000):
        counts[rule.draw(draw(seed, **more))] += 1  # type: ignore[arg-type]
    return counts / 4000


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("candidates", [[], [4], [1, 3, 5], [0, 2, 4, 6, 8, 9]])
def test_nobody_twice_and_nobody_who_cannot(rule: SamplingRule, candidates: list[int]) -> None:
    for seed in range(50):
        drawn = rule.draw(draw(seed, candidates=candidates)).tolist()
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(candidates)
        if not isinstance(rule, TieredSampling):
            assert len(drawn) == min(3, len(candidates))


def test_uniform_and_by_size() -> None:
    assert often(UniformSampling()) == pytest.approx(np.full(10, 0.3), abs=0.03)
    assert often(BySize(name="by_size"), num=1) == pytest.approx(IMAGES / IMAGES.sum(), abs=0.025)


def test_those_without_weight_come_last() -> None:
    """Two have one: both are in a cohort of three, with any of the others."""
    weights = np.array([0.0, 2.0, 0.0, 0.0, 1.0])
    drawn = [frozenset(draw(seed).some(np.arange(5), 3, weights).tolist()) for seed in range(100)]
    assert set(drawn) == {frozenset({1, 4, other}) for other in (0, 2, 3)}


def test_tiers_hold_clients_of_like_speed() -> None:
    rule, fast = TieredSampling(name="tiers", groups=2), {1, 3, 5, 7, 8}
    drawn = [set(rule.draw(draw(seed)).tolist()) for seed in range(200)]
    assert all(len(one) == 3 and (one <= fast or not one & fast) for one in drawn)
    assert 70 < sum(one <= fast for one in drawn) < 130  # both groups have as many clients
    assert 60 < sum(one <= fast for one in drawn) < 140


def test_power_of_choice_takes_the_greatest_losses() -> None:
    losses = np.arange(10.0)
    assert sorted(PowerOfChoice(name="power_of_choice", candidates=10).draw(draw(0, losses=losses)).tolist()) == [7, 8, 9]
    losses[4] = np.nan  # never asked: first
    assert sorted(PowerOfChoice(name="power_of_choice", candidates=10).draw(draw(0, losses=losses)).tolist()) == [4, 8, 9]


def test_oort_prefers_large_losses_and_fast_clients_and_explores() -> None:
    losses = np.where(np.arange(10) % 2 == 0, 1.0, 3.0)
    plain = often(Oort(name="oort", explore=0, penalty=0), num=1, losses=losses)
    assert plain == pytest.approx(IMAGES * losses / (IMAGES * losses).sum(), abs=0.025)
    slow = np.quantile(SECONDS, 0.5) < SECONDS
    fair = often(Oort(name="oort", explore=0, penalty=2), num=1, losses=losses)
    assert np.all(fair[slow] <= plain[slow] + 0.02)
    assert fair[9] < 0.6 * plain[9]
    losses[[0, 2]] = np.nan
    explored = often(Oort(name="oort", explore=0.34), losses=losses)
    assert explored[[0, 2]] == pytest.approx(0.5, abs=0.03)
