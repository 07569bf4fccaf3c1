"""FedCliP: contributions, their validity, and who is pruned."""

from dataclasses import replace

import numpy as np
import pytest
from federations import method, outcome_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedphd_ray.federation.planning import client_pruning
from fedphd_ray.federation.planning.client_pruning import LEFT, FedClip, contributions, mixture_objective, scale_mixture
from fedphd_ray.plans import Memory
from fedphd_ray.population import Population
from fedphd_ray.records import ClientReport, Outcome
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.exchange import planned
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.workers.local_backend import LocalBackend

SIGMA, FLOOR = 0.15, 0.1


class Unheard(Observer):
    """Looks away."""

    def __init__(self) -> None:
        pass

    def observe(self, state: object, trace: object) -> None:
        pass


def report(client: int, loss: float, divergence: float) -> ClientReport:
    return ClientReport(client, 0, loss, 1, 1, 10, divergence=divergence)


def after(rule: FedClip, population: Population, rounds: list[list[ClientReport]], cohort: int = 1) -> list[Memory]:
    memory: Memory = {}
    memories = []
    for round, reports in enumerate(rounds, start=1):
        memory = rule.remember(memory, round, reports, population, cohort)
        memories.append(memory)
    return memories


def people(counts: list[list[int]]) -> Population:
    return Population(np.array(counts, np.int64))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.5))
def test_no_step_raises_the_objective(values: list[float], noise: float) -> None:
    y = np.array(values)
    theta, alpha = np.abs(y), np.sign(y)
    last = mixture_objective(y, theta, alpha, noise, FLOOR)
    for _ in range(6):
        theta = client_pruning._best_theta(y, alpha, noise, FLOOR)
        lower = mixture_objective(y, theta, alpha, noise, FLOOR)
        alpha = theta * y / (theta**2 + noise**2)
        lowest = mixture_objective(y, theta, alpha, noise, FLOOR)
        assert (lower <= last + 1e-12).all()
        assert (lowest <= lower + 1e-12).all()
        last = lowest


@given(st.floats(0.05, 1), st.floats(0.05, 0.5), st.floats(0.1, 1))
def test_theta_is_the_best_there_is(value: float, noise: float, alpha: float) -> None:
    """Compared with a fine grid."""
    y, a = np.array([value]), np.array([alpha])
    best = client_pruning._best_theta(y, a, noise, FLOOR)
    grid = np.linspace(0, 20, 20_001)
    lowest = mixture_objective(y, grid, a, noise, FLOOR).min()
    assert mixture_objective(y, best, a, noise, FLOOR)[0] <= lowest + 1e-12


def test_what_is_small_against_the_noise_is_noise() -> None:
    left = scale_mixture(np.linspace(0, 1, 101), SIGMA)
    assert np.all(left[: int(100 * 1.2 * SIGMA)] == 0)
    assert np.all(left[int(100 * 1.8 * SIGMA) :] > 0)
    assert np.all(np.diff(left) >= 0)


@given(st.permutations(range(8)))
def test_contributions_do_not_depend_on_the_order_of_clients(order: list[int]) -> None:
    rng = np.random.default_rng(5)
    signals, active = rng.random((2, 8)), np.array([True] * 6 + [False] * 2)
    plain = contributions(signals, active, 0.5)
    assert np.array_equal(contributions(signals[:, order], active[order], 0.5), plain[order], equal_nan=True)


def test_equal_clients_all_contribute() -> None:
    assert contributions(np.full((2, 4), 0.3), np.ones(4, bool), 0.5).tolist() == [1.0] * 4


def quadratics(optima: NDArray[np.float64], rounds: int) -> list[list[ClientReport]]:
    """What clients report that train (w - b)^2 / 2 from the mean of all."""
    w, told = 1.5, []
    for _ in range(rounds):
        trained = w + 0.9 * (optima - w)
        told.append(
            [
                report(client, float((own - b) ** 2 / 2 + abs(w - b)), abs(own - w) / abs(w))
                for client, (own, b) in enumerate(zip(trained, optima, strict=True))
            ]
        )
        w = float(trained.mean())
    return told


def test_clients_with_duplicate_data_go_first() -> None:
    """Five clients want the same, three something of their own, far away."""
    optima = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 4.0, -2.0, 6.0])
    rule = FedClip(name="fedclip", warm_up=4, patience=2, least=3)
    memories = after(rule, people([[5, 5]] * 8), quadratics(optima, 30))
    left = memories[-1][LEFT]
    assert set(np.flatnonzero(left)) == {0, 1, 2, 3, 4}
    assert left[left > 0].min() == 5  # after the warm-up
    assert len(np.unique(left[left > 0])) == 5  # one at a time: a tenth of eight is less than one


