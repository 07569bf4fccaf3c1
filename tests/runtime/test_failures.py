"""What a run does about failures, by the script of faults: bits stay where nobody was left out; who was, is named."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from federations import Outcome, federate, method, reference, tiny
from hypothesis import example, given
from hypothesis import strategies as st
from phases import record

from fedphd_ray.errors import ConfigError, RunFailedError
from fedphd_ray.records import ClientReport
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.dispatch import Unit
from fedphd_ray.runtime.policy.failures import FailureConfig, after_a_death, least_updates, require_quorum
from fedphd_ray.runtime.policy.placement import Placement

NAME = "fedphd with kept moments"


def victim(round: int) -> int:
    """A client that takes part in a round of the tiny federation."""
    return min(federate(method(NAME)).records[round - 1].participants)


def with_faults(*faults: dict[str, object], pool: ActorPool | None = None, hosts: int = 2, **failures: object) -> Outcome:
    """The tiny federation, with faults, in one process or on hosts of a pool."""
    config = method(NAME, faults=list(faults), failures=failures, runtime={"backend": "ray" if pool else "local"})
    if pool is None:
        return federate(config)
    return federate(config, RayBackend(config.build().host_setup(), Placement(hosts, False, ""), config.runtime, pool))


def took(outcome: Outcome) -> float:
    """Seconds of all rounds."""
    return sum(record.round_seconds for record in outcome.records)


def test_an_exception_that_does_not_come_back_changes_no_bit() -> None:
    outcome = with_faults({"round": 2, "client": victim(2), "kind": "exception", "times": 2})
    assert outcome.sha256 == reference(NAME)
    assert not any(record.failures for record in outcome.records)
    record("client: exception, twice", "training", "nothing: it is trained again", took(outcome), same=True)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "exception", "times": 3}, "InjectedFaultError: a fault of the script (kind: exception) (attempt 3)"),
        ({"kind": "nan"}, "the update holds non-finite values"),
        ({"kind": "wrong_shape"}, "the update has shape"),
        ({"kind": "slow"}, "its training took longer than failures.client_timeout_seconds = 3"),
    ],
)
def test_a_client_that_fails_for_good_is_left_out_and_named(fault: dict[str, object], reason: str) -> None:
    client = victim(2)
    outcome = with_faults(fault | {"round": 2, "client": client}, client_timeout_seconds=3.0)
    assert [set(record.failures) for record in outcome.records] == [set(), {client}, set(), set()]
    assert outcome.records[1].failures[client].startswith(reason)
    (failure,) = outcome.state.failures
    assert failure.startswith(f"round 2: client/{client} on edge/")
    assert "its update was not aggregated" in failure
    assert ("Traceback" in failure) == (fault["kind"] == "exception")
    assert not [row for row in outcome.transfers if row.round == 2 and row.source == f"client/{client}"]
    assert outcome.sha256 != reference(NAME)
    record(f"client: {fault['kind']}, every time", "training", f"warning: {reason}", took(outcome), same=False)


@pytest.mark.ray
def test_a_client_left_out_gives_the_same_bits_wherever_it_was(actor_pool: ActorPool) -> None:
    fault = {"round": 2, "client": victim(2), "kind": "nan"}
    assert with_faults(fault, pool=actor_pool).sha256 == with_faults(fault).sha256


@pytest.mark.ray
@pytest.mark.parametrize("place", ["client", "host", "edge"])
def test_processes_that_die_change_no_bit(place: str, actor_pool: ActorPool) -> None:
    number = victim(3) if place == "client" else 0
    outcome = with_faults({"round": 3, place: number, "kind": "kill"}, pool=actor_pool)
    assert len(actor_pool.replacements) == 1
    assert [len(record.replacements) for record in outcome.records] == [0, 0, 1, 0]
    assert outcome.sha256 == reference(NAME)
    assert not outcome.state.failures
    again = [row for row in outcome.transfers if row.attempt]
    assert {(row.round, row.attempt) for row in again} <= {(3, 1)}
    if place == "client":  # it was given the model twice, and its update is of the second training
        name = f"client/{number}"
        assert {"edge_to_client", "client_to_edge"} == {row.hop for row in again if name in (row.source, row.destination)}
    if place == "edge":
        assert not again
    record(
        f"{place}: kill, by the script",
        "training" if place != "edge" else "edge aggregation",
        "replaced",
        took(outcome),
        same=True,
    )


@pytest.mark.ray
def test_a_client_that_kills_every_host_is_found_and_left_out(actor_pool: ActorPool) -> None:
    client = victim(2)
    outcome = with_faults({"round": 2, "client": client, "kind": "kill", "times": 9}, pool=actor_pool, client_retries=1)
    assert [set(record.failures) for record in outcome.records] == [set(), {client}, set(), set()]
    assert outcome.records[1].failures[client] == "its host died 2 times while it was trained"
    assert outcome.sha256 == with_faults({"round": 2, "client": client, "kind": "nan"}).sha256  # left out is left out
    record("client: kills every host", "training", f"warning: {outcome.records[1].failures[client]}", took(outcome), same=False)


@pytest.mark.ray
def test_a_client_that_never_answers_is_ended_with_its_host(actor_pool: ActorPool) -> None:
    client = victim(2)
    fault = {"round": 2, "client": client, "kind": "hang", "times": 9}
    outcome = with_faults(fault, pool=actor_pool, client_timeout_seconds=3.0)  # healthy ones take a tenth of a second
    assert outcome.records[1].failures == {client: "no answer within failures.client_timeout_seconds = 3"}
    assert len(actor_pool.replacements) == 1
    assert outcome.sha256 == with_faults(fault | {"kind": "nan"}).sha256
    record("client: hangs", "training", f"warning: {outcome.records[1].failures[client]}", took(outcome), same=False)


def test_faults_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="one of client, host, edge and node"):
        tiny(faults=[{"round": 1, "client": 1, "host": 1, "kind": "kill"}])
    with pytest.raises(ConfigError, match="kind: kill for a fault of a host"):
        tiny(faults=[{"round": 1, "host": 1, "kind": "nan"}])
    with pytest.raises(ConfigError, match=r"runtime\.backend is local"):
        tiny(faults=[{"round": 1, "client": 1, "kind": "hang"}])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3))
def test_after_a_death_every_client_is_tried_or_left_out_once(sizes: Sequence[int], attempt: int, retries: int) -> None:
    clients = iter(range(100))
    units = [
        Unit(0, block, 0, tuple(next(clients) for _ in range(size)), float(size), attempt) for block, size in enumerate(sizes)
    ]
    again, hopeless = after_a_death(units, dict.fromkeys(range(100), 1.0), retries)
    assert [client for unit in [*again, *hopeless] for client in unit.clients] == list(range(sum(sizes)))
    assert all(len(unit.clients) == 1 and unit.attempt == attempt + 1 for unit in [*again, *hopeless])
    assert bool(hopeless) == (attempt >= retries)
    assert {(unit.block, unit.start) for unit in [*again, *hopeless]} == {
        (b, s) for b, size in enumerate(sizes) for s in range(size)
    }


@example(25, 28)
@given(st.integers(1, 100), st.integers(0, 100))
def test_a_quorum_is_meant_in_decimals(clients: int, percent: int) -> None:
    """0.28 of 25 clients are 7, though 0.28 * 25 is more in binary."""
    assert least_updates(percent / 100, clients) == -(-percent * clients // 100)


@example(7, 18, 0.28)
@given(st.integers(0, 20), st.integers(0, 20), st.floats(0.01, 1.0))
def test_a_quorum_is_a_share(good: int, bad: int, quorum: float) -> None:
    reports = [ClientReport(client, 0, 0.0, 1, 1, 1, "why\nTraceback" if client < bad else "") for client in range(good + bad)]
    if good >= Fraction(str(quorum)) * (good + bad):
        require_quorum(FailureConfig(quorum=quorum), 1, reports)
    else:
        with pytest.raises(RunFailedError, match=f"{good} of {good + bad} clients"):
            require_quorum(FailureConfig(quorum=quorum), 1, reports)
