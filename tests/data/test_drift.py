"""Images pass from client to client in a ring: nothing is lost, sizes stay, and a mix becomes the next one's."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from federations import federate, method, sums_by_hop
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.data.drift import Drift, Ownership
from fedphd_ray.data.partition import counts_by_client
from fedphd_ray.errors import ConfigError
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.population import ClientRows, Population
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement

THREE = ClientRows.of([np.array([0, 1]), np.array([2, 3, 4]), np.array([5])])
LABELS = np.array([0, 0, 1, 1, 1, 2])


def test_by_hand() -> None:
    """One image a round from round 2: the ring is 0 1 | 2 3 4 | 5."""
    ownership = Ownership(THREE, LABELS, 3, Drift(images_per_round=1))
    assert [ownership.at(2)[client].tolist() for client in range(3)] == [[1, 2], [3, 4, 5], [0]]
    assert ownership.label_counts(2).tolist() == [[1, 1, 0], [0, 2, 1], [1, 0, 0]]
    assert [ownership.at(1)[client].tolist() for client in range(3)] == [[0, 1], [2, 3, 4], [5]]
    assert ownership.at(7).rows.tolist() == ownership.at(1).rows.tolist()  # once around


def test_it_begins_and_ends_when_it_is_told_to() -> None:
    drift = Drift(images_per_round=4, first_round=3, rounds=2)
    assert [drift.given_by(round) for round in range(1, 7)] == [0, 0, 4, 8, 8, 8]
    assert [Drift(images_per_round=4).given_by(round) for round in (1, 2, 3)] == [0, 4, 8]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 30), st.integers(1, 40))
def test_every_image_belongs_to_one_client_at_any_time(sizes: list[int], images: int, round: int) -> None:
    bounds = np.cumsum([0, *sizes])
    rows = ClientRows.of([np.arange(a, b) for a, b in pairwise(bounds)])
    labels = np.arange(bounds[-1]) % 4
    ownership = Ownership(rows, labels, 4, Drift(images_per_round=images))
    moved = ownership.at(round)
    assert moved.sizes.tolist() == sizes
    assert sorted(moved.rows.tolist()) == list(range(bounds[-1]))
    for client in range(len(sizes)):
        assert ownership.label_counts(round)[client].tolist() == np.bincount(labels[moved[client]], minlength=4).tolist()


def test_without_drift_nothing_moves() -> None:
    ownership = Ownership(THREE, LABELS, 3)
    assert ownership.at(9) is THREE


def drifting(name: str = "fedphd") -> dict[str, object]:
    return {"data": {**method(name).model_dump(mode="json")["data"], "drift": {"images_per_round": 7}}}


@pytest.mark.ray
def test_a_run_sees_it_and_has_the_same_bits_everywhere(actor_pool: ActorPool) -> None:
    """The planner, too: edges are chosen by what clients have then."""
    greedy = {"schedule": {"rounds": 8}, "hierarchy": {"edge_choice": {"name": "greedy"}}}
    config = method("fedphd", **drifting(), **greedy)
    one, usual = federate(config), federate(method("fedphd", **greedy))
    assert one.sha256 != usual.sha256
    assert any(a.edge_of != b.edge_of for a, b in zip(one.plans, usual.plans, strict=True))
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(one) == sums_by_hop(usual)
    there = federate(config, RayBackend(config.build().host_setup(), Placement(2, False, ""), config.runtime, actor_pool))
    assert there.sha256 == one.sha256


class Named(Ownership):
    """As the partition has it in the first round, and then with others."""

    def at(self, round: int) -> ClientRows:
        return self.rows if round == 1 else ClientRows(self.rows.offsets, np.roll(self.rows.rows, -50))

    def population(self, round: int) -> Population:
        return Population(counts_by_client(self.labels, self.at(round), self.num_classes))


@pytest.mark.parametrize("name", ["fedavg", "fedphd"])
def test_clients_train_on_what_they_have_then(name: str) -> None:
    """And are sent to edges by it."""
    rule = {} if name == "fedavg" else {"edge_choice": {"name": "greedy"}}
    greedy = {"hierarchy": rule, "schedule": {"rounds": 8}}  # in fewer, edges would be chosen alike
    drift = {"drift": {"images_per_round": 50, "rounds": 1}}
    experiment = method(name, data={**method(name).model_dump(mode="json")["data"], **drift}, **greedy).build()
    told = replace(experiment, drift=None)
    told.__dict__["ownership"] = Named(experiment.client_rows, experiment.dataset.labels, experiment.dataset.num_classes)
    outcome, expected = federate(experiment), federate(told)
    assert outcome.sha256 == expected.sha256 != federate(method(name, **greedy)).sha256
    assert [dict(plan.edge_of) for plan in outcome.plans] == [dict(plan.edge_of) for plan in expected.plans]
    foreseen = forecast(experiment).edges
    assert foreseen is not None
    sent = [list(record.homogeneity.values()) for record in outcome.records if record.round % 2 == 0]
    assert foreseen.homogeneity == pytest.approx(np.mean(sent))


def test_edges_count_what_clients_had_then() -> None:
    config = method("fedavg", **drifting())
    outcome, ownership = federate(config), config.build().ownership
    (plan,), record = [plan for plan in outcome.plans if plan.round == 3], outcome.records[2]
    for edge in (0, 1):
        clients = [client for client, own in plan.edge_of.items() if own == edge]
        counts = ownership.label_counts(3)[clients].sum(axis=0)
        share = counts / counts.sum()
        expected = 2 - float(np.linalg.norm(share - 0.1))
        assert record.homogeneity[edge] == pytest.approx(expected)


def test_models_of_ones_own_are_not_judged_by_images_of_others() -> None:
    with pytest.raises(ConfigError, match="clients' own models"):
        method("feddiffuse udec", **drifting("feddiffuse udec"))
