"""FedPhD's edge choice over many rounds, against the published simulation of the authors' rule (20 clients, 4 a round)."""

import numpy as np
import pytest

from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.schedule import Schedule, ScheduleConfig
from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics, distribution
from fedphd_ray.strategies import FedAvg, FedPhD, Strategy
from fedphd_ray.strategies.edge_choice import Choice, EdgeRule, Greedy, Nearest, OfTheStrategy, Random, Region, RoundRobin
from fedphd_ray.strategies.homogeneity import homogeneity_score, merge_distribution

ROUNDS = 2000
ITS_OWN = OfTheStrategy()


def cifar_population() -> Population:
    """20 clients of 2,500 images: clients 4g..4g+3 own classes g and g+5."""
    counts = np.zeros((20, 10), dtype=np.int64)
    for client in range(20):
        counts[client, [client // 4, client // 4 + 5]] = 1250
    return Population(counts)


def celeba_population() -> Population:
    """20 clients of one class each, 2/8/4/6 per class, as large as the official training split makes them."""
    counts = np.zeros((20, 4), dtype=np.int64)
    totals = [12_000, 83_200, 24_800, 43_200]
    owners = [label for label, clients in enumerate([2, 8, 4, 6]) for _ in range(clients)]
    for client, label in enumerate(owners):
        counts[client, label] = totals[label] // owners.count(label)
    return Population(counts)


def simulate(strategy: Strategy, population: Population, rule: EdgeRule = ITS_OWN, rounds: int = ROUNDS) -> dict[str, float]:
    hierarchy = HierarchyConfig(edge_choice=rule)  # type: ignore[arg-type]  # one of the union
    schedule = Schedule(ScheduleConfig(rounds=rounds, clients_per_round=4), hierarchy, seed=7)
    uniform = np.full(population.num_classes, 1 / population.num_classes)
    edges = [EdgeStatistics.empty(population.num_classes)] * 2
    scores, imbalances = [], []
    for round in range(1, rounds + 1):
        plan = schedule.plan(round, strategy, population, edges)
        for client, edge in plan.edge_of.items():
            edges[edge] = edges[edge].merge(population.label_counts[client])
        if plan.at(1):
            scores.append([homogeneity_score(edge.distribution, uniform) for edge in edges])
            sizes = [edge.num_samples for edge in edges]
            imbalances.append(abs(sizes[0] - sizes[1]) / sum(sizes))
            edges = [edge.reset() for edge in edges]
    worst = np.mean([min(pair) for pair in scores])
    return {"mean": float(np.mean(scores)), "worst": float(worst), "imbalance": float(np.mean(imbalances))}


def all_zero_share(strategy: FedPhD, population: Population) -> float:
    """Share of draws in which the ReLU cuts every edge, so that only the epsilon decides."""
    schedule = Schedule(ScheduleConfig(rounds=ROUNDS, clients_per_round=4), HierarchyConfig(), seed=7)
    balance = strategy.selection_balance
    balance = 4 * float(population.num_samples.mean()) if balance == "auto" else balance
    uniform = np.full(population.num_classes, 1 / population.num_classes)
    edges, cut, draws = [EdgeStatistics.empty(population.num_classes)] * 2, 0, 0
    for round in range(1, ROUNDS + 1):
        plan = schedule.plan(round, strategy, population, edges)
        for client in plan.edge_of:
            own = distribution(population.label_counts[client])
            samples = int(population.num_samples[client])
            merged = [merge_distribution(edge.distribution, edge.num_samples, own, samples) for edge in edges]
            scores = [
                balance * homogeneity_score(mix, uniform) - edge.num_samples for mix, edge in zip(merged, edges, strict=True)
            ]
            draws += 1
            cut += max(scores) <= 0
        for client, edge in plan.edge_of.items():
            edges[edge] = edges[edge].merge(population.label_counts[client])
        if plan.at(1):
            edges = [edge.reset() for edge in edges]
    return cut / draws


# Standard errors over 400 synchronisations are below 0.005 for scores and imbalance.
def test_fedphds_rule_gives_the_published_figures() -> None:
    figures = simulate(FedPhD(), cifar_population())
    assert figures["mean"] == pytest.approx(1.826, abs=0.008)
    assert figures["worst"] == pytest.approx(1.790, abs=0.010)
    assert figures["imbalance"] == pytest.approx(0.076, abs=0.010)


def test_sequential_knowledge_gives_the_published_figures() -> None:
    figures = simulate(FedPhD(knowledge="sequential"), cifar_population())
    assert figures["mean"] == pytest.approx(1.826, abs=0.008)
    assert figures["imbalance"] == pytest.approx(0.075, abs=0.010)


@pytest.mark.parametrize(
    ("rule", "mean", "imbalance"),
    [
        (OfTheStrategy(), 1.826, 0.076),
        (Random(name="random"), 1.816, 0.172),
        (Greedy(name="greedy"), 1.751, 0.729),
        (Greedy(name="greedy", knowledge="sequential"), 1.889, 0.970),
    ],
    ids=["fedphd", "random", "greedy", "greedy, sequential"],
)
def test_rules_give_the_published_figures(rule: EdgeRule, mean: float, imbalance: float) -> None:
    """Over 3,000 rounds."""
    figures = simulate(FedPhD(), cifar_population(), rule, 3000)
    assert figures["mean"] == pytest.approx(mean, abs=0.01)
    assert figures["imbalance"] == pytest.approx(imbalance, abs=0.015)


def test_rules_without_chance() -> None:
    population, edges = cifar_population(), [EdgeStatistics.empty(10)] * 3
    latency = np.ones((20, 3))
    latency[4] = [3, 1, 1]
    latency[5] = [0.5, 2, 2]

    def chosen(rule: EdgeRule, round: int) -> list[int]:
        rng = np.random.default_rng(0)
        drawn = rule.choose(Choice([3, 4, 5, 8], FedPhD(), population, edges, lambda client: latency[client], round, rng))
        assert {one.probability for one in drawn} == {1.0}
        return [one.edge for one in drawn]

    assert chosen(RoundRobin(name="round_robin"), 1) == [1, 2, 0, 1]
    assert chosen(RoundRobin(name="round_robin"), 2) == [2, 0, 1, 2]
    assert chosen(Region(name="region"), 1) == [0, 1, 2, 2]
    assert chosen(Nearest(name="nearest"), 1) == [0, 1, 0, 2]


def test_share_of_cut_draws_on_cifar() -> None:
    assert all_zero_share(FedPhD(), cifar_population()) == pytest.approx(0.108, abs=0.015)


def test_authors_constant_is_blind_on_celeba_and_the_automatic_one_is_not() -> None:
    population = celeba_population()
    assert all_zero_share(FedPhD(selection_balance=10_000), population) == pytest.approx(0.62, abs=0.03)
    assert all_zero_share(FedPhD(), population) == pytest.approx(0.18, abs=0.03)


def test_automatic_constants_are_the_authors_on_cifar() -> None:
    population, edges = cifar_population(), [EdgeStatistics(np.full(10, 500), 2500), EdgeStatistics(np.full(10, 250), 5000)]
    rng = np.random.default_rng
    automatic, fixed = FedPhD(), FedPhD(selection_balance=10_000, balance=50_000)
    assert automatic.choose_edges(range(20), population, edges, rng(0)) == fixed.choose_edges(
        range(20), population, edges, rng(0)
    )
    assert automatic.edge_weights(edges, population) == pytest.approx(fixed.edge_weights(edges, population))


def test_an_edge_nobody_chose_counts_as_homogeneous_for_fedphd_and_for_nothing_in_fedavg() -> None:
    population = cifar_population()
    edges = [EdgeStatistics.empty(10).merge(population.label_counts[0]), EdgeStatistics.empty(10)]
    phd = FedPhD().edge_weights(edges, population)
    assert phd[1] / phd[0] == pytest.approx((1 + 50_000 * 2) / (2500 + 50_000 * 1.367544), rel=1e-5)
    assert FedAvg().edge_weights(edges, population) == pytest.approx([1, 0])


def test_fedavg_keeps_clients_at_their_edge() -> None:
    population = cifar_population()
    edges = [EdgeStatistics.empty(10)] * 3
    chosen = FedAvg().choose_edges([0, 4, 7, 11], population, edges, np.random.default_rng(0))
    assert [one.edge for one in chosen] == [0, 1, 1, 2]
