"""sFedHP: the smooth norm, the envelopes, the edges' steps, and what is kept and sent."""

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from federations import FLAT, Recorder, federate, method, outcome_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedphd_ray.config import parse_config
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.channel.sparsification import Threshold
from fedphd_ray.records import Kind, PartialUpdate, Payload
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.workers.edge_server import EdgeServer
from fedphd_ray.strategies import SFedHP, Strategy
from fedphd_ray.strategies.base import PERSONAL, Aggregate, LocalMethod, LocalStart
from fedphd_ray.strategies.sfedhp import smooth_l1, smooth_l1_gradient
from fedphd_ray.tensors import Layout
from fedphd_ray.views.page import page
from fedphd_ray.views.run_view import RunView

DENSE = {"mode": "none", "round": None}


@settings(deadline=None)  # the first backward pass starts threads
@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20), st.floats(1e-3, 10))
def test_the_smooth_norm_lies_below_the_norm_and_its_gradient_is_tanh(values: list[float], rho: float) -> None:
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    norm, smooth = float(x.detach().abs().sum()), smooth_l1(x, rho)
    assert norm - len(values) * rho * np.log(2) - 1e-9 * norm - 1e-12 <= float(smooth.detach()) <= norm * (1 + 1e-12) + 1e-12
    smooth.backward()
    assert torch.allclose(x.grad, smooth_l1_gradient(x.detach(), rho), atol=1e-12)  # type: ignore[arg-type]


def start(received: Tensor) -> LocalStart:
    layout = Layout(("w",), (tuple(received.shape),))
    return LocalStart(received, {}, {}, torch.nn.Identity(), layout, 0.1, lambda: torch.zeros(1))


def personal(b: float, received: float, own: SFedHP) -> float:
    """Where gradient steps on (t - b)^2 / 2 and what the method adds end."""
    local = own.local_method(start(torch.tensor([received], dtype=torch.float64)))
    t = local.initial().clone()
    for _ in range(2000):
        grad = t - b
        local.correct(grad, t)
        t -= 0.02 * grad
    return float(t)


def test_the_moreau_envelope_of_a_quadratic() -> None:
    """t = (b + lambda p) / (1 + lambda), and the envelope's gradient at p is lambda (p - t)."""
    own = SFedHP(lambda1=4.0, lambda2=1.0, gamma1=0.0, gamma2=0.0, edge_learning_rate=0.1)

    def envelope(p: float) -> float:
        t = personal(3.0, p, own)
        return (t - 3.0) ** 2 / 2 + own.lambda1 / 2 * (t - p) ** 2

    p = -1.0
    assert personal(3.0, p, own) == pytest.approx((3.0 + 4.0 * p) / 5.0, abs=1e-12)
    slope = (envelope(p + 1e-5) - envelope(p - 1e-5)) / 2e-5
    assert slope == pytest.approx(own.lambda1 * (p - personal(3.0, p, own)), rel=1e-6)


def test_the_norm_pulls_personal_models_towards_zero() -> None:
    found = [abs(personal(0.5, 0.2, SFedHP(lambda1=1.0, lambda2=1.0, gamma1=gamma))) for gamma in (0.0, 0.1, 0.3)]
    assert found[0] > found[1] > found[2]


def test_an_edge_by_hand() -> None:
    """Two rounds of a cycle in float64, and what the edge then sends."""
    own = SFedHP(lambda1=6.0, lambda2=3.0, gamma2=0.01, rho=0.1, edge_learning_rate=0.1, server_learning_rate=0.2)
    layout, rng = Layout(("w",), ((5,),)), np.random.default_rng(3)
    w = rng.normal(size=5).astype(np.float32)
    p = v = w.astype(np.float64)
    payload, edge = Payload(w, layout, 0), EdgeServer("edge/0", 1)
    for _ in range(2):
        theta = rng.normal(size=5).astype(np.float32)
        update = 7.0 * (theta - payload.vector)
        partial = PartialUpdate({Kind.MODEL: update}, ((7.0,),), np.array([7]), (), (), 0.0, 0.0)
        _, payload = edge.aggregate(0, payload, [1], own, True, partial)
        p = p - 0.1 * (6.0 * (p - theta) + 3.0 * (p - v) + 0.01 * np.tanh(p / 0.1))
        v = v - 0.2 * 3.0 * (v - p)
        assert np.allclose(payload.vector, p, atol=1e-6)
        assert np.allclose(payload.beside[Kind.ANCHOR], v, atol=1e-6)
    kept = {Kind.ANCHOR: torch.from_numpy(payload.beside[Kind.ANCHOR])}
    assert np.allclose(own.edge_sends(torch.from_numpy(payload.vector), kept).numpy(), v, atol=1e-6)
    empty = PartialUpdate({}, (), np.array([0]), (), (), 0.0, 0.0)
    _, same = edge.aggregate(0, payload, [1], own, True, empty)
    assert np.array_equal(same.vector, payload.vector)
    assert np.array_equal(same.beside[Kind.ANCHOR], payload.beside[Kind.ANCHOR])


class _Prox(LocalMethod):
    def correct(self, grad: Tensor, vector: Tensor) -> None:
        grad += 5.0 * (vector - self.start.received)


class PFedMe(Strategy):
    """Written after the paper: with one local round, w <- w - s (w - mean of the personal models)."""

    step: ClassVar[float] = 0.8 * (0.1 * 4.0) * (0.05 * 5.0)

    def local_method(self, start: LocalStart) -> LocalMethod:
        return _Prox(start)

    def server_step(self, aggregate: Aggregate, server: object) -> tuple[Tensor, dict[str, Tensor]]:
        return aggregate.base - self.step * (aggregate.base - aggregate.mean), {}


