"""Trees with more tiers: a tier that only passes on changes no bit, and whatever dies in a deep one neither."""

import math
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from federations import METHODS, Outcome, Recorder, federate, first_sendings, method, reference, shapes, tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedphd_ray.config import Config, parse_config
from fedphd_ray.diffusion.unet import initial_state
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.channel.ledger import Ledger
from fedphd_ray.federation.sums.aggregation import weighted_models
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.plans import RoundPlan
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.exchange import hand_down
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.runtime.workers.local_backend import LocalBackend
from fedphd_ray.strategies.parts import Part
from fedphd_ray.tensors import Layout, as_tensor


def tree(*tiers: tuple[str, int, int]) -> dict[str, object]:
    """The section, from (name, nodes, period) of each tier."""
    listed = [dict(zip(("name", "nodes", "period"), tier, strict=True)) for tier in tiers]
    return {"num_edges": tiers[0][1], "cloud_period": math.prod(tier[2] for tier in tiers), "tiers": listed}


WITH_EDGES = [name for name in METHODS if METHODS[name].get("hierarchy") is None]
DEEP = tree(("edge", 4, 1), ("region", 2, 2), ("country", 1, 1))
FEDAVG = {"name": "fedavg"}


@pytest.mark.parametrize("name", WITH_EDGES)
def test_a_tier_of_one_node_that_passes_everything_on_changes_no_bit(name: str) -> None:
    deeper = federate(method(name, hierarchy=tree(("edge", 2, 2), ("region", 1, 1))))
    assert deeper.sha256 == reference(name)
    below = {"edge_to_client", "client_to_edge"}
    plain = federate(method(name))
    assert first_sendings([row for row in deeper.transfers if row.hop in below]) == first_sendings(
        [row for row in plain.transfers if row.hop in below]
    )
    assert Counter(row.hop for row in deeper.transfers if row.kind == "model")["region_to_cloud"] == 2


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(
    hnp.arrays(np.float32, 20, elements=FLOATS),
    hnp.arrays(np.float32, 20, elements=FLOATS),
)
def test_the_mean_of_one_model_is_that_model(base: np.ndarray, total: np.ndarray) -> None:
    """To the bit, though it is taken as base + (model - base): the model was base + something before."""
    model = base + total
    mean = weighted_models(as_tensor(base), [as_tensor(model)], (Part("all", (slice(0, 20),)),), [[1.0]])
    assert np.array_equal(mean.numpy(), model)


@pytest.mark.parametrize("name", ["fedavg", "fednova", "feddiffuse usplit"])
def test_tiers_that_all_send_every_round_are_one(name: str) -> None:
    """To rounding: means of means with the right weights are the mean."""
    unequal = shapes(6, {"name": "quantity", "alpha": 1.0, "min_images": 5})
    cohort = {"rounds": 1, "clients_per_round": 6}
    dense = {"data": unequal, "pruning": {"mode": "none", "round": None}, "schedule": cohort}
    one = federate(method(name, **dense, hierarchy={"num_edges": 4, "cloud_period": 1})).state.model.vector
    two = federate(method(name, **dense, hierarchy=tree(("edge", 4, 1), ("region", 2, 1)))).state.model.vector
    experiment = method(name, **dense).build()
    random = initial_state(experiment.spec, experiment.seed)
    moved = np.abs(one - Layout.of(random).flatten(random).numpy()).max()
    assert 0 < np.abs(one - two).max() < 1e-4 * moved


def test_regions_hand_down_what_they_have_merged() -> None:
    """In between their edges hold one model, and another region's edges another; the cloud is asked every second round."""
    hierarchy, cohort = tree(("edge", 4, 1), ("region", 2, 2)), {"clients_per_round": 6}
    whole = tiny(strategy=FEDAVG, hierarchy=hierarchy, schedule=cohort).build()
    backend = LocalBackend(whole.host_setup())
    states = []
    with Observer(whole, backend, ledger=Ledger(), reporter=Recorder()) as observer:
        observer.observe = lambda state, trace: states.append(state)  # type: ignore[method-assign]
        cloud = Cloud(whole, backend, observer)
        cloud.run(cloud.begin())
    first = states[1]
    assert first.models[0] == (None,) * 4
    assert [state.syncs for state in states] == [0, 0, 1, 1, 2]
    north, south = (backend.get_payload(handle).vector for handle in first.models[1])
    assert not np.array_equal(north, south)
    models, _, rows = hand_down(whole, backend, first, RoundPlan(2, (), 1))
    given = [backend.get_payload(handle).vector for handle in models[0]]
    assert all(np.array_equal(held, north) for held in given[:2])
    assert all(np.array_equal(held, south) for held in given[2:])
    assert {(row.hop, row.source) for row in rows} == {("region_to_edge", "region/0"), ("region_to_edge", "region/1")}
    assert [seen.num_samples for seen in first.statistics[0]] == [0] * 4
    assert sum(seen.num_samples for seen in first.statistics[1]) == whole.population.num_samples.sum()


def deep(*faults: dict[str, object]) -> Config:
    """Four tiers and the cloud; every client takes part, every node works."""
    backend = {"backend": "ray"} if faults else {}
    return method(
        "fedphd with kept moments", hierarchy=DEEP, schedule={"clients_per_round": 6}, faults=list(faults), runtime=backend
    )


@cache
def one_process() -> Outcome:
    return federate(deep())


