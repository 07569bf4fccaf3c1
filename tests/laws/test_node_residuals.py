"""Edges and the cloud keep what their messages leave out: it telescopes, is saved and cut, and is the same everywhere."""

from functools import cache
from pathlib import Path

import pytest
import torch
from federations import DEEP, FLAT, Outcome, Recorder, StoppedHereError, Until, federate, method, sums_by_hop

from fedphd_ray.config import Config
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.channel.links import Link
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.tensors import as_tensor

INT4 = {"codec": "int4", "error_feedback": True}
KEPT = {"edge_to_cloud": INT4, "cloud_to_edge": INT4}
FORGOTTEN = {hop: {"codec": "int4"} for hop in KEPT}


def keeping(**sections: object) -> Config:
    given: dict[str, object] = {"schedule": {"rounds": 8}, "pruning": {"round": 4}, "communication": KEPT}
    return method("fedphd", **(given | sections))


@cache
def in_one_process() -> Outcome:
    return federate(keeping())


def test_both_ends_of_the_clouds_links_keep_theirs() -> None:
    state = in_one_process().state
    assert set(state.residuals) == {"edge_to_cloud:edge/0", "edge_to_cloud:edge/1", "cloud_to_edge:cloud"}
    assert all(own.shape == state.model.vector.shape for own in state.residuals.values())  # cut by the pruning
    assert all(float(abs(own).max()) > 0 for own in state.residuals.values())
    assert not federate(keeping(communication=FORGOTTEN)).state.residuals


def test_it_changes_what_arrives_and_not_what_it_costs() -> None:
    plain = federate(keeping(communication=FORGOTTEN))
    assert in_one_process().sha256 != plain.sha256
    assert sums_by_hop(in_one_process()) == sums_by_hop(plain) == forecast(keeping().build()).bytes_by_hop


def test_what_has_arrived_is_what_was_sent_less_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every sender, over all its messages of one architecture; whoever hears the same message counts once."""
    sent: dict[str, torch.Tensor] = {}
    arrived: dict[str, torch.Tensor] = {}
    heard: set[tuple[int, str]] = set()
    original = Link.send

    def listening(self: Link, message, residual=None):
        delivery = original(self, message, residual)
        if residual is not None and self.round <= 4 and (self.round, self.source) not in heard:
            heard.add((self.round, self.source))
            name = f"{self.hop}:{self.source}"
            model = message["model"].vector
            sent[name] = sent.get(name, 0) + model.double()
            arrived[name] = arrived.get(name, 0) + delivery.model.double()
        return delivery

    monkeypatch.setattr(Link, "send", listening)
    outcome = federate(keeping(schedule={"rounds": 4}, pruning={"mode": "none", "round": None}))
    assert set(sent) == set(outcome.state.residuals)
    for name, own in outcome.state.residuals.items():
        torch.testing.assert_close(arrived[name] + as_tensor(own).double(), sent[name], rtol=0, atol=1e-5)


@pytest.mark.ray
@pytest.mark.parametrize("placement", [Placement(2, False, ""), Placement(6, True, "")])
def test_same_bits_everywhere(placement: Placement, actor_pool: ActorPool) -> None:
    chosen = keeping()
    there = federate(chosen, RayBackend(chosen.build().host_setup(), placement, chosen.runtime, actor_pool))
    assert there.sha256 == in_one_process().sha256


@pytest.mark.parametrize("last", range(1, 8))
def test_it_goes_on_after_any_round(last: int, tmp_path: Path) -> None:
    experiment = keeping(checkpoint={"every": 1}).build()
    with pytest.raises(StoppedHereError):
        runs.run(experiment, tmp_path / "run", Until(last))
    assert runs.resume(experiment, tmp_path / "run", Recorder()).model_sha256 == in_one_process().sha256


def test_an_edge_that_is_away_has_lost_what_it_kept() -> None:
    devices = {"classes": [{"name": "a", "macs_per_second": 1e9, "download_mbit": 9, "upload_mbit": 9}]}
    outages = {"edges": {"outages": [{"edge": 1, "round": 7, "rounds": 2}]}}
    state = federate(keeping(devices=devices | outages)).state
    assert set(state.residuals) == {"edge_to_cloud:edge/0", "cloud_to_edge:cloud"}


@pytest.mark.parametrize(
    ("hierarchy", "communication"),
    [
        (FLAT, {"to_clients": INT4}),
        (DEEP, {"edge_to_region": INT4}),
        ({}, {"edge_to_client": INT4}),
        ({}, {"from_clients": {"codec": "threshold", "below": 0.1, "error_feedback": True}}),
    ],
)
def test_others_cannot_keep_any(hierarchy: dict[str, object], communication: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="senders keep what they left out over"):
        method("fedavg", hierarchy=hierarchy, communication=communication)


def test_regions_keep_theirs_towards_the_cloud() -> None:
    config = method(
        "fedavg", hierarchy=DEEP, schedule={"rounds": 8}, communication={"region_to_cloud": INT4}, pruning={"mode": "none"}
    )
    assert set(federate(config).state.residuals) == {"region_to_cloud:region/0", "region_to_cloud:region/1"}