@pytest.mark.parametrize("hierarchy", [FLAT, {"num_edges": 1, "cloud_period": 1}], ids=["flat", "one edge"])
def test_without_the_norm_and_with_one_edge_it_is_pfedme(hierarchy: dict[str, object]) -> None:
    own = {
        "name": "sfedhp",
        "lambda1": 5.0,
        "lambda2": 4.0,
        "gamma1": 0.0,
        "gamma2": 0.0,
        "edge_learning_rate": 0.05,
        "server_learning_rate": 0.1,
        "mixing": 0.8,
    }
    config = method("fedavg", strategy=own, pruning=DENSE, hierarchy=hierarchy, local={"optimizer": "sgd", "learning_rate": 0.05})

    ours, theirs = federate(config), federate(replace(config.build(), strategy=PFedMe()))
    assert np.allclose(ours.state.model.vector, theirs.state.model.vector, atol=2e-6)
    begun = federate(method("fedavg", pruning=DENSE, local={"steps": 0})).state.model.vector
    assert np.abs(ours.state.model.vector - begun).max() > 1e-4


def test_a_strong_pull_leaves_everybody_at_the_edges_model() -> None:
    """As in HierFAVG without training: nobody moves."""

    local = {"optimizer": "sgd", "epochs": 20}

    def moved(pull: float) -> float:
        own = {"name": "sfedhp", "lambda1": pull, "lambda2": 1.0, "gamma1": 0.0, "gamma2": 0.0, "edge_learning_rate": 1e-5}
        outcome = federate(method("fedavg", strategy=own, pruning=DENSE, schedule={"rounds": 1}, local=local))
        states = outcome.state.client_states.values()
        begun = federate(method("fedavg", pruning=DENSE, schedule={"rounds": 1}, local={"steps": 0})).state.model.vector
        return max(float(np.abs(own.vectors[PERSONAL] - begun).max()) for own in states)  # type: ignore[attr-defined]

    assert moved(300.0) < 0.8 * moved(0.0)


def test_more_of_the_norm_sends_fewer_bytes() -> None:
    sizes = []
    for gamma in (0.0, 0.002, 0.01):
        own = {"name": "sfedhp", "gamma1": gamma, "gamma2": gamma, "rho": 0.01, "edge_learning_rate": 0.5}
        outcome = federate(method("sparse sfedhp", strategy=own, pruning=DENSE))
        sizes.append(
            sum(row.num_bytes for row in outcome.transfers if row.source.startswith("client") and row.kind == Kind.MODEL)
        )
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_ledger_has_what_was_written() -> None:
    """Bytes of the last upload from the density of the model that the client still has."""
    outcome = outcome_of("sparse sfedhp")
    last = max(row.round for row in outcome.transfers)
    checked = 0
    for row in outcome.transfers:
        if row.round == last and row.source.startswith("client") and row.kind == Kind.MODEL:
            state = outcome.state.client_states[int(row.source.partition("/")[2])]
            own = state.vectors[PERSONAL]  # type: ignore[attr-defined]
            assert row.num_bytes == Threshold.bytes_of(len(own), int((np.abs(own) >= np.float32(0.01)).sum()))
            checked += 1
    assert checked == 4


def test_nothing_but_the_anchor_goes_up() -> None:
    kinds = {str(row.kind) for row in outcome_of("sparse sfedhp").transfers}
    assert kinds == {"model", "plan"}


def test_clients_models_are_judged_and_delivered(tmp_path: Path) -> None:
    data = {"name": "digits", "num_clients": 6, "partition": {"name": "classes", "classes_per_client": 2}}
    config = method(
        "sfedhp", data=data, evaluation={"every": 4, "num_samples": 20, "steps": 2, "num_clients": 2}, strategy={"name": "sfedhp"}
    )
    summary = runs.run(config.build(), tmp_path / "run", Recorder())
    assert summary.fid is not None
    assert summary.personal_fid is not None
    assert summary.personal_kid is not None
    assert summary.personal_fid != summary.fid
    models = [tmp_path / "run" / "model", *sorted((tmp_path / "run" / "clients").glob("client-*"))]
    assert len(models) == 3
    for model in models:
        assert json.loads((model / "config.json").read_text())
    card = (models[1] / "README.md").read_text()
    assert f"each against the client's own images | {summary.personal_fid:.3f} (mean) |" in card
    assert f"| Frechet distance of the cloud's model | {summary.fid:.3f} |" in card
    assert f"<b>{summary.personal_fid:.2f}</b><span>FID of clients" in page([RunView.of(tmp_path / "run")])
    lines = [json.loads(line) for line in (tmp_path / "run" / "quality.jsonl").read_text().splitlines()]
    assert lines[0]["personal_fid"] is None  # nobody has trained
    assert lines[-1]["personal_fid"] == pytest.approx(summary.personal_fid)


@pytest.mark.parametrize("change", [{"lambda1": 1.3}, {"lambda2": 2.0, "edge_learning_rate": 0.1}, {"gamma2": 1e-3}])
def test_steps_that_diverge_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.(edge|server)_learning_rate"):
        parse_config({"model": {"widths": [16], "attention": [False], "groups": 4}, "strategy": {"name": "sfedhp", **change}})
