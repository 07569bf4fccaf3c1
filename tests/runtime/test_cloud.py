"""The main loop: what pruning, synchronisation, the moving average and failures do to the state."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from federations import METHODS, Recorder, federate, method, tiny

from fedphd_ray.config import Config
from fedphd_ray.diffusion.unet import initial_state
from fedphd_ray.errors import RunFailedError
from fedphd_ray.federation.channel.ledger import Ledger
from fedphd_ray.federation.planning.schedule import Schedule
from fedphd_ray.records import LocalOrder, Payload
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.local_backend import LocalBackend
from fedphd_ray.strategies import FedPhD
from fedphd_ray.tensors import Layout


def test_everything_is_smaller_after_the_pruning_round() -> None:
    config = tiny(server={"ema_decay": 0.5}, local={"optimizer_state": "per_client"}, schedule={"rounds": 3})
    outcome = federate(config)
    state = outcome.state
    small = state.model.layout.num_params
    assert state.model.version == 1
    assert state.ema is not None
    assert state.ema.layout == state.model.layout
    assert state.client_states
    for kept in state.client_states.values():
        assert kept.version == 1
        assert {vector.shape for vector in kept.vectors.values()} == {(small,)}
    assert {row.num_params for row in outcome.transfers if row.kind == "model" and row.round == 3} == {small}


def test_at_init_trains_the_small_network_from_the_first_round() -> None:
    outcome = federate(tiny(pruning={"mode": "at_init"}))
    assert {row.version for row in outcome.transfers if row.kind == "model"} == {1}
    assert outcome.state.plan is not None


def test_none_keeps_the_network() -> None:
    outcome = federate(tiny(pruning={"mode": "none"}))
    assert outcome.state.model.version == 0
    assert outcome.state.plan is None


def test_modes_differ_only_as_they_say() -> None:
    """The penalty changes weights and not sizes; without strength it changes nothing at all."""
    sparse, plain = federate(tiny()), federate(tiny(pruning={"mode": "prune"}))
    off = federate(tiny(pruning={"sparsity": 0.0}))
    assert sparse.state.model.layout == plain.state.model.layout
    assert sparse.sha256 != plain.sha256
    assert off.sha256 == plain.sha256


def test_an_edge_nobody_chose_keeps_its_model() -> None:
    """One client a round and three edges: after one round without a synchronisation two edges hold the initial model."""
    config = tiny(
        hierarchy={"num_edges": 3, "cloud_period": 9},
        schedule={"rounds": 2, "clients_per_round": 1},
        pruning={"mode": "none"},
        strategy={"name": "fedavg"},
    )
    backend = LocalBackend(config.build().host_setup())
    chosen: set[int] = set()
    held = []
    run_edges, get_payload = backend.run_edges, backend.get_payload

    def watch_tasks(tasks):
        chosen.update(task.edge for task in tasks)
        return run_edges(tasks)

    def watch_payloads(handle):
        held.append(get_payload(handle).vector)
        return get_payload(handle)

    backend.run_edges = watch_tasks
    backend.get_payload = watch_payloads
    federate(config, backend)
    at_sync = held[-3:]  # the cloud reads the edges' models once, in order, at the end of the second round
    assert 1 <= len(chosen) <= 2
    start = federate_start(config).numpy()
    for edge, vector in enumerate(at_sync):
        assert np.array_equal(vector, start) == (edge not in chosen)


def federate_start(config: Config) -> torch.Tensor:
    experiment = config.build()
    state = initial_state(experiment.spec, experiment.seed)
    return Layout.of(state).flatten(state)


def test_a_client_whose_loss_is_not_finite_is_named_and_left_out() -> None:
    """Client 2's images are not numbers: the run goes on without it and says so."""
    config = tiny(schedule={"rounds": 2, "clients_per_round": 6}, pruning={"mode": "none"})
    experiment = config.build()
    images = experiment.dataset.images.copy()
    images[experiment.client_rows[2]] = np.nan
    outcome = federate(config, LocalBackend(replace(experiment.host_setup(), images=images)))
    assert np.isfinite(outcome.state.model.vector).all()
    for record in outcome.records:
        assert set(record.failures) == {2}
    senders = {row.source for row in outcome.transfers if row.hop == "client_to_edge"}
    assert senders == {f"client/{client}" for client in range(6)} - {"client/2"}
    assert any("round 1: client/2 on edge/" in failure and "not aggregated" in failure for failure in outcome.state.failures)


