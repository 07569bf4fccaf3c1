"""The ledger against closed forms, and against the forecast."""

from collections import Counter

import pytest
from federations import FLAT, METHODS, Outcome, federate, method, outcome_of, shapes, sums_by_hop, tiny

from fedphd_ray.config import Config
from fedphd_ray.foresight.forecast import forecast

DENSE = {"pruning": {"mode": "none"}}
FEDAVG = {"strategy": {"name": "fedavg"}}


def num_bytes(outcome: Outcome, hop: str, kind: str = "model") -> int:
    return sum(row.num_bytes for row in outcome.transfers if row.hop == hop and row.kind == kind)


def test_hierarchical_fedavg_has_its_closed_form() -> None:
    """2 K |theta| a round at the edges, 2 M |theta| a cycle at the cloud, 4 bytes a parameter; nothing else travels."""
    config = tiny(**DENSE, **FEDAVG, schedule={"rounds": 6})
    outcome, model = federate(config), 4 * forecast(config.build()).dense.params
    assert num_bytes(outcome, "edge_to_client") == num_bytes(outcome, "client_to_edge") == 6 * 4 * model
    assert num_bytes(outcome, "cloud_to_edge") == num_bytes(outcome, "edge_to_cloud") == 3 * 2 * model
    assert {row.kind for row in outcome.transfers} == {"model"}
    assert {row.hop for row in outcome.transfers} == {"cloud_to_edge", "edge_to_client", "client_to_edge", "edge_to_cloud"}


def test_flat_fedavg_has_its_closed_form() -> None:
    """2 K |theta| a round at the cloud, and no edges."""
    config = tiny(**DENSE, **FEDAVG, hierarchy={"num_edges": 0, "cloud_period": 1})
    outcome, cost = federate(config), forecast(config.build())
    model = 4 * cost.dense.params
    assert Counter(row.hop for row in outcome.transfers) == {"cloud_to_client": 16, "client_to_cloud": 16}
    assert num_bytes(outcome, "cloud_to_client") == num_bytes(outcome, "client_to_cloud") == 4 * 4 * model
    assert cost.cloud_saving == 0.0
    assert {row.source for row in outcome.transfers if row.hop == "cloud_to_client"} == {"cloud"}


def test_label_statistics_are_rows_too() -> None:
    """Each sampled client hears of every edge and tells its own; edges tell the cloud: 8 bytes a class."""
    outcome = federate(tiny(**DENSE))
    assert num_bytes(outcome, "edge_to_client", "statistics") == 4 * 4 * 2 * 80
    assert num_bytes(outcome, "client_to_edge", "statistics") == 4 * 4 * 80
    assert num_bytes(outcome, "edge_to_cloud", "statistics") == 2 * 2 * 80


def test_rows_before_and_after_pruning_differ_by_the_models() -> None:
    config = tiny()
    outcome, cost = federate(config), forecast(config.build())
    sizes = {(row.round > 2, row.version, row.num_params, row.num_bytes) for row in outcome.transfers if row.kind == "model"}
    assert sizes == {
        (False, 0, cost.dense.params, 4 * cost.dense.params),
        (True, 1, cost.pruned.params, 4 * cost.pruned.params),
    }
    assert outcome.state.model.layout.num_params == cost.pruned.params


@pytest.mark.parametrize(
    "config",
    [
        tiny(),
        tiny(**FEDAVG),
        tiny(pruning={"mode": "at_init"}),
        tiny(pruning={"mode": "prune", "round": 1}, schedule={"rounds": 5}),
        tiny(pruning={"mode": "prune", "round": 3}, local={"optimizer_state": "per_client"}, schedule={"rounds": 6}),
        tiny(**FEDAVG, hierarchy={"num_edges": 0, "cloud_period": 1}, local={"optimizer_state": "per_client"}),
        tiny(hierarchy={"num_edges": 5, "cloud_period": 3}, schedule={"clients_per_round": 2}),
        tiny(data=shapes(5, {"name": "dirichlet", "alpha": 0.1})),
    ],
    ids=["fedphd", "fedavg", "at init", "prune", "kept moments", "flat", "many edges", "dirichlet"],
)
def test_the_forecast_is_the_ledger_to_the_byte(config: Config) -> None:
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(federate(config))


@pytest.mark.parametrize("name", METHODS)
def test_the_forecast_is_the_ledger_for_every_method(name: str) -> None:
    """To the byte; where a codec's sizes depend on the values it says at most, and of that hop only."""
    experiment = method(name).build()
    told, moved = forecast(experiment), sums_by_hop(outcome_of(name))
    bounded = {hop for hop, codec in experiment.codecs.by_hop.items() if not codec.fixed}
    assert told.exact == (not bounded)
    assert set(told.bytes_by_hop) == set(moved)
    for hop, num_bytes in told.bytes_by_hop.items():
        assert (moved[hop] < num_bytes) if hop in bounded else (moved[hop] == num_bytes)


def test_scaffold_moves_twice_what_fedavg_moves() -> None:
    flat = {"hierarchy": FLAT, "pruning": {"mode": "none"}}
    scaffold, fedavg = (federate(tiny(**flat, strategy={"name": name})) for name in ("scaffold", "fedavg"))
    sums = [sum(row.num_bytes for row in outcome.transfers) for outcome in (scaffold, fedavg)]
    assert sums[0] == 2 * sums[1]
    kinds = Counter(row.kind for row in scaffold.transfers)
    assert kinds["model"] == kinds["control"] == 2 * 4 * 4


@pytest.mark.parametrize("name", ["fedprox", "moon", "fednova", "feddyn", "fedavgm", "fedadam"])
def test_other_methods_move_what_fedavg_moves(name: str) -> None:
    chosen, fedavg = method(name, **DENSE), method("flat fedavg" if name == "feddyn" else "fedavg", **DENSE)
    assert forecast(chosen.build()).bytes_by_hop == forecast(fedavg.build()).bytes_by_hop


def test_rounds_account_for_every_row() -> None:
    outcome = federate(tiny())
    assert sum(sum(record.bytes_by_hop.values()) for record in outcome.records) == sum(row.num_bytes for row in outcome.transfers)
    for record in outcome.records:
        trained = {row.source for row in outcome.transfers if row.round == record.round and row.hop == "client_to_edge"}
        assert trained == {f"client/{client}" for client in record.participants}
