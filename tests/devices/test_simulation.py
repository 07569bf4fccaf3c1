"""Clients in simulated time, against hands and a second way to compute the same."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.devices.simulation import Job, Simulation, max_min_fair

MBIT = 1e6


def job(client: int, edge: int = 0, *, starts: float = 0.0, work: float = 0.0, down: float = 0.0, up: float = 0.0, **more) -> Job:
    """Sizes in megabytes (8 Mbit), own rates 8 Mbit/s down and up: a megabyte a second."""
    return Job(
        client=client,
        edge=edge,
        version=1,
        starts=starts,
        latency=more.pop("latency", 0.0),
        download=(down * MBIT, more.pop("down_rate", 8 * MBIT)),
        work=work,
        upload=(up * MBIT, more.pop("up_rate", 8 * MBIT)),
        **more,
    )


def ends(simulation: Simulation, *jobs: Job) -> dict[int, float]:
    for own in jobs:
        simulation.start(own)
    found = {}
    while (step := simulation.next())[1]:
        found |= {own.client: step[0] for own in step[1]}
    return found


def test_alone_it_is_a_sum() -> None:
    found = ends(Simulation([math.inf]), job(3, starts=2.0, latency=0.25, down=4, work=7.0, up=2))
    assert found == {3: pytest.approx(2 + 0.25 + 4 + 7 + 0.25 + 2, abs=1e-9)}


def test_two_share_an_edge() -> None:
    """Capacity 12 Mbit/s for two of 8: 6 each, until the first is done; then the other has its own 8.

    Downloads of 3 and 6 megabytes: both at 0.75 MB/s, the first is done at 4 s; the other has 3 left, at 1 MB/s until 7 s.
    Uploads of 6 megabytes each: the first is alone from 4 to 7 (3 sent), then both at 0.75: its last 3 take 4 s, until 11; the
    other has sent 3 by then and goes on alone until 14.
    """
    found = ends(Simulation([12 * MBIT]), job(0, down=3, up=6), job(1, down=6, up=6))
    assert found == {0: pytest.approx(11, abs=1e-9), 1: pytest.approx(14, abs=1e-9)}


def test_edges_share_nothing() -> None:
    found = ends(Simulation([8 * MBIT, 8 * MBIT]), job(0, 0, down=4, up=2), job(1, 1, down=4, up=2))
    assert found == {0: pytest.approx(6, abs=1e-9), 1: pytest.approx(6, abs=1e-9)}


def test_whoever_leaves_has_moved_what_he_has() -> None:
    simulation = Simulation([math.inf])
    training = job(0, down=2, work=10.0, up=4, leaves=("training", 0.5))
    sending = job(1, down=2, work=1.0, up=4, leaves=("upload", 0.25))
    assert ends(simulation, training, sending) == {1: pytest.approx(4, abs=1e-9), 0: pytest.approx(7, abs=1e-9)}
    flights = [training.flight("gone"), sending.flight("gone")]
    assert [flight.received for flight in flights] == [1.0, 1.0]
    assert [flight.sent for flight in flights] == [0.0, pytest.approx(0.25, abs=1e-12)]
    assert math.isnan(flights[0].trained)
    assert [math.isnan(flight.arrived) for flight in flights] == [True, True]


@pytest.mark.parametrize("rate", [math.inf, 16 * MBIT])
def test_whoever_is_stopped_has_moved_what_he_has(rate: float) -> None:
    """At 5 s: one has 1 of 4 megabytes sent, one is at work, one still receives (1.5 of 2 MB came by 1.5 s later start)."""
    simulation = Simulation([rate])
    jobs = [job(0, down=2, work=2.0, up=4), job(1, down=2, work=9.0, up=4), job(2, starts=3.5, down=2, up=4)]
    for own in jobs:
        simulation.start(own)
    assert simulation.next(5.0) == (5.0, [])
    for own in jobs:
        simulation.stop(own, 5.0)
    flights = [own.flight("late") for own in jobs]
    assert [flight.sent for flight in flights] == pytest.approx([0.25, 0, 0], abs=1e-9)
    assert [flight.received for flight in flights] == pytest.approx([1, 1, 0.75], abs=1e-9)
    assert {flight.ended for flight in flights} == {5.0}
    assert not simulation.jobs


@given(st.lists(st.floats(1e3, 1e9), min_size=1, max_size=12), st.floats(1e3, 1e10))
def test_rates_are_max_min_fair(caps: list[float], capacity: float) -> None:
    rates = max_min_fair(caps, capacity)
    assert all(0 < rate <= cap for rate, cap in zip(rates, caps, strict=True))
    assert sum(rates) == pytest.approx(min(capacity, sum(caps)))
    limited = [rate for rate, cap in zip(rates, caps, strict=True) if rate < cap * (1 - 1e-9)]
    assert not limited or min(limited) == pytest.approx(max(rates))  # who wants more has as much as anybody


@given(st.data())
def test_a_rate_that_nobody_reaches_changes_nothing(data: st.DataObject) -> None:
    """The event loop against sums."""
    num = data.draw(st.integers(1, 6))
    numbers = st.floats(0.0, 50.0)
    drawn = [[data.draw(numbers) for _ in range(5)] for _ in range(num)]
    jobs = lambda: [  # noqa: E731 - a fresh set for each way
        job(client, starts=a, latency=b, down=c, work=d, up=e) for client, (a, b, c, d, e) in enumerate(drawn)
    ]
    alone = ends(Simulation([math.inf]), *jobs())
    assert alone == pytest.approx({client: a + 2 * b + c + d + e for client, (a, b, c, d, e) in enumerate(drawn)}, abs=1e-8)
    assert ends(Simulation([8 * MBIT * num * 1.01]), *jobs()) == pytest.approx(alone, abs=1e-6)


def test_no_bytes_are_made_or_lost_on_a_shared_link() -> None:
    """The edge is never idle while somebody sends: the last upload ends when all bytes fit through."""
    rng = np.random.default_rng(1)
    sizes = rng.uniform(1, 9, 20)
    found = ends(Simulation([8 * MBIT]), *(job(client, up=float(size)) for client, size in enumerate(sizes)))
    assert max(found.values()) == pytest.approx(sizes.sum(), rel=1e-12)
    assert sorted(found, key=lambda client: found[client]) == sorted(found, key=lambda client: sizes[client])
