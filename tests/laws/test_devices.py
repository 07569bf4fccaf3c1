"""Simulated devices: times as hands compute them, the same everywhere, foretold to the byte, and nothing else is changed."""

import math
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from federations import FLAT, Outcome, Recorder, federate, first_sendings, method, reference, sums_by_hop, tiny

from fedphd_ray.config import Config
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.channel.ledger import read_ledger
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.records import Kind
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement

EQUAL = {"name": "equal", "macs_per_second": 1e9, "download_mbit": 50, "upload_mbit": 10}
SLOW = {"name": "slow", "share": 0.5, "macs_per_second": 1e8, "download_mbit": 5, "upload_mbit": 1, "latency_ms": 100}
MIXED = {
    "classes": [EQUAL, SLOW],
    "edges": {"client_mbit": 20},
    "availability": {"name": "markov", "leave": 0.3, "join": 0.6},
    "dropout": {"training": 0.1, "upload": 0.15},
}
PLACEMENTS = [Placement(1, False, ""), Placement(2, False, ""), Placement(3, False, ""), Placement(6, True, "")]
POLICIES: dict[str, dict[str, object]] = {
    "wait": {"name": "wait"},
    "deadline": {"name": "deadline", "seconds": 2.5, "least_updates": 1},
    "over_select": {"name": "over_select", "extra": 2},
    "buffered": {"name": "buffered", "size": 2},
    "scale_work": {"name": "scale_work", "least": 0.25},
}


def mixed(policy: str, name: str = "fedphd", **sections: object) -> Config:
    few = policy in ("over_select", "buffered")  # of six: some must be left to be asked
    as_they_are = {"normalise": False} if (policy, name) == ("scale_work", "feddiffuse usplit") else {}  # else it is refused
    rule = POLICIES[policy] | as_they_are
    schedule = {"rounds": 6, "clients_per_round": 2 + (policy == "buffered") if few else 4, "policy": rule}
    return method(name, devices=MIXED, **{"schedule": schedule, **sections})


@cache
def in_one_process(policy: str) -> Outcome:
    return federate(mixed(policy))


@pytest.mark.parametrize("name", ["fedphd", "flat fedavg", "scaffold", "feddiffuse usplit", "fedphd with kept moments"])
def test_equal_devices_change_nothing_but_the_time(name: str) -> None:
    outcome = federate(method(name, devices={"classes": [EQUAL]}))
    assert outcome.sha256 == reference(name)
    seconds = [record.sim_seconds for record in outcome.records]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert all(transfer.sim_seconds > 0 for transfer in outcome.transfers)


@pytest.mark.parametrize("policy", POLICIES)
def test_something_happens_in_these_federations(policy: str) -> None:
    """Else the laws below would not mean much."""
    outcome = in_one_process(policy)
    fates = Counter(fate for record in outcome.records for fate in record.unused.values())
    assert fates["gone"] > 0
    assert {"deadline": "late", "over_select": "surplus", "buffered": "unfinished"}.get(policy, "gone") in fates
    assert any(transfer.lost for transfer in outcome.transfers)


@pytest.mark.ray
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_same_bits_and_times_everywhere(policy: str, placement: Placement, actor_pool: ActorPool) -> None:
    chosen, one = mixed(policy), in_one_process(policy)
    there = federate(chosen, RayBackend(chosen.build().host_setup(), placement, chosen.runtime, actor_pool))
    assert there.sha256 == one.sha256
    assert [(r.sim_seconds, r.unused, r.participants) for r in there.records] == [
        (r.sim_seconds, r.unused, r.participants) for r in one.records
    ]
    assert sorted(there.transfers) == sorted(one.transfers)


@pytest.mark.ray
@pytest.mark.parametrize("policy", ["deadline", "buffered"])
def test_a_real_death_is_none_of_the_simulation(policy: str, actor_pool: ActorPool) -> None:
    """A client's host dies in round 3, in the middle of a buffer: same bits, same clock; what is sent again takes no time."""
    one = in_one_process(policy)
    faults = [{"round": 3, "client": min(one.plans[2].edge_of), "kind": "kill"}]
    chosen = mixed(policy, faults=faults, runtime={"backend": "ray"})
    outcome = federate(chosen, RayBackend(chosen.build().host_setup(), PLACEMENTS[1], chosen.runtime, actor_pool))
    assert [len(record.replacements) for record in outcome.records] == [0, 0, 1, 0, 0, 0]
    again = [row for row in outcome.transfers if row.attempt]
    assert {str(row.hop) for row in again} == {"edge_to_client", "client_to_edge"}
    assert all((row.sim_seconds == 0) == (row.hop == "edge_to_client") for row in again)
    assert outcome.sha256 == one.sha256
    assert [record.sim_seconds for record in outcome.records] == [record.sim_seconds for record in one.records]
    assert first_sendings(outcome.transfers) == first_sendings(one.transfers)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["fedphd", "flat fedavg", "scaffold", "feddiffuse usplit", "fedphd with kept moments"])
