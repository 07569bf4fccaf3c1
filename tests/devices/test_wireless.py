"""Pruning ratios and bandwidths of clients on one radio channel: closed forms against root finders, and the joint optimum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from fedphd_ray.devices.wireless import Radio, allocate, bandwidth_for, bandwidth_of_ratio, least_ratio, rate


def radio(**changes: object) -> Radio:
    """The example of three clients."""
    usual: dict[str, object] = {
        "compute": (0.5, 1, 2),
        "bits": 40e6,
        "channel": (50e6, 20e6, 80e6),
        "seconds": 3.0,
        "weight": 1.0,
    }
    return Radio(**{name: np.broadcast_to(np.array(value, np.float64), 3).copy() for name, value in (usual | changes).items()})


def test_the_example_of_20_mhz() -> None:
    found = allocate(radio(), 20e6, 0.9)
    assert np.round(found.bandwidth / 1e6, 3).tolist() == [4.416, 8.113, 7.471]
    assert np.round(found.ratio, 4).tolist() == [0.0, 0.2, 0.1449]
    assert round(float(found.ratio.sum()), 4) == 0.3449
    assert round(float(least_ratio(np.full(3, 20e6 / 3), radio()).sum()), 4) == 0.4216
    assert found.feasible.all()


@given(st.floats(1e3, 1e9), st.floats(1e3, 1e9))
def test_the_lambert_form_is_the_root(wanted: float, channel: float) -> None:
    found = float(bandwidth_for(np.array([wanted]), np.array([channel]))[0])
    if wanted * np.log(2) >= channel:
        assert found == np.inf
        return
    if wanted * np.log(2) / channel > 0.999:  # the root runs away, and float64 loses it
        return
    root = brentq(lambda b: float(rate(np.array([b]), np.array([channel]))[0]) - wanted, 1e-6, 1e16, xtol=1e-9, rtol=1e-14)
    assert found == pytest.approx(root, rel=1e-9)


def test_no_rate_needs_no_bandwidth() -> None:
    assert bandwidth_for(np.array([0.0]), np.array([1e6])).tolist() == [0.0]
    assert rate(np.array([0.0]), np.array([1e6])).tolist() == [0.0]


seconds = st.floats(0.5, 20)
CASES = st.builds(
    lambda compute, bits, channel, limit, weight: radio(
        compute=compute, bits=bits, channel=channel, seconds=limit, weight=weight
    ),
    st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    st.lists(st.floats(1e5, 1e9), min_size=3, max_size=3),
    st.lists(st.floats(1e6, 1e9), min_size=3, max_size=3),
    seconds,
    st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)


@given(CASES, st.floats(1e5, 1e9))
def test_what_is_found_keeps_all_limits(own: Radio, total: float) -> None:
    """The deadline is met, just so where somebody is pruned; the bandwidth is enough; nobody is pruned more than may be."""
    found = allocate(own, total, 0.9)
    assert found.bandwidth.sum() <= total * (1 + 1e-9)
    some, ratio = own.some(found.feasible), found.ratio[found.feasible]
    assert (ratio <= 0.9 + 1e-12).all()
    took = (1 - ratio) * (some.compute + some.bits / rate(found.bandwidth[found.feasible], some.channel))
    assert (took <= some.seconds * (1 + 1e-6)).all()
    tight = (ratio > 1e-9) & (ratio < 0.9 - 1e-9)
    assert np.allclose(took[tight], some.seconds[tight], rtol=1e-6)


@given(CASES, st.floats(1e6, 1e9))
def test_no_other_bandwidths_prune_less(own: Radio, total: float) -> None:
    """Compared with an equal split, with random ones, and with what a general optimiser finds."""
    found = allocate(own, total, 0.9)
    if not found.feasible.all():
        return
    best = float((own.weight * found.ratio).sum())
    rng = np.random.default_rng(0)
    for split in (np.ones(3) / 3, *rng.dirichlet(np.ones(3), 50)):
        ratios = least_ratio(split * total, own)
        if (ratios <= 0.9).all():
            assert best <= float((own.weight * ratios).sum()) + 1e-7


def test_a_general_optimiser_finds_no_better_one() -> None:
    own = radio(compute=(1.0, 0.7, 2.5), channel=(30e6, 15e6, 60e6), weight=(1.0, 3.0, 2.0))
    best = float((own.weight * allocate(own, 12e6, 0.9).ratio).sum())

    def objective(logits: np.ndarray) -> float:
        split = np.exp(logits - logits.max())
        return float((own.weight * least_ratio(12e6 * split / split.sum(), own)).sum())

    theirs = min(
        minimize(objective, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 5000}).fun
        for start in np.random.default_rng(1).normal(size=(5, 3))
    )
    assert best == pytest.approx(theirs, abs=1e-8)


def test_a_slower_client_is_pruned_more_and_time_helps_everybody() -> None:
    slow = [float(least_ratio(np.array([5e6] * 3), radio(compute=compute))[0]) for compute in (0.5, 2.0, 4.0)]
    assert slow == sorted(slow)
    assert slow[0] < slow[2]
    sums = [float(allocate(radio(seconds=limit), 20e6, 0.9).ratio.sum()) for limit in (2.0, 3.0, 4.0, 6.0)]
    assert np.all(np.diff(sums) < 1e-9)
    assert sums[-1] == pytest.approx(0.0, abs=1e-9)


def test_who_cannot_be_in_time_is_left_out() -> None:
    """One cannot train a tenth of it in time; then the bandwidth is not enough for two others, and the dearest goes."""
    found = allocate(radio(compute=(40.0, 1.0, 1.0)), 20e6, 0.9)
    assert found.feasible.tolist() == [False, True, True]
    assert (found.bandwidth[0], found.ratio[0]) == (0.0, 1.0)
    needed = bandwidth_of_ratio(np.full(3, 0.9), radio())
    short = allocate(radio(), float(np.sort(needed)[:2].sum()) * 1.0001, 0.9)
    assert short.feasible.tolist() == [True, False, True]
    assert not allocate(radio(seconds=-1.0), 20e6, 0.9).feasible.any()
    assert not allocate(radio(), 1.0, 0.9).feasible.any()


def test_plenty_of_bandwidth_prunes_nobody() -> None:
    found = allocate(radio(), 1e12, 0.9)
    assert np.allclose(found.ratio, 0, atol=1e-9)
