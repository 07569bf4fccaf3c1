"""Laws of all methods, by listing: what must hold whatever a method does."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from federations import FLAT, METHODS, SHRINKING, federate, method, reference, shapes, tiny

from fedphd_ray.config import Config
from fedphd_ray.diffusion.unet import initial_state
from fedphd_ray.records import Kind, LocalOrder, Payload, Slice
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.events import Event, RoundDone
from fedphd_ray.runtime.storage.checkpoint import Checkpoints
from fedphd_ray.runtime.storage.places import LocalStorage
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.local_backend import LocalBackend
from fedphd_ray.strategies import AnyStrategy, FedPhD, Strategy
from fedphd_ray.tensors import Layout, as_tensor, digest

DENSE = {"pruning": {"mode": "none", "round": None}}


def test_every_strategy_is_tested() -> None:
    known = {strategy.model_fields["name"].default for strategy in get_args(get_args(AnyStrategy)[0])}
    assert known == {method(name).strategy.name for name in METHODS}


def test_methods_differ() -> None:
    """What a method adds is not lost on the way: no two end in the same model."""
    digests = {name: reference(name) for name in METHODS}
    assert len(set(digests.values())) == len(METHODS), digests


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SHRINKING])
def test_updates_of_zero_change_no_bit(name: str) -> None:
    """With a learning rate below what float32 resolves, the final model is the first one."""
    config = method(name, **DENSE, local={"learning_rate": 1e-60})
    experiment = config.build()
    start = initial_state(experiment.spec, experiment.seed)
    assert federate(config).sha256 == digest(start)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SHRINKING])
def test_no_steps_change_no_bit(name: str) -> None:
    """What the null job relies on, and nothing is divided by zero."""
    config = method(name, local={"steps": 0}, pruning={"mode": "none", "round": None})
    experiment = config.build()
    outcome = federate(config)
    assert not outcome.state.failures
    assert outcome.sha256 == digest(initial_state(experiment.spec, experiment.seed))


@pytest.mark.parametrize("name", METHODS)
def test_the_order_in_which_clients_are_trained_does_not_matter(name: str) -> None:
    """One client after the other on a used host, in either order: each comes out as from a fresh one."""
    config = method(name)
    experiment = config.build()
    state = initial_state(experiment.spec, 1)
    layout = Layout.of(state)
    vector = layout.flatten(state)
    server = experiment.strategy.initial_server(layout.num_params)
    payload = Payload(vector.numpy(), layout, 0, {name: server[name].numpy() for name in experiment.strategy.server_sends})
    slices = {} if experiment.submodels is None else {4: Slice(experiment.submodels.widths[-1], 1)}
    host, order = ClientHost(experiment.host_setup()), LocalOrder(1, 0, 1.0, 0.0, slices=slices)
    # The first round gives them states, the second uses them.
    states = {client: host.train(payload, order, (client,), (None,))[1][0] for client in (4, 1)}
    second = replace(order, round=2)
    together, kept = host.train(payload, second, (1, 4), (states[1], states[4]))
    singles = {}
    for client in (4, 1):
        fresh = ClientHost(experiment.host_setup())
        singles[client] = fresh.train(payload, second, (client,), (states[client],))
    covered = {Kind.COVERAGE} if experiment.submodels is not None else set()
    assert set(together.totals) == {Kind.MODEL, *experiment.strategy.clients_send} | covered
    for kind, total in together.totals.items():
        assert np.array_equal(total, singles[1][0].totals[kind] + singles[4][0].totals[kind])
    for own, client in zip(kept, (1, 4), strict=True):
        other = singles[client][1][0]
        assert (own is None) == (other is None)
        if own is not None:
            assert own.scalars == other.scalars
            assert all(np.array_equal(own.vectors[name], other.vectors[name]) for name in own.vectors)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("name", METHODS)
def test_resumed_is_uninterrupted(name: str, tmp_path: Path) -> None:
    """Stopped after round 2 (pruned then, where it is pruned), continued from the checkpoint by a driver that knows nothing."""
    config = method(name, checkpoint={"every": 1, "keep": 1})
    checkpoints = Checkpoints(LocalStorage(tmp_path), config.checkpoint)

    class Stop:
        def on_event(self, event: Event) -> None:
            if isinstance(event, RoundDone) and event.record.round == 3:
                raise Interrupted

    with pytest.raises(Interrupted):
        run(config, Stop(), checkpoints, None)
    outcome = run(config, None, checkpoints, checkpoints)
    assert outcome == reference(name)


def run(config: Config, reporter, checkpoints: Checkpoints, resume: Checkpoints | None) -> str:
    from federations import Recorder  # noqa: PLC0415

    from fedphd_ray.federation.channel.ledger import Ledger  # noqa: PLC0415

    experiment = config.build()
    backend = LocalBackend(experiment.host_setup())
    books = {"ledger": Ledger(), "reporter": reporter or Recorder(), "checkpoints": checkpoints}
    with Observer(experiment, backend, **books) as observer:
        cloud = Cloud(experiment, backend, observer)
        if resume is None:
            state = cloud.begin()
        else:
            found, warnings = resume.load_newest(backend)
            assert found is not None
            state = found[0]
            assert (state.round, warnings) == (2, [])
        model = cloud.run(state).delivered
    return digest(model.layout.views(as_tensor(model.vector)))


@pytest.mark.parametrize("name", [name for name in METHODS if not method(name).strategy.flat_only])
def test_one_edge_that_syncs_every_round_is_flat(name: str) -> None:
    one = federate(method(name, hierarchy={"num_edges": 1, "cloud_period": 1}))
    flat = federate(method(name, hierarchy=FLAT))
    assert one.sha256 == flat.sha256


UNEQUAL = {
    "data": shapes(4, {"name": "quantity", "alpha": 1.0, "min_images": 5}),
    "schedule": {"rounds": 1, "clients_per_round": 4},
}
WITH_EDGES = [name for name in METHODS if not method(name).strategy.flat_only]


@pytest.mark.parametrize("edges", [2, 4])
@pytest.mark.parametrize("name", [name for name in WITH_EDGES if name != "masked fedavg"])  # masks are averaged at each edge
def test_edges_that_sync_every_round_are_flat(name: str, edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client (or two) on each edge, of unequal sizes: to rounding the cloud's model is that of the flat federation.

    FedPhD draws its edges, and weighs them by homogeneity: here its clients stay where they are, and homogeneity weighs nothing.
    """
    monkeypatch.setattr(FedPhD, "choose_edges", Strategy.choose_edges)
    strategy = {"name": "fedphd", "balance": 0} if name.startswith("fedphd") else {}
    changes = UNEQUAL | {"pruning": {"mode": "none", "round": None}} | ({"strategy": strategy} if strategy else {})
    flat = federate(method(name, **changes, hierarchy=FLAT))
    tree = federate(method(name, **changes, hierarchy={"num_edges": edges, "cloud_period": 1}))
    moved = np.abs(flat.state.model.vector - initial_vector(name)).max()
    difference = np.abs(tree.state.model.vector - flat.state.model.vector).max()
    assert difference < 1e-4 * moved, (difference, moved)