def test_forecast_equals_the_ledger_losses_included(policy: str, name: str) -> None:
    if (policy, name) == ("buffered", "feddiffuse usplit"):
        pytest.skip("refused: see tests/test_config.py")
    chosen = mixed(policy, name)
    outcome = federate(chosen)
    assert any(transfer.lost for transfer in outcome.transfers)
    cost = forecast(chosen.build())
    assert cost.bytes_by_hop == sums_by_hop(outcome)
    assert cost.simulated is not None
    assert cost.simulated.seconds == outcome.records[-1].sim_seconds


@pytest.mark.parametrize("policy", POLICIES)
def test_a_resumed_run_has_the_same_clock_and_books(policy: str, tmp_path: Path) -> None:
    config = mixed(policy, checkpoint={"every": 1, "keep": 9})
    whole = runs.run(config.build(), tmp_path / "whole", Recorder())
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for round in (4, 5, 6):
        shutil.rmtree(tmp_path / f"cut/checkpoints/round-{round:06d}")
    (tmp_path / "cut/summary.json").unlink()
    resumed = runs.resume(config.build(), tmp_path / "cut", Recorder())
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.sim_seconds == whole.sim_seconds > 0
    assert read_ledger(tmp_path / "cut/ledger").equals(read_ledger(tmp_path / "whole/ledger"))


@pytest.mark.parametrize("name", ["flat fedavg", "scaffold", "fedadam"])
def test_a_buffer_for_all_of_equal_clients_is_the_method_itself(name: str) -> None:
    """FedBuff in lock-step: so many at work as go into a buffer, all done at the same moment; no update is stale.

    Without pruning: who keeps state of the former network is sent the plan, and is a little later than the others.
    """
    flat = {"hierarchy": FLAT, "devices": {"classes": [EQUAL]}, "local": {"steps": 3}, "pruning": NO_PRUNING}
    buffered = federate(method(name, **flat, schedule={"policy": {"name": "buffered", "size": 4}}))
    assert buffered.sha256 == federate(method(name, **flat)).sha256
    assert not any(record.unused for record in buffered.records)


def test_stale_updates_start_from_former_models_and_count_less() -> None:
    config = mixed("buffered", "fedavg")
    experiment = config.build()
    outcome = federate(experiment)
    versions = [
        (each.version, plan.round, each.factor) for plan in outcome.plans for leaf in plan.at(0) for each in leaf.contributions
    ]
    stale = [(version, round, factor) for version, round, factor in versions if version is not None]
    assert stale
    assert all(version < round and factor <= 1 for version, round, factor in stale)
    assert {factor for *_, factor in stale} <= {1.0, *((1 + age) ** -0.5 for age in range(1, 6))}
    assert any(factor < 1 for *_, factor in stale)


def test_in_a_deep_tree_every_link_takes_its_time_in_every_round() -> None:
    """Down and up again over two tiers, a second each way and link: the second round takes as long as the first."""
    tiers = [{"name": "edge", "nodes": 4, "period": 1}, {"name": "region", "nodes": 2, "period": 1}]
    fast = EQUAL | {"macs_per_second": 1e15, "download_mbit": 1e6, "upload_mbit": 1e6, "latency_ms": 0}
    config = method(
        "fedavg",
        devices={"classes": [fast], "edges": {"latency_ms": 1000, "download_mbit": 1e6, "upload_mbit": 1e6}},
        hierarchy={"num_edges": 4, "cloud_period": 1, "tiers": tiers},
        schedule={"rounds": 3, "clients_per_round": 6},
        pruning={"mode": "none", "round": None},
    )
    assert [record.sim_seconds for record in federate(config).records] == pytest.approx([4, 8, 12], abs=0.01)


def test_slow_clients_take_fewer_steps() -> None:
    chosen = mixed("scale_work", "fednova", local={"epochs": 4})
    outcome = federate(chosen)
    sizes = chosen.build().population.num_samples
    for plan, record in zip(outcome.plans, outcome.records, strict=True):
        steps = [chosen.local.num_steps(int(sizes[client]), plan.steps.get(client, 1.0)) for client in plan.edge_of]
        assert record.local_steps == sum(steps)
    shares = [share for plan in outcome.plans for share in plan.steps.values()]
    assert shares
    assert all(0.25 <= share < 1 for share in shares)
    waiting = federate(mixed("wait", "fednova", local={"epochs": 4}))
    assert outcome.records[-1].sim_seconds < waiting.records[-1].sim_seconds


