"""Two clients with quadratic losses, whose fixed points are known: each method against its published fixed point.

f_i(w) = a_i / 2 (w - b_i)^2, plain SGD on the full batch, in float64. Figures: ten digits, computed independently.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.sums.aggregation import VectorSum, apply_update, fold, weighted_models, weights_by_part
from fedphd_ray.federation.sums.server_optimizer import FedAdam, FedAvgM
from fedphd_ray.federation.training.local_training import LocalTrainer
from fedphd_ray.population import Population
from fedphd_ray.pruning.importance import SparsityPenalty
from fedphd_ray.records import ClientReport, EdgeReport, EdgeStatistics, LocalOrder
from fedphd_ray.strategies import FedAvg, FedDyn, FedNova, FedProx, Scaffold, Strategy
from fedphd_ray.strategies.base import Aggregate
from fedphd_ray.strategies.normalisation import client_weight, edge_weights, step_scale

LEARNING_RATE = 0.05
OPTIMUM = 29 / 11


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.weight


def quadratic(denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """The one "image" of a client is (a, b)."""
    a, b = images[0]
    return (a / 2 * (denoiser() - b) ** 2).sum()


def converged(
    strategy: Strategy,
    a: tuple[float, ...] = (1.0, 10.0),
    b: tuple[float, ...] = (-1.0, 3.0),
    steps: tuple[int, ...] = (10, 10),
    rounds: int = 100,
    optimizer: FedAvgM | FedAdam | None = None,
) -> float:
    model = FlatModel(Scalar())
    vector = torch.zeros(1, dtype=torch.float64)
    server = {name: value.double() for name, value in strategy.initial_server(1).items()}
    states = {}
    for round in range(1, rounds + 1):
        results, weights, total = [], [], VectorSum()
        for client in range(len(a)):
            config = LocalConfig(optimizer="sgd", learning_rate=LEARNING_RATE, epochs=steps[client], batch_size=1, clip_norm=None)
            trainer = LocalTrainer(config, strategy, quadratic, SparsityPenalty("channel"), seed=0)
            image = torch.tensor([[a[client], b[client]]], dtype=torch.float64)
            result = trainer.train(
                model,
                image,
                LocalOrder(round, 0, 1.0, 0.0),
                client=client,
                received=vector,
                version=0,
                beside={name: server[name] for name in strategy.server_sends},
                state=states.get(client),
            )
            states[client] = result.state
            results.append(result)
            weights.append(client_weight(strategy, 1, result.num_steps))
            total.add_weighted([(result.update, weights[-1])])
        scale = step_scale(strategy, [1] * len(a), [result.num_steps for result in results])
        mean = apply_update(vector, total.total, strategy.parts(model.layout), [sum(weights)], scale)
        beside = {name: fold(result.beside[name] for result in results) for name in strategy.clients_send}
        aggregate = Aggregate(vector, mean, beside, sum(weights), num_clients=len(a))
        new, kept = strategy.server_step(aggregate, server)
        if optimizer is not None:
            step, moments = optimizer.step(new - vector, server)
            new, kept = vector + step, kept | moments
        vector, server = new, kept
    return float(vector)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (FedAvg(), 1.8537686787),
        (FedProx(mu=0), 1.8537686787),
        (FedProx(mu=1), 1.9447515766),
        (FedProx(mu=10), 2.3847926990),
        (Scaffold(option="drift"), OPTIMUM),
        (Scaffold(option="mean_gradient"), OPTIMUM),
        (Scaffold(option="full_gradient"), OPTIMUM),
        (FedDyn(alpha=1), OPTIMUM),
        (FedNova(), 1.8537686787),
    ],
    ids=repr,
)
def test_fixed_points(strategy: Strategy, expected: float) -> None:
    assert converged(strategy) == pytest.approx(expected, abs=1e-6)


def test_unequal_steps_pull_fedavg_and_not_fednova_as_far() -> None:
    """One client takes 1 step a round, the other 20; FedNova removes the pull of the step counts (not that of the curvature)."""
    unequal = {"a": (1.0, 1.0), "steps": (1, 20)}
    assert converged(FedAvg(), **unequal) == pytest.approx(2.7107795684, abs=1e-6)
    for normalised in (FedNova(), FedAvg(normalise_steps=True)):
        assert converged(normalised, **unequal) == pytest.approx(0.5632252842, abs=1e-6)


@pytest.mark.parametrize(("strategy", "expected"), [(FedAvg(), 2.7107795684), (FedNova(), 0.5632252842)], ids=repr)
def test_a_client_on_each_of_two_edges_is_the_flat_federation(strategy: Strategy, expected: float) -> None:
    """The same quadratics, an edge for each client, the cloud every round."""
    vector, population = torch.zeros(1, dtype=torch.float64), Population(np.array([[1], [1]]))
    model = FlatModel(Scalar())
    parts = strategy.parts(model.layout)
    for round in range(1, 101):
        models, edges = [], []
        for client, (b, steps) in enumerate([(-1.0, 1), (3.0, 20)]):
            config = LocalConfig(optimizer="sgd", learning_rate=LEARNING_RATE, epochs=steps, batch_size=1, clip_norm=None)
            trainer = LocalTrainer(config, strategy, quadratic, SparsityPenalty("channel"), seed=0)
            image, order = torch.tensor([[1.0, b]], dtype=torch.float64), LocalOrder(round, client, 1.0, 0.0)
            result = trainer.train(model, image, order, client=client, received=vector, version=0)
            weight = client_weight(strategy, 1, result.num_steps)
            total = VectorSum()
            total.add_weighted([(result.update, weight)])
            models.append(apply_update(vector, total.total, parts, [weight], step_scale(strategy, [1], [result.num_steps])))
            reports = (ClientReport(client, client, 0.0, result.num_steps, steps, 1),)
            report = EdgeReport(client, weight, (weight,), np.array([1]), reports, (), 0.0, 0.0, 0.0)
            edges.append(EdgeStatistics.empty(1).after(report))
        weights = edge_weights(strategy, edges, population)
        vector = weighted_models(vector, models, parts, weights_by_part(edges, weights, len(parts)))
    assert float(vector) == pytest.approx(expected, abs=1e-6)


def test_option_two_is_the_mean_raw_gradient() -> None:
    """For plain SGD the two renewals of the control are one: after any number of rounds the models are the same."""
    for rounds in (1, 2, 7):
        drift, mean = (converged(Scaffold(option=option), rounds=rounds) for option in ("drift", "mean_gradient"))
        assert drift == pytest.approx(mean, abs=1e-12)


def test_a_wrong_sign_of_the_control_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above can fail: with the sign that is found in some published code, SCAFFOLD blows up."""
    from fedphd_ray.strategies import scaffold  # noqa: PLC0415

    def flipped(self, vector: Tensor, num_steps: int) -> Tensor:
        return self._own - self._server - (self.start.received - vector) / (num_steps * self.start.learning_rate)

    monkeypatch.setattr(scaffold._Drift, "renewed", flipped)
    assert not abs(converged(Scaffold(option="drift"), rounds=70)) < 1e6


def test_momentum_at_the_server_changes_the_way_and_not_the_end() -> None:
    assert converged(FedAvg(), optimizer=FedAvgM(momentum=0.5), rounds=120) == pytest.approx(1.8537686787, abs=1e-6)
    plain = converged(FedAvg(), rounds=3)
    assert converged(FedAvg(), optimizer=FedAvgM(momentum=0.0), rounds=3) == pytest.approx(plain, abs=1e-12)
    assert converged(FedAvg(), optimizer=FedAvgM(momentum=0.5), rounds=3) != pytest.approx(plain, abs=1e-3)


def test_first_step_of_fedadam_is_the_formula() -> None:
    delta = converged(FedAvg(), rounds=1)
    config = FedAdam(learning_rate=0.1, tau=1e-3)
    expected = 0.1 * 0.1 * delta / ((0.99 * 1e-3**2 + 0.01 * delta**2) ** 0.5 + 1e-3)  # v begins at tau^2
    assert converged(FedAvg(), optimizer=config, rounds=1) == pytest.approx(expected, rel=1e-6)
