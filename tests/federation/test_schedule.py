"""Round plans are pure, complete, and know when to go to the cloud."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.schedule import Schedule, ScheduleConfig
from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics
from fedphd_ray.strategies import FedAvg, FedPhD, Strategy


def population(num_clients: int) -> Population:
    return Population(np.random.default_rng(3).integers(0, 50, size=(num_clients, 10)) + np.eye(num_clients, 10, dtype=np.int64))


@pytest.mark.parametrize("strategy", [FedPhD(), FedAvg()])
@given(st.integers(1, 30), st.integers(0, 5), st.integers(1, 7), st.integers(1, 40), st.data())
def test_every_client_of_the_cohort_is_in_one_block_of_its_edge(
    strategy: Strategy, num_clients: int, num_edges: int, block_size: int, round: int, data: st.DataObject
) -> None:
    cohort_size = data.draw(st.integers(1, num_clients))
    config = ScheduleConfig(rounds=40, clients_per_round=cohort_size, block_size=block_size)
    schedule = Schedule(config, HierarchyConfig(num_edges=num_edges, cloud_period=1), seed=11)
    edges = [EdgeStatistics.empty(10) for _ in schedule.topology.aggregators]
    plan = schedule.plan(round, strategy, population(num_clients), edges)
    assert list(plan.edge_of) == sorted(plan.edge_of)
    assert len(plan.edge_of) == cohort_size
    blocks = [block for edge in schedule.topology.aggregators for block in plan.blocks(edge)]
    placed = [(client, block.edge) for block in blocks for client in block.clients]
    assert sorted(placed) == sorted(plan.edge_of.items())
    assert all(0 < len(block.clients) <= block_size for block in blocks)
    assert all(list(block.clients) == sorted(block.clients) for block in blocks)
    assert plan == schedule.plan(round, strategy, population(num_clients), edges)


def test_synchronisations_lose_nothing() -> None:
    schedule = Schedule(ScheduleConfig(rounds=23), HierarchyConfig(cloud_period=5), seed=0, prune_rounds=[12])
    assert [round for round in range(1, 24) if schedule.sends_up(round)] == [5, 10, 12, 15, 20, 23]
    edges = [EdgeStatistics.empty(10)] * 2
    plans = [schedule.plan(round, FedPhD(), population(20), edges) for round in range(1, 24)]
    assert [plan.round for plan in plans if plan.at(1)] == [5, 10, 12, 15, 20, 23]
    assert [plan.round for plan in plans if plan.prunes] == [12]


def test_cohorts_depend_on_seed_and_round_and_not_on_the_method() -> None:
    edges = [EdgeStatistics.empty(10)] * 2

    def cohorts(seed: int, strategy: Strategy) -> list[list[int]]:
        schedule = Schedule(ScheduleConfig(), HierarchyConfig(), seed=seed)
        return [list(schedule.plan(round, strategy, population(20), edges).edge_of) for round in range(1, 20)]

    assert cohorts(1, FedPhD()) == cohorts(1, FedAvg())
    assert cohorts(1, FedPhD()) != cohorts(2, FedPhD())
    assert len({tuple(cohort) for cohort in cohorts(1, FedPhD())}) > 10


def test_every_client_is_drawn_equally_often() -> None:
    schedule = Schedule(ScheduleConfig(rounds=4000), HierarchyConfig(), seed=5)
    edges = [EdgeStatistics.empty(10)] * 2
    drawn = np.zeros(20)
    for round in range(1, 4001):
        drawn[list(schedule.plan(round, FedAvg(), population(20), edges).edge_of)] += 1
    assert drawn.sum() == 16_000
    assert np.abs(drawn - 800).max() < 5 * np.sqrt(800 * 0.8)  # binomial, five standard deviations