def test_a_round_without_a_quorum_stops_the_run() -> None:
    config = tiny()
    images = np.full_like(config.build().dataset.images, np.nan)
    with pytest.raises(RunFailedError, match=r"round 1: 0 of 4 clients sent an update, failures\.quorum = 0\.5 asks for more"):
        federate(config, LocalBackend(replace(config.build().host_setup(), images=images)))


def test_hosts_return_the_sum_of_weighted_updates() -> None:
    """A block's sum is the clients' sums, each with its number of images as weight."""
    experiment = tiny(pruning={"mode": "none"}).build()
    state = initial_state(experiment.spec, 1)
    layout = Layout.of(state)
    payload = Payload(layout.flatten(state).numpy(), layout, 0)
    host, order = ClientHost(experiment.host_setup()), LocalOrder(1, 0, 1.0, 0.0)
    both, _ = host.train(payload, order, (1, 4), (None, None))
    singles = [host.train(payload, order, (client,), (None,))[0] for client in (1, 4)]
    assert np.array_equal(both.totals["model"], singles[0].totals["model"] + singles[1].totals["model"])
    assert both.weights == tuple((float(len(experiment.client_rows[client])),) for client in (1, 4))
    assert both.label_counts.tolist() == experiment.population.label_counts[[1, 4]].sum(axis=0).tolist()


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_moving_average_is_that_of_the_aggregates_alone(decay: float) -> None:
    """After k of them: sum of decay^(k-i) x_i over sum of decay^(k-i). The random network before them has no part in it."""
    seen: list[np.ndarray] = []

    class Watching(Cloud):
        def _server_step(self, *args):
            vector, kept, mean = super()._server_step(*args)
            seen.append(vector.numpy().copy())
            return vector, kept, mean

    dense: dict[str, object] = {"pruning": {"mode": "none", "round": None}, "schedule": {"rounds": 6}}
    experiment = method("fedphd", server={"ema_decay": decay}, **dense).build()
    backend = LocalBackend(experiment.host_setup())
    with Observer(experiment, backend, ledger=Ledger(), reporter=Recorder()) as observer:
        cloud = Watching(experiment, backend, observer)
        state = cloud.run(cloud.begin())
    weights = decay ** np.arange(len(seen) - 1, -1, -1)
    assert len(seen) == state.syncs == 3
    expected = sum(weight * vector for weight, vector in zip(weights, seen, strict=True)) / weights.sum()
    assert np.allclose(state.delivered.vector, expected, atol=1e-6)


def test_a_round_that_nobody_takes_part_in_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients of round 2 are all away."""
    plan = Schedule.plan

    def without_clients(self, round, *args):
        found = plan(self, round, *args)
        above = tuple(each for each in found.aggregations if each.level)
        return replace(found, aggregations=above, reported_parts={}) if round == 2 else found

    dense: dict[str, object] = {"pruning": {"mode": "none", "round": None}, "hierarchy": {"cloud_period": 1}}
    for name in ("fedphd", "fednova", "scaffold", "feddiffuse usplit"):
        sections = dense if "hierarchy" not in METHODS[name] else {"pruning": dense["pruning"]}
        one = federate(method(name, schedule={"rounds": 1}, **sections))
        with monkeypatch.context() as patch:
            patch.setattr(Schedule, "plan", without_clients)
            two = federate(method(name, schedule={"rounds": 2}, **sections))
        assert two.sha256 == one.sha256
        assert math.isnan(two.records[1].loss)
        assert two.records[1].participants == {}


@pytest.mark.ray
def test_no_tasks_are_no_round_on_ray(actor_pool) -> None:
    config = method("fedphd")
    assert RayBackend(config.build().host_setup(), Placement(1, False, ""), config.runtime, actor_pool).run_edges([]) == []


def test_a_model_that_is_not_finite_stops_the_run_and_says_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FedPhD, "edge_weights", lambda *_: np.array([np.nan, 1.0]))
    with pytest.raises(RunFailedError, match=r"round 2: the aggregated model is not finite \(edge/0: weight nan, its model is f"):
        federate(method("fedphd"))
