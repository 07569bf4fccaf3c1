"""Edges that are away: nobody goes to them, nothing is lost but what they had, and it is the same everywhere."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from federations import DEEP, FLAT, Outcome, Recorder, StoppedHereError, Until, federate, method, reference, sums_by_hop

from fedphd_ray.config import Config
from fedphd_ray.errors import ConfigError
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement

EQUAL = {"name": "equal", "macs_per_second": 1e9, "download_mbit": 50, "upload_mbit": 10}
HIERARCHICAL = ("fedphd", "fedavg", "fedphd with kept moments", "feddiffuse usplit", "sfedhp", "masked fedavg")


def away(name: str = "fedphd", *outages: Mapping[str, int], **sections: object) -> Config:
    """Edge 1 is away in rounds 2 to 4 of eight, unless said otherwise; with it goes what it learnt in round 1."""
    listed = list(outages) or [{"edge": 1, "round": 2, "rounds": 3}]
    devices = {"classes": [EQUAL], "edges": {"outages": listed}}
    return method(name, devices=devices, **({"schedule": {"rounds": 8}, "pruning": {"round": 6}} | sections))


@cache
def in_one_process(name: str = "fedphd") -> Outcome:
    return federate(away(name))


def test_nobody_goes_to_it_and_it_says_nothing() -> None:
    outcome = in_one_process()
    for plan in outcome.plans:
        gone = {1} if 2 <= plan.round <= 4 else set()
        assert plan.away == gone
        assert plan.edge_of
        assert not gone.intersection(plan.edge_of.values())
    assert not [row for row in outcome.transfers if 2 <= row.round <= 4 and "edge/1" in (row.source, row.destination)]


def test_what_it_had_is_lost_and_it_comes_back_with_its_parents_model() -> None:
    """Period 2: the cloud hears of edge 0 alone after rounds 2 and 4, and gives edge 1 its model in round 5."""
    outcome = in_one_process()
    heard = {(row.round, row.source) for row in outcome.transfers if row.hop == "edge_to_cloud" and row.kind == "model"}
    given = {(row.round, row.destination) for row in outcome.transfers if row.hop == "cloud_to_edge" and row.kind == "model"}
    assert {(round, edge) for round, edge in heard if round <= 4} == {(2, "edge/0"), (4, "edge/0")}
    assert {round for round, edge in given if edge == "edge/1"} == {1, 5, 7}
    assert {round for round, edge in given if edge == "edge/0"} == {1, 3, 5, 7}


def test_others_are_where_they_would_have_been() -> None:
    """Only those who would have gone to it go elsewhere."""
    before = federate(method("fedavg", devices={"classes": [EQUAL]}, schedule={"rounds": 8}, pruning={"round": 6}))
    for plan, usual in zip(in_one_process("fedavg").plans, before.plans, strict=True):
        assert set(plan.edge_of) == set(usual.edge_of)
        expected = {client: 0 if plan.away else edge for client, edge in usual.edge_of.items()}
        assert dict(plan.edge_of) == expected


@pytest.mark.parametrize("name", HIERARCHICAL)
def test_bytes_are_foretold(name: str) -> None:
    outcome = in_one_process(name)
    assert forecast(away(name).build()).bytes_by_hop == sums_by_hop(outcome)
    assert outcome.sha256 != reference(name)


def test_in_a_deep_tree_its_region_goes_on() -> None:
    config = away("fedavg", {"edge": 3, "round": 1, "rounds": 4}, {"edge": 2, "round": 2}, hierarchy=DEEP)
    outcome = federate(config)
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)
    assert [sorted(plan.away) for plan in outcome.plans] == [[3], [2, 3], [3], [3], [], [], [], []]


def test_where_all_are_away_nothing_happens() -> None:
    both = [{"edge": edge, "round": 3, "rounds": 2} for edge in (0, 1)]
    config = away("fedphd", *both)
    outcome = federate(config)
    assert [bool(plan.asked) for plan in outcome.plans] == [True, True, False, False, True, True, True, True]
    assert {row.round for row in outcome.transfers} == {1, 2, 5, 6, 7, 8}
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whoever_has_lost_everything_and_is_not_chosen_again_has_nothing_to_say(seed: int) -> None:
    """A client a round: an edge that was away and has worked before, but not since, sends no coverage."""
    few = {"schedule": {"rounds": 3, "clients_per_round": 1}, "hierarchy": {"cloud_period": 3}, "pruning": {"mode": "none"}}
    config = away("heterofl", {"edge": seed % 2, "round": 2}, seed=seed, **few)
    outcome = federate(config)
    first, _, last = (set(plan.edge_of.values()) for plan in outcome.plans)
    assert (first, last) == ({seed % 2}, {1 - seed % 2})
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


def test_the_forecast_knows_how_alike_edges_will_be() -> None:
    """By what they have seen since they were back."""
    config = away("fedphd", hierarchy={"cloud_period": 4, "edge_choice": {"name": "greedy"}})
    outcome, figures = federate(config), forecast(config.build()).edges
    assert figures is not None
    sent = [record for record in outcome.records if record.round in (4, 6, 8)]
    assert figures.homogeneity == pytest.approx(np.mean([list(record.homogeneity.values()) for record in sent]))


def test_who_goes_to_the_nearest_edge_goes_to_the_nearest_that_is_there() -> None:
    edges = {"detour_ms": {"distribution": "uniform", "low": 10, "high": 500}, "outages": [{"edge": 0, "round": 1, "rounds": 8}]}
    config = method(
        "fedavg",
        devices={"classes": [EQUAL], "edges": edges},
        hierarchy={"num_edges": 4, "edge_choice": {"name": "nearest"}},
        schedule={"rounds": 8},
        pruning={"mode": "none"},
    )
    experiment = config.build()
    assert experiment.devices is not None
    there = experiment.devices.detour[:, 1:].argmin(axis=1) + 1
    chosen = {client: edge for plan in federate(experiment).plans for client, edge in plan.edge_of.items()}
    assert chosen == {client: there[client] for client in chosen}
    assert len(set(chosen.values())) > 1


def test_links_of_whoever_is_away_take_no_time() -> None:
    """Those of edge 1 would take weeks."""
    experiment = away("fedphd", {"edge": 1, "round": 1, "rounds": 8}).build()
    assert experiment.devices is not None
    slow = np.array([1e9, 1.0])
    outcome = federate(replace(experiment, devices=replace(experiment.devices, node_download=slow, node_upload=slow)))
    assert outcome.records[-1].sim_seconds < 1000


def test_a_client_hears_of_the_edges_that_are_there() -> None:
    """Its download takes the time of what the ledger says that it was sent."""
    outcome = in_one_process()
    for plan in outcome.plans:
        for flight in plan.flights:
            received = sum(
                row.num_bytes
                for row in outcome.transfers
                if row.round == plan.round and row.destination == f"client/{flight.client}"
            )
            assert flight.downloaded - flight.started == pytest.approx(0.02 + 8 * received / 50e6)


def asynchronous(name: str = "fedphd", **sections: object) -> Config:
    """The same without barriers: when edge 1 goes, a client is at work for it, and two updates lie in its buffer."""
    schedule = {"rounds": 10, "clients_per_round": 4, "policy": {"name": "buffered", "size": 2}}
    outage = {"edge": 1, "round": 3, "rounds": 3}
    return away(name, outage, seed=1, **{"schedule": schedule, "pruning": {"round": 8}} | sections)


def test_without_barriers_whoever_works_for_it_is_stranded() -> None:
    outcome = federate(asynchronous("fedavg"))
    for plan in outcome.plans:
        inside = 3 <= plan.round <= 5
        assert plan.away == ({1} if inside else set())
        assert inside <= (1 not in plan.edge_of.values())
        stranded = {flight.client: flight for flight in plan.flights if flight.fate == "stranded"}
        assert bool(stranded) == (plan.round == 3)
        for flight in stranded.values():
            assert flight.edge == 1
            assert flight.version < 3
            assert flight.ended == (outcome.plans[1].memory["now"][0] if flight.sent < 1 else flight.arrived)
    assert {flight.sent < 1 for flight in outcome.plans[2].flights if flight.fate} == {True, False}  # at work, and in the buffer
    later = [plan for plan in outcome.plans if plan.round > 5]
    assert any(1 in plan.edge_of.values() for plan in later)
    lost = [row for row in outcome.transfers if row.lost and row.round == 3]
    assert {row.source for row in lost if row.hop == "edge_to_client"} == {"edge/1"}


@pytest.mark.parametrize("name", ["fedphd", "fedavg", "heterofl"])
def test_without_barriers_bytes_and_times_are_foretold(name: str) -> None:
    outcome, cost = federate(asynchronous(name)), forecast(asynchronous(name).build())
    assert cost.bytes_by_hop == sums_by_hop(outcome)
    assert cost.simulated is not None
    assert cost.simulated.seconds == outcome.records[-1].sim_seconds


def test_without_barriers_a_client_heard_of_the_edges_that_were_there_when_it_was_asked() -> None:
    outcome = federate(asynchronous())
    rows = [row for row in outcome.transfers if row.hop == "edge_to_client" and row.kind == "statistics"]
    for plan in outcome.plans:
        for client, asked in plan.asked.items():
            heard = {row.source for row in rows if row.round == plan.round and row.destination == f"client/{client}"}
            assert heard == ({"edge/0"} if 3 <= asked <= 5 else {"edge/0", "edge/1"})
    assert any(3 <= asked <= 5 < plan.round for plan in outcome.plans for asked in plan.asked.values())


def test_without_barriers_where_all_are_away_nothing_happens() -> None:
    both = [{"edge": edge, "round": 3, "rounds": 2} for edge in (0, 1)]
    config = away("fedavg", *both, schedule=asynchronous().schedule.model_dump(mode="json"))
    outcome = federate(config)
    assert [bool(plan.edge_of) for plan in outcome.plans[:5]] == [True, True, False, False, True]
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


@pytest.mark.parametrize("last", [2, 3, 5])
def test_without_barriers_it_goes_on_in_the_middle_of_an_outage(last: int, tmp_path: Path) -> None:
    experiment = asynchronous(checkpoint={"every": 1}).build()
    with pytest.raises(StoppedHereError):
        runs.run(experiment, tmp_path / "run", Until(last))
    assert runs.resume(experiment, tmp_path / "run", Recorder()).model_sha256 == federate(asynchronous()).sha256


@pytest.mark.ray
@pytest.mark.parametrize("name", ["fedphd", "fedphd with kept moments", "fedphd without barriers"])
@pytest.mark.parametrize("placement", [Placement(2, False, ""), Placement(6, True, "")])
def test_same_bits_times_and_rows_everywhere(name: str, placement: Placement, actor_pool: ActorPool) -> None:
    chosen = asynchronous() if name.endswith("barriers") else away(name)
    one = federate(chosen)
    there = federate(chosen, RayBackend(chosen.build().host_setup(), placement, chosen.runtime, actor_pool))
    assert there.sha256 == one.sha256
    assert [record.sim_seconds for record in there.records] == [record.sim_seconds for record in one.records]
    assert sorted(there.transfers) == sorted(one.transfers)


@pytest.mark.parametrize("last", [1, 3, 4])
def test_it_goes_on_in_the_middle_of_an_outage(last: int, tmp_path: Path) -> None:
    experiment = away(checkpoint={"every": 1}).build()
    with pytest.raises(StoppedHereError):
        runs.run(experiment, tmp_path / "run", Until(last))
    assert runs.resume(experiment, tmp_path / "run", Recorder()).model_sha256 == in_one_process().sha256


@pytest.mark.parametrize(("sections", "words"), [({"hierarchy": {"num_edges": 1}}, "0 to 0"), ({"hierarchy": FLAT}, "no edges")])
def test_what_cannot_be_is_refused(sections: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        away("fedavg", **sections)