def test_the_floor_holds_and_who_is_gone_stays_gone() -> None:
    optima = np.array([1.0] * 12 + [4.0])
    rule = FedClip(name="fedclip", warm_up=0, patience=1, most_at_once=1.0, least=5)
    memories = after(rule, people([[5, 5]] * 13), quadratics(optima, 10), cohort=6)
    numbers = [int(rule.active(memory, 13).sum()) for memory in memories]
    assert numbers[-1] == 6  # a cohort has six
    assert numbers == sorted(numbers, reverse=True)
    first = rule.model_copy(update={"least": 9})
    assert int(first.active(after(first, people([[5, 5]] * 13), quadratics(optima, 10))[-1], 13).sum()) == 9


def test_probation_brings_them_back() -> None:
    optima = np.array([1.0] * 6 + [9.0])
    rule = FedClip(name="fedclip", warm_up=0, patience=1, least=2, probation=3)
    memories = after(rule, people([[5, 5]] * 7), quadratics(optima, 1) + [[]] * 5)
    first = int(np.flatnonzero(memories[0][LEFT])[0])
    assert [int(memory[LEFT][first]) for memory in memories] == [1, 1, 1, 0, 0, 0]


def test_no_class_is_ever_lost() -> None:
    """In 200 random federations whose clients all have nothing to teach but one."""
    pruned = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        num = int(rng.integers(3, 12))
        counts = rng.integers(0, 2, (num, 6)) * rng.integers(1, 9, (num, 6))
        reports = [[report(client, float(client == 0), float(client == 0)) for client in range(num)]] * 12
        rule = FedClip(name="fedclip", warm_up=0, patience=1, most_at_once=0.5)
        for memory in after(rule, people(counts.tolist()), reports):
            active = rule.active(memory, num)
            assert np.array_equal(counts[active].sum(axis=0) > 0, counts.sum(axis=0) > 0)
        pruned += num - int(active.sum())
    assert pruned > 200


def test_reports_of_clients_that_failed_say_nothing() -> None:
    rule = FedClip(name="fedclip", warm_up=0, patience=1)
    failed = replace(report(0, 0.0, 0.0), failure="nan", outcome=Outcome.FAILED)
    memory = after(rule, people([[1]] * 3), [[failed, report(1, 1.0, 1.0), report(2, 0.9, 0.9)]] * 3)[-1]
    assert rule.active(memory, 3)[0]


def test_the_lowest_contribution_goes_first() -> None:
    told = [report(0, 0.1, 0.1), report(1, 0.0, 0.0), report(2, 1.0, 1.0), report(3, 0.9, 1.0)]
    rule = FedClip(name="fedclip", warm_up=0, patience=1)
    assert after(rule, people([[1]] * 4), [told])[-1][LEFT].tolist() == [0, 1, 0, 0]


def test_only_reports_in_a_row_count() -> None:
    """The first client has something to teach in every other round."""
    rule = FedClip(name="fedclip", warm_up=0, patience=2, smoothing=1.0)
    told = [[report(0, float(odd), float(odd)), report(1, 1.0, 1.0), report(2, 0.0, 1.0)] for odd in (0, 1) * 4]
    assert rule.active(after(rule, people([[1]] * 3), told)[-1], 3).all()


@pytest.mark.parametrize("sections", [{}, {"devices": {"preset": "phones"}}], ids=["no devices", "devices"])
def test_nobody_is_asked_who_was_pruned(sections: dict[str, object]) -> None:
    experiment = method("fedphd with client pruning", **sections).build()
    state = Cloud(experiment, LocalBackend(experiment.host_setup()), Unheard()).begin()
    state = replace(state, memory={LEFT: np.array([0.0, 0, 1, 0, 1, 1])})
    asked = [set(planned(experiment, replace(state, round=round)).asked) for round in range(20)]
    assert set.union(*asked) == {0, 1, 3}


def test_a_run_prunes_clients() -> None:
    outcome = outcome_of("fedphd with client pruning")
    gone = int((outcome.state.memory[LEFT] > 0).sum())
    assert gone > 0
    assert outcome.records[-1].active_clients == 6 - gone
    assert outcome_of("fedphd").records[-1].active_clients == 6


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"devices": {"preset": "phones"}},
        {"devices": {"preset": "phones"}, "schedule": {"policy": {"name": "over_select", "extra": 1}}},
    ],
    ids=["no devices", "wait", "over-selection"],
)
def test_cohorts_shrink_with_the_active_clients(sections: dict[str, object]) -> None:
    """Three of six are two of three: as often as before; the model goes to fewer clients."""
    experiment = method("fedphd with client pruning", **sections).build()
    state = Cloud(experiment, LocalBackend(experiment.host_setup()), Unheard()).begin()
    whole = planned(experiment, state)
    fewer = planned(experiment, replace(state, memory={LEFT: np.array([0.0, 0, 1, 0, 1, 1])}))
    assert (len(whole.edge_of), len(fewer.edge_of)) == (3, 2)