def test_updates_of_different_lengths_are_made_comparable_with_any_method() -> None:
    """FedAvg under `scale_work` is FedNova, unless told otherwise."""
    nova, fedavg = (federate(mixed("scale_work", name, local={"epochs": 4})).sha256 for name in ("fednova", "fedavg"))
    assert fedavg == nova
    schedule = {"rounds": 6, "clients_per_round": 4, "policy": POLICIES["scale_work"] | {"normalise": False}}
    assert federate(mixed("scale_work", "fedavg", local={"epochs": 4}, schedule=schedule)).sha256 != nova
    waiting = mixed("wait", "fedavg", strategy={"normalise_steps": True})
    assert federate(waiting).sha256 == federate(mixed("wait", "fednova")).sha256 != federate(mixed("wait", "fedavg")).sha256


@pytest.mark.parametrize(
    ("name", "sections", "words"),
    [
        ("feddyn", {"strategy": {"normalise_steps": True}}, r"(?s)strategy\.normalise_steps.*goes by the sum"),
        ("feddiffuse usplit", {"strategy": {"normalise_steps": True}}, "different parts"),
        ("heterofl", {"strategy": {"normalise_steps": True}}, "different shares"),
        ("masked fedavg", {"schedule": {"policy": {"name": "scale_work"}}}, r"(?s)schedule\.policy\.normalise.*different shares"),
    ],
)
def test_what_cannot_be_normalised_is_refused(name: str, sections: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method(name, devices=MIXED, **sections)


@pytest.mark.parametrize(
    "sampler",
    [{"name": "by_size"}, {"name": "tiers", "groups": 2}, {"name": "power_of_choice", "candidates": 5}, {"name": "oort"}],
    ids=lambda sampler: sampler["name"],
)
def test_samplers_resume_and_go_by_what_a_server_knows(sampler: dict[str, object], tmp_path: Path) -> None:
    schedule = {"rounds": 6, "clients_per_round": 3, "sampler": sampler}
    config = mixed("wait", schedule=schedule, checkpoint={"every": 1, "keep": 9})
    whole = runs.run(config.build(), tmp_path / "whole", Recorder())
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for round in (4, 5, 6):
        shutil.rmtree(tmp_path / f"cut/checkpoints/round-{round:06d}")
    (tmp_path / "cut/summary.json").unlink()
    assert runs.resume(config.build(), tmp_path / "cut", Recorder()).model_sha256 == whole.model_sha256
    plain = mixed("wait", schedule=schedule | {"sampler": {"name": "uniform"}})
    assert whole.model_sha256 != federate(plain).sha256


# Times as hands compute them. The model takes 1 s down and 2 s up on every client's own link, training t seconds on client t.


def three_clients(policy: dict[str, object], edge_rate: float | None, **devices: object) -> Outcome:
    """Clients 0 and 2 at edge 0, client 1 at edge 1; the cloud is reached in 0.5 s either way."""
    base = {"rounds": 1, "clients_per_round": 3, "policy": policy}
    data = {**tiny().model_dump(mode="json")["data"], "num_clients": 3, "partition": {"name": "iid"}}
    plain = tiny(strategy={"name": "fedavg"}, data=data, schedule={**base, "policy": {"name": "wait"}}, pruning=NO_PRUNING)
    params = forecast(plain.build()).dense.params
    mbit = 8 * 4 * params / 1e6  # the model in a second
    macs = plain.model_copy(update={"devices": None}).build().costs[0].macs * 3 * 40  # 40 images each
    links = {"download_mbit": 2 * mbit, "upload_mbit": 2 * mbit, "latency_ms": 1e-9}
    device = {"name": "x", "macs_per_second": macs / 4, "download_mbit": mbit, "upload_mbit": mbit / 2, "latency_ms": 1e-9}
    shared = {} if edge_rate is None else {"client_mbit": edge_rate * mbit}
    section = {"classes": [device], "edges": links | shared, **devices}
    return federate(tiny(strategy={"name": "fedavg"}, data=data, schedule=base, pruning=NO_PRUNING, devices=section))


NO_PRUNING = {"mode": "none", "round": None}
WAIT: dict[str, object] = {"name": "wait"}


def test_a_round_of_hands() -> None:
    """0.5 down to the edge, 1 to the client, 4 of training, 2 up, 0.5 to the cloud."""
    outcome = three_clients(WAIT, None)
    assert outcome.records[-1].sim_seconds == pytest.approx(8, abs=1e-9)
    seconds = {(str(row.hop), row.source, row.destination): row.sim_seconds for row in outcome.transfers}
    assert seconds["edge_to_client", "edge/0", "client/2"] == pytest.approx(1, abs=1e-9)
    assert seconds["client_to_edge", "client/1", "edge/1"] == pytest.approx(2, abs=1e-9)
    assert seconds["edge_to_cloud", "edge/1", "cloud"] == pytest.approx(0.5, abs=1e-9)


def test_a_round_of_hands_with_contention() -> None:
    """Edge 0 has 0.8 of a model a second: its two clients receive at 0.4, in 2.5 s, and send at 0.4 instead of 0.5."""
    outcome = three_clients(WAIT, 0.8)
    assert outcome.records[-1].sim_seconds == pytest.approx(0.5 + 2.5 + 4 + 2.5 + 0.5, abs=1e-9)
    seconds = {(str(row.hop), row.source): row.sim_seconds for row in outcome.transfers}
    assert seconds["client_to_edge", "client/0"] == pytest.approx(2.5, abs=1e-9)
    assert seconds["client_to_edge", "client/1"] == pytest.approx(2, abs=1e-9)


def test_a_round_of_hands_with_a_deadline() -> None:
    """Edge 1 has its update after 7 s; those of edge 0 are sent in part: from 6.5 to 8, 0.6 of a model each at 0.4 a second."""
    outcome = three_clients({"name": "deadline", "seconds": 8.0}, 0.8)
    record = outcome.records[-1]
    assert record.unused == {0: "late", 2: "late"}
    assert record.sim_seconds == pytest.approx(0.5 + 8 + 0.5, abs=1e-9)
    lost = [row for row in outcome.transfers if row.lost and row.hop == "client_to_edge"]
    whole = next(row.num_bytes for row in outcome.transfers if row.kind == Kind.MODEL and not row.lost)
    assert {row.source for row in lost} == {"client/0", "client/2"}
    assert [row.num_bytes for row in lost] == [pytest.approx(0.6 * whole, abs=1)] * 2
    assert [row.sim_seconds for row in lost] == [pytest.approx(1.5, abs=1e-9)] * 2


def test_a_deadline_with_a_least_number_waits_for_it() -> None:
    outcome = three_clients({"name": "deadline", "seconds": 3.0, "least_updates": 1}, None)
    assert not outcome.records[-1].unused  # the two of edge 0 are done at the same moment
    assert outcome.records[-1].sim_seconds == pytest.approx(8, abs=1e-9)


# Extremes


@pytest.mark.parametrize("hierarchy", [FLAT, {"num_edges": 2, "cloud_period": 2}], ids=["flat", "edges"])
@pytest.mark.parametrize(
    "devices",
    [
        {"classes": [EQUAL], "availability": {"name": "bernoulli", "probability": 0.0}},
        {"classes": [EQUAL], "dropout": {"training": 1.0}},
        {"classes": [{**EQUAL, "memory_gib": 1e-6}]},
    ],
    ids=["nobody is there", "everybody leaves", "too small"],
)
def test_rounds_without_anybody(devices: dict[str, object], hierarchy: dict[str, object]) -> None:
    config = tiny(strategy={"name": "fedavg"}, devices=devices, hierarchy=hierarchy, pruning=NO_PRUNING)
    outcome = federate(config)
    assert [record.participants for record in outcome.records] == [{}] * 4
    assert all(row.lost or not row.hop.touches_client for row in outcome.transfers)
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


@pytest.mark.parametrize("policy", [*POLICIES.values()], ids=[*POLICIES])
def test_one_client_and_an_edge_with_nobody_for_ten_rounds(policy: dict[str, object]) -> None:
    data = {**tiny().model_dump(mode="json")["data"], "num_clients": 1, "partition": {"name": "iid"}}
    schedule = {"rounds": 10, "clients_per_round": 1, "policy": policy | ({"size": 1} if "size" in policy else {})}
    config = tiny(
        strategy={"name": "fedavg"},
        data=data,
        devices={"classes": [EQUAL]},
        schedule=schedule,
        pruning=NO_PRUNING,
        local={"steps": 1},
    )
    outcome = federate(config)
    assert [record.participants for record in outcome.records] == [{0: 0}] * 10
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)
    seconds = [record.sim_seconds for record in outcome.records]
    assert seconds == sorted(seconds)


def test_everybody_is_late() -> None:
    policy = {"name": "deadline", "seconds": 1e-6}
    outcome = federate(tiny(devices={"classes": [EQUAL]}, schedule={"policy": policy}, pruning=NO_PRUNING))
    assert [record.participants for record in outcome.records] == [{}] * 4
    assert all(len(record.unused) == 4 for record in outcome.records)
    assert math.isfinite(outcome.records[-1].sim_seconds)


def test_a_device_that_is_too_small_is_asked_after_the_pruning() -> None:
    dense, pruned = (cost.memory_bytes for cost in tiny().build().costs)
    assert pruned < dense
    gib = (dense + pruned) / 2 / 2**30
    outcome = federate(tiny(devices={"classes": [{**EQUAL, "memory_gib": gib}]}))
    assert [len(record.participants) for record in outcome.records] == [0, 0, 4, 4]