def by_hop(outcome: Outcome) -> dict[str, int]:
    total: Counter[str] = Counter()
    for row in outcome.transfers:
        total[str(row.hop)] += row.num_bytes
    return dict(total)


def test_the_ledger_of_a_deep_tree_is_its_forecast() -> None:
    cost = forecast(deep().build())
    assert cost.bytes_by_hop == by_hop(one_process())
    assert list(cost.bytes_by_hop) == [
        "cloud_to_country",
        "country_to_region",
        "region_to_edge",
        "edge_to_client",
        "client_to_edge",
        "edge_to_region",
        "region_to_country",
        "country_to_cloud",
    ]
    assert cost.syncs == 2


@pytest.mark.ray
@pytest.mark.parametrize("placement", [Placement(2, False, ""), Placement(6, True, "")], ids=["pooled", "dedicated"])
def test_a_deep_tree_has_the_same_bits_everywhere(placement: Placement, actor_pool: ActorPool) -> None:
    chosen = deep()
    outcome = federate(chosen, RayBackend(chosen.build().host_setup(), placement, chosen.runtime, actor_pool))
    assert outcome.sha256 == one_process().sha256
    assert first_sendings(outcome.transfers) == first_sendings(one_process().transfers)


@pytest.mark.ray
def test_a_node_of_each_tier_dies_and_no_bit_changes(actor_pool: ActorPool) -> None:
    places = [{"host": 0}, {"edge": 3}, {"node": "region/1"}, {"node": "country/0"}]
    rounds = [1, 2, 3, 4]  # the country merges in even rounds only
    chosen = deep(*({"round": round, "kind": "kill", **place} for round, place in zip(rounds, places, strict=True)))
    backend = RayBackend(chosen.build().host_setup(), Placement(2, False, ""), chosen.runtime, actor_pool)
    outcome = federate(chosen, backend)
    assert [len(record.replacements) for record in outcome.records] == [1, 1, 1, 1]
    assert [record.replacements[0].partition(":")[0].partition(" ")[0] for record in outcome.records] == [
        "host/0",
        "edge/3",
        "region/1",
        "country/0",
    ]
    assert outcome.sha256 == one_process().sha256
    again = Counter((row.round, str(row.hop)) for row in outcome.transfers if row.attempt and row.kind == "model")
    assert again[3, "edge_to_region"] == 2  # both edges of the region send again
    assert again[4, "region_to_country"] == 2
    plain = Counter((row.round, str(row.hop)) for row in outcome.transfers if not row.attempt and row.kind == "model")
    assert plain[3, "edge_to_region"] == 4


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_deep_tree_goes_on_from_any_round(after: int, tmp_path: Path) -> None:
    config = deep().model_copy(update={"checkpoint": deep().checkpoint.model_copy(update={"every": 1, "keep": 9})})
    runs.run(config.build(), tmp_path, Recorder())
    for later in range(after + 1, 5):
        shutil.rmtree(tmp_path / f"checkpoints/round-{later:06d}")
    (tmp_path / "summary.json").unlink()
    assert runs.resume(config.build(), tmp_path, Recorder()).model_sha256 == one_process().sha256


@pytest.mark.parametrize(
    ("hierarchy", "key", "found"),
    [
        ({"tiers": []}, "hierarchy.tiers", "at least 1 of them"),
        ({"tiers": [{"name": "edge", "nodes": 2}, {"name": "region", "nodes": 3}]}, "hierarchy.tiers", "2 of edge, 3 of region"),
        ({"tiers": [{"name": "edge", "nodes": 2}, {"name": "edge", "nodes": 1}]}, "hierarchy.tiers", "names that differ"),
        ({"tiers": [{"name": "cloud", "nodes": 2}]}, "hierarchy.tiers", "none of them client or cloud"),
        ({"tiers": [{"name": "a_to_b", "nodes": 2}]}, "hierarchy.tiers.0.name", "a_to_b"),
        ({"tiers": [{"name": "edge", "nodes": 0}]}, "hierarchy.tiers.0.nodes", "0"),
        ({"num_edges": 3, "tiers": [{"name": "edge", "nodes": 2}]}, "hierarchy.tiers", "leave these two out"),
        ({"cloud_period": 3, "tiers": [{"name": "edge", "nodes": 2, "period": 2}]}, "hierarchy.tiers", "leave these two out"),
    ],
)
def test_trees_that_are_none_are_refused(hierarchy: dict[str, object], key: str, found: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config({"model": {"widths": [16, 32], "attention": [False, True]}, "hierarchy": hierarchy})
    assert key in str(refused.value)
    assert found in str(refused.value)


def test_the_two_everyday_keys_follow_from_the_tiers() -> None:
    tiers = [{"name": "edge", "nodes": 4, "period": 3}, {"name": "region", "nodes": 2, "period": 5}]
    config = parse_config({"model": {"widths": [16, 32], "attention": [False, True]}, "hierarchy": {"tiers": tiers}})
    assert (config.hierarchy.num_edges, config.hierarchy.cloud_period) == (4, 15)
    assert parse_config(yaml.safe_load(config.to_yaml())) == config


def test_a_server_that_no_tree_has_cannot_die() -> None:
    with pytest.raises(ConfigError, match="region/0"):
        tiny(runtime={"backend": "ray"}, faults=[{"round": 1, "node": "region/0", "kind": "kill"}])