def initial_vector(name: str) -> np.ndarray:
    experiment = method(name).build()
    state = initial_state(experiment.spec, experiment.seed)
    return Layout.of(state).flatten(state).numpy()


def test_the_reported_loss_is_the_noise_prediction_loss() -> None:
    """Whatever a method adds to it: MOON's term would make it a hundred times as large."""
    outcome = federate(method("moon", strategy={"name": "moon", "mu": 100.0}, local={"learning_rate": 1e-6}))
    plain = federate(method("fedavg", local={"learning_rate": 1e-6}))
    assert [record.loss for record in outcome.records] == pytest.approx([record.loss for record in plain.records], rel=1e-3)


@pytest.mark.parametrize(
    "strategy", [{"name": "feddiffuse", "mode": "full"}, {"name": "fedprox", "mu": 0}, {"name": "moon", "mu": 0}]
)
def test_methods_with_nothing_of_their_own_are_fedavg_bit_for_bit(strategy: dict[str, object]) -> None:
    assert federate(tiny(strategy=strategy)).sha256 == reference("fedavg")


def test_fednova_with_equal_steps_is_fedavg() -> None:
    """Every client has 20 images and 2 steps: a power of two, so that flat not even rounding differs."""
    equal = {"data": {"partition": {"name": "iid"}}, "local": {"batch_size": 10}}
    nova, fedavg = (federate(method(name, **equal, hierarchy=FLAT)) for name in ("fednova", "fedavg"))
    assert nova.sha256 == fedavg.sha256


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_flat_methods_refuse_edges(name: str) -> None:
    from fedphd_ray.errors import ConfigError  # noqa: PLC0415

    with pytest.raises(ConfigError, match="num_edges: 0"):
        tiny(strategy={"name": name})


def test_the_loss_that_is_reported_is_the_tasks_alone() -> None:
    """MOON's own term, mu log 2 where no model moves, is no part of it."""
    still = {
        "local": {"steps": 1, "learning_rate": 1e-12},
        "schedule": {"rounds": 2, "clients_per_round": 6},
        "pruning": {"mode": "none", "round": None},
    }
    losses = [federate(method("moon", strategy={"name": "moon", "mu": mu}, **still)).records[1].loss for mu in (0.001, 50.0)]
    assert losses == pytest.approx([federate(method("fedavg", **still)).records[1].loss] * 2)
