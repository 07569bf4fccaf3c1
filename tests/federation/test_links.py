"""Links: receivers hold what arrives and nothing else. A codec that halves every vector is seen by all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from federations import FLAT, Outcome, federate, tiny

from fedphd_ray.diffusion.unet import initial_state
from fedphd_ray.federation.channel.codecs import Buffer, Codec, Noise
from fedphd_ray.federation.channel.communication import Codecs
from fedphd_ray.federation.channel.links import Counts, Link, Marks, Parameters
from fedphd_ray.federation.sums.aggregation import apply_update, weighted_models
from fedphd_ray.federation.update import Update
from fedphd_ray.records import Kind, LocalOrder, PartialUpdate, Payload
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.local_backend import LocalBackend
from fedphd_ray.strategies.parts import Part
from fedphd_ray.tensors import Layout, as_tensor
from fedphd_ray.topology import Hop


def halving() -> Codec:
    """Two bytes a parameter, and half of its value. (A class of a function travels to actors as it is.)"""

    class Halving:
        name = "half"
        exact = False
        of_weights = False
        fixed = True

        def num_bytes(self, num_values: int) -> int:
            return 2 * num_values

        def encode(self, values: torch.Tensor, noise: Noise) -> Buffer:
            self.sent = values / 2  # the halves exactly, beside a buffer of the size that is said
            return np.zeros(2 * len(values), np.uint8)

        def decode(self, data: Buffer, num_values: int, noise: Noise) -> torch.Tensor:
            return self.sent

    return Halving()


HEAD, TAIL = Part("head", (slice(0, 1), slice(3, 4))), Part("tail", (slice(1, 3),))


def test_an_exact_codec_hands_over_what_it_was_given() -> None:
    vector = torch.arange(4.0)
    delivery = Link(1, Hop("edge_to_cloud"), "edge/0", "cloud").send({Kind.MODEL: Parameters.whole(vector, 0)})
    assert delivery.model is vector
    (row,) = delivery.rows
    assert (row.codec, row.num_params, row.num_bytes) == ("float32", 4, 16)


def test_what_travels_is_what_the_codec_makes_of_it() -> None:
    link = Link(3, Hop("client_to_edge"), "client/1", "edge/0", halving(), attempt=2)
    trained, initial, counts = torch.arange(4.0) + 10, torch.ones(4), np.array([3, 5])
    delivery = link.send(
        {
            Kind.MODEL: Parameters.of_parts(Update.whole(trained, initial).only([HEAD]), [HEAD], 1),
            Kind.CONTROL: Parameters.whole(trained, 1),
            Kind.STATISTICS: Counts(counts),
            Kind.PLAN: Marks(9, 1),
        }
    )
    assert delivery.update.vector.tolist() == [4.5, 0, 0, 6.0]
    assert delivery.beside[Kind.CONTROL].tolist() == [5, 5.5, 6, 6.5]
    assert [(row.kind, row.codec, row.num_params, row.num_bytes, row.attempt) for row in delivery.rows] == [
        ("model", "half", 2, 4, 2),
        ("control", "half", 4, 8, 2),
        ("statistics", "int64", 2, 16, 2),
        ("plan", "bitmap", 9, 2, 2),
    ]
    assert trained.tolist() == [10, 11, 12, 13]


def test_entries_that_do_not_travel_are_left_alone() -> None:
    delivery = Link(1, Hop("cloud_to_edge"), "cloud", "edge/0", halving()).send(
        {Kind.MODEL: Parameters.of_parts(torch.arange(4.0), [TAIL], 0)}
    )
    assert delivery.model.tolist() == [0, 0.5, 1, 3]


def run_one_round(experiment: Experiment, place: str, request: pytest.FixtureRequest) -> Outcome:
    if place == "local":
        return federate(experiment, LocalBackend(experiment.host_setup()))
    placement = Placement(2, False, "") if place == "pooled" else Placement(6, True, "")
    pool = request.getfixturevalue("actor_pool")
    return federate(experiment, RayBackend(experiment.host_setup(), placement, experiment.runtime, pool))


def trained(experiment: Experiment, vector: torch.Tensor, layout: Layout, clients: list[int]) -> PartialUpdate:
    """What these clients make of a model, over links that carry it whole."""
    exact = replace(experiment, codecs=Codecs())
    server = experiment.strategy.initial_server(layout.num_params)
    payload = Payload(vector.numpy(), layout, 0, {name: server[name].numpy() for name in experiment.strategy.server_sends})
    order = LocalOrder(1, 0, 1.0, 0.0)
    partial, _ = ClientHost(exact.host_setup()).train(payload, order, clients, [None] * len(clients))
    return partial


@pytest.mark.ray
@pytest.mark.parametrize("place", ["local", "pooled", "dedicated"])
@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_clients_and_cloud_of_a_flat_federation_get_halves(name: str, place: str, request: pytest.FixtureRequest) -> None:
    experiment = tiny_of(name, FLAT)
    outcome = run_one_round(experiment, place, request)
    start, layout = random_model(experiment)
    partial = trained(experiment, start / 2, layout, outcome.records[0].participants)
    weights = [sum(row[0] for row in partial.weights)]
    expected = apply_update(start, as_tensor(partial.totals[Kind.MODEL]) / 2, experiment.strategy.parts(layout), weights)
    assert torch.equal(as_tensor(outcome.state.model.vector), expected)
    if name == "scaffold":
        assert np.array_equal(outcome.state.server["control"], partial.totals[Kind.CONTROL] / 2 / 6)
    assert {(row.codec, row.num_bytes) for row in outcome.transfers} == {("half", 2 * layout.num_params)}


@pytest.mark.ray
@pytest.mark.parametrize("place", ["local", "pooled", "dedicated"])
def test_every_tier_gets_halves_of_what_the_one_before_had(place: str, request: pytest.FixtureRequest) -> None:
    experiment = tiny_of("fedavg", {"num_edges": 2, "cloud_period": 1})
    outcome = run_one_round(experiment, place, request)
    start, layout = random_model(experiment)
    parts, models, images = experiment.strategy.parts(layout), [], []
    for edge in range(2):
        clients = [client for client in outcome.records[0].participants if client % 2 == edge]
        partial = trained(experiment, start / 4, layout, clients)
        images.append(sum(row[0] for row in partial.weights))
        models.append(apply_update(start / 2, as_tensor(partial.totals[Kind.MODEL]) / 2, parts, [images[-1]]) / 2)
    expected = weighted_models(start, models, parts, [np.array(images) / sum(images)])
    assert torch.equal(as_tensor(outcome.state.model.vector), expected)
    assert {row.hop for row in outcome.transfers if row.codec == "half"} == {
        "cloud_to_edge",
        "edge_to_client",
        "client_to_edge",
        "edge_to_cloud",
    }


def tiny_of(name: str, hierarchy: dict[str, object]) -> Experiment:
    sections: dict[str, object] = {"strategy": {"name": name}, "hierarchy": hierarchy, "pruning": {"mode": "none", "round": None}}
    config = tiny(**sections, schedule={"rounds": 1, "clients_per_round": 4, "block_size": 4})
    return replace(config.build(), codecs=Codecs(default=halving()))


def random_model(experiment: Experiment) -> tuple[torch.Tensor, Layout]:
    state = initial_state(experiment.spec, experiment.seed)
    layout = Layout.of(state)
    return layout.flatten(state), layout
