"""The main loop: what pruning, synchronisation, the moving average and failures do to the state."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from federations import federate, tiny

from fedphd_ray.config import Config
from fedphd_ray.diffusion.unet import initial_state
from fedphd_ray.errors import RunFailedError
from fedphd_ray.records import LocalOrder, Payload
from fedphd_ray.runtime.client_host import ClientHost
from fedphd_ray.runtime.local_backend import LocalBackend
from fedphd_ray.tensors import Layout, as_tensor


def test_everything_is_smaller_after_the_pruning_round() -> None:
    config = tiny(server={"ema_decay": 0.5}, local={"optimizer_state": "per_client"}, schedule={"rounds": 3})
    state = federate(config).state
    small = state.model.layout.num_params
    assert state.model.version == 1
    assert state.ema is not None
    assert state.ema.layout == state.model.layout
    assert state.client_states
    for kept in state.client_states.values():
        assert kept.version == 1
        assert {vector.shape for vector in kept.vectors.values()} == {(small,)}
    assert {edge.layout.num_params for edge in state.edge_models} == {small}


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


def test_the_moving_average_is_the_one_of_the_cloud_models() -> None:
    config = tiny(pruning={"mode": "none"}, schedule={"rounds": 2}, hierarchy={"cloud_period": 1})
    plain = [
        federate(tiny(pruning={"mode": "none"}, schedule={"rounds": rounds}, hierarchy={"cloud_period": 1})) for rounds in (1, 2)
    ]
    averaged = federate(config.model_copy(update={"server": config.server.model_copy(update={"ema_decay": 0.25})}))
    start = federate_start(config)
    first, second = (as_tensor(outcome.state.model.vector) for outcome in plain)
    expected = 0.25 * (0.25 * start + 0.75 * first) + 0.75 * second
    assert averaged.state.ema is not None
    assert torch.allclose(as_tensor(averaged.state.ema.vector), expected, atol=1e-6)
    assert np.array_equal(averaged.state.model.vector, plain[1].state.model.vector)


def federate_start(config: Config) -> torch.Tensor:
    experiment = config.build()
    state = initial_state(experiment.spec, experiment.seed)
    return Layout.of(state).flatten(state)


def test_a_client_whose_loss_is_not_finite_is_named_and_left_out() -> None:
    """Client 2's images are not numbers: the run goes on without it and says so."""
    config = tiny(schedule={"rounds": 2, "clients_per_round": 6}, pruning={"mode": "none"})
    experiment = config.build()
    images = experiment.dataset.images.copy()
    images[experiment.client_indices[2]] = np.nan
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
    assert np.array_equal(both.total, singles[0].total + singles[1].total)
    assert both.weights == tuple((float(len(experiment.client_indices[client])),) for client in (1, 4))
    assert both.label_counts.tolist() == experiment.population.label_counts[[1, 4]].sum(axis=0).tolist()
