"""Plans of simulated clients against hands: a model takes a second down and a second up, client c trains for work[c] seconds."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedphd_ray.devices.profiles import Devices
from fedphd_ray.federation.costs import Cost
from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.planner import planner
from fedphd_ray.federation.planning.policies import Buffered, Deadline, OverSelect, Policy, Wait
from fedphd_ray.federation.planning.schedule import ScheduleConfig
from fedphd_ray.plans import Contribution, RoundPlan
from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics
from fedphd_ray.strategies import FedAvg

MEGABYTE, RATE = 1e6, 8e6


@dataclass
class Load:
    """Takes the place of a `Workload`: messages of a megabyte, so many seconds of work."""

    seconds: list[float]
    holding: list[list[bool]]
    cost: Cost = field(default_factory=lambda: Cost(1, 1))

    narrowing: None = None
    away: frozenset[int] = frozenset()

    def download_bytes(self, client: int, width: float) -> float:
        return MEGABYTE

    def upload_bytes(self, width: float, parts: object) -> float:
        return MEGABYTE

    def slices(self, clients: object, round: int) -> dict[int, object]:
        return {}

    @property
    def memory_of_all(self) -> NDArray[np.float64]:
        return np.ones(len(self.seconds))

    def handed_down_bytes(self, level: int) -> float:
        return MEGABYTE

    def sent_up_bytes(self, level: int) -> float:
        return MEGABYTE

    def width(self, client: int) -> float:
        return 1.0

    def work(self, client: int, width: float) -> float:
        return self.seconds[client]


def plans(policy: Policy, work: list[float], rounds: int, wanted: int, num_edges: int = 0, period: int = 1) -> list[RoundPlan]:
    """The first plans; links between nodes take half a second, and edges share nothing."""
    num, nodes = len(work), max(1, num_edges)
    alike = lambda value, size: np.full(size, float(value))  # noqa: E731
    devices = Devices(
        kinds=("x",) * num,
        speed=alike(1, num),
        memory_bytes=alike(1e9, num),
        download=alike(RATE, num),
        upload=alike(RATE, num),
        latency=alike(0, num),
        node_rate=alike(np.inf, nodes),
        node_download=alike(2 * RATE, nodes),
        node_upload=alike(2 * RATE, nodes),
        node_latency=alike(0, nodes),
        detour=np.zeros((num, nodes)),
    )
    config = ScheduleConfig(rounds=99, clients_per_round=wanted, policy=policy)
    schedule = planner(config, HierarchyConfig(num_edges=num_edges, cloud_period=period), 0, (), devices)
    population = Population(np.ones((num, 1), np.int64))
    made: list[RoundPlan] = []
    for round in range(1, rounds + 1):
        fresh = not made or round % period == 1 % period
        load: Any = Load(work, [[not fresh] * nodes])
        memory = made[-1].memory if made else {}
        made.append(schedule.plan(round, FedAvg(), population, [EdgeStatistics.empty(1)] * nodes, memory, load))
    return made


def used(plan: RoundPlan) -> list[Contribution]:
    return [each for leaf in plan.at(0) for each in leaf.contributions]


def test_a_buffer_of_two_with_a_stale_update() -> None:
    """All three start at 0: 0 is done at 3, 1 at 4 and 2 at 8. Two fill the buffer at 4, and start again from version 2.

    0 is done at 7 and 1 at 8, the same moment as 2: the second buffer takes 0 and 1, the first to come. Those two start at 8, 0
    is done at 11, and with 2's update, two aggregations old, the third buffer is full.
    """
    first, second, third = plans(Buffered(name="buffered", size=2), [1, 2, 6], 3, wanted=3)
    assert used(first) == used(second) == [Contribution(0), Contribution(1)]
    assert used(third) == [Contribution(2, 1, pytest.approx(3**-0.5)), Contribution(0)]
    assert [plan.sim_seconds for plan in (first, second, third)] == pytest.approx([4, 8, 11], abs=1e-9)
    late = next(flight for flight in third.flights if flight.client == 2)
    assert (late.version, late.started, late.arrived) == (1, 0.0, pytest.approx(8, abs=1e-9))


def test_who_is_too_stale_is_stopped() -> None:
    """No aggregation may be missed: 2 is told to stop at 4, when the first buffer is full. It has the model, and sent nothing."""
    policy = Buffered(name="buffered", size=2, most_stale=0)
    first, second = plans(policy, [1, 2, 6], 2, wanted=3)
    stopped = next(flight for flight in first.flights if flight.client == 2)
    assert (stopped.fate, stopped.ended, stopped.received, stopped.sent) == ("stale", pytest.approx(4), 1.0, 0.0)
    assert used(second) == [Contribution(0), Contribution(1)]


def test_over_selection_takes_the_first_ones() -> None:
    """Asked are all four, wanted two: 1 and 3 are there after 3 and 4 s; 0 is stopped while it trains, 2 has sent half."""
    (plan,) = plans(OverSelect(name="over_select", extra=2), [9, 1, 2.5, 2], 1, wanted=2)
    assert used(plan) == [Contribution(1), Contribution(3)]
    assert plan.sim_seconds == pytest.approx(4, abs=1e-9)
    fates = {flight.client: (flight.fate, flight.sent) for flight in plan.flights}
    assert fates == {0: ("surplus", 0.0), 1: ("", 1.0), 2: ("surplus", pytest.approx(0.5)), 3: ("", 1.0)}


def test_edges_go_on_by_themselves_between_synchronisations() -> None:
    """Clients 0 and 2 at edge 0 (3 and 6 s a round), 1 at edge 1 (12 s), the cloud every second round.

    Given the model at 0.5, edge 0 is done at 6.5 and 12.5, edge 1 at 12.5 and 24.5; the cloud at 25, half a second after it.
    """
    first, second = plans(Wait(), [1, 10, 4], 2, wanted=3, num_edges=2, period=2)
    assert first.sim_seconds == pytest.approx(12.5, abs=1e-9)
    assert second.memory["clock"].tolist() == pytest.approx([12.5, 24.5, 25.0], abs=1e-9)
    assert second.sim_seconds == pytest.approx(25.0, abs=1e-9)


def test_a_deadline_counts_from_the_edges_own_beginning() -> None:
    """Edge 0 ends its first round at 5.5, its second at 10.5; edge 1 at 8.5 (the deadline of 8 s) and 16.5."""
    plan = plans(Deadline(name="deadline", seconds=8), [1, 7, 3], 2, wanted=3, num_edges=2, period=9)[-1]
    assert plan.memory["clock"].tolist() == pytest.approx([10.5, 16.5, 0.0], abs=1e-9)
    assert [flight.client for flight in plan.flights if flight.fate == "late"] == [1]
