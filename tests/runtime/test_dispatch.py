"""Which host trains what: every client once, in units that an edge can add up in the plan's order, and no host much later."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedphd_ray.plans import Block
from fedphd_ray.runtime.policy.dispatch import HostTimes, Unit, assign, balanced, runs, single_clients, sums_of, whole_blocks

BLOCKS = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3)
"""Per edge, the sizes of its blocks."""


def blocks_of(sizes: list[list[int]]) -> list[list[Block]]:
    ids = iter(range(1000))
    return [[Block(edge, tuple(next(ids) for _ in range(size))) for size in own] for edge, own in enumerate(sizes)]


@given(BLOCKS, st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.data())
def test_units_are_prefixes_and_single_clients_and_cover_the_round(sizes, paces, data) -> None:
    blocks = blocks_of(sizes)
    clients = [client for own in blocks for block in own for client in block.clients]
    costs = {client: float(data.draw(st.integers(1, 50))) for client in clients}
    queues = balanced(whole_blocks(blocks, costs), costs, paces, 0.0)
    units = [unit for queue in queues for unit in queue]
    assert sorted(client for unit in units for client in unit.clients) == clients
    for unit in units:
        block = blocks[unit.task][unit.block]
        assert block.clients[unit.start : unit.start + len(unit.clients)] == unit.clients
        assert unit.start == 0 or len(unit.clients) == 1
        assert unit.cost == pytest.approx(sum(costs[client] for client in unit.clients))


@given(BLOCKS, st.integers(1, 12))
def test_runs_are_first_blocks_up_to_a_limit(sizes, most) -> None:
    blocks = blocks_of(sizes)
    costs = dict.fromkeys(range(sum(map(sum, sizes))), 1.0)
    units = whole_blocks(blocks, costs)
    groups = runs(units, most)
    assert [unit for group in groups for unit in group] == units
    for group in (group for group in groups if len(group) > 1):
        assert {unit.task for unit in group} == {group[0].task}
        assert [unit.block for unit in group] == list(range(len(group)))
        assert sum(unit.cost for unit in group) <= most


def test_an_edges_first_blocks_stay_together_where_that_costs_nothing() -> None:
    costs = dict.fromkeys(range(20), 1.0)
    units = whole_blocks(blocks_of([[5, 5, 1], [5, 4]]), costs)
    queues = balanced(units, costs, [1.0, 1.0], 0.0)
    assert [[(unit.task, unit.block) for unit in queue] for queue in queues] == [[(0, 0), (0, 1)], [(1, 0), (1, 1), (0, 2)]]
    uneven = whole_blocks(blocks_of([[3, 3, 3], [1]]), costs)  # together they would end at 6, apart at 5
    assert sorted(sum(unit.cost for unit in queue) for queue in balanced(uneven, costs, [1.0, 1.0], 0.0)) == [5.0, 5.0]
    assert sorted(sum(unit.cost for unit in queue) for queue in balanced(uneven, costs, [1.0, 1.0], 2.0)) == [4.0, 6.0]


@given(BLOCKS, st.data())
def test_a_host_adds_up_only_what_the_edge_would_add_up_first(sizes, data) -> None:
    """Random calls, whole blocks and pieces: the edge's sum over what hosts return is the sum over all blocks, bit by bit."""
    blocks = blocks_of(sizes)
    costs = dict.fromkeys(range(100), 1.0)
    whole = whole_blocks(blocks, costs)
    units = [piece for unit in whole for piece in ([unit] if data.draw(st.booleans()) else single_clients([unit], costs))]
    calls: dict[int, list[Unit]] = {}
    for unit in units:
        calls.setdefault(data.draw(st.integers(0, 1)), []).append(unit)
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)

    def fold(vectors):
        return functools.reduce(np.add, vectors)

    arrived: dict[tuple[int, int, int], np.ndarray] = {}
    for call in calls.values():
        for group in sums_of(call, blocks):
            first = group[0]
            arrived[first.task, first.block, first.start] = fold(
                [fold([values[client] for client in unit.clients]) for unit in group]
            )
    for task, own in enumerate(blocks):
        pieces = [[arrived[key] for key in sorted(arrived) if key[:2] == (task, index)] for index in range(len(own))]
        expected = fold([fold([values[client] for client in block.clients]) for block in own])
        assert fold([fold(block) for block in pieces if block]).tobytes() == expected.tobytes()


def test_blocks_are_split_only_where_that_ends_the_round_earlier() -> None:
    costs = dict.fromkeys(range(10), 1.0)
    even = whole_blocks(blocks_of([[5, 5]]), costs)
    assert [[unit.clients for unit in queue] for queue in balanced(even, costs, [1, 1], 0.0)] == [
        [(0, 1, 2, 3, 4)],
        [(5, 6, 7, 8, 9)],
    ]
    odd = whole_blocks(blocks_of([[4]]), costs)
    assert [sorted(client for unit in queue for client in unit.clients) for queue in balanced(odd, costs, [1, 1], 0.0)] == [
        [0, 1],
        [2, 3],
    ]
    assert balanced(odd, costs, [1, 1], 10.0) == [odd, []]  # no split could save ten seconds


def test_a_slow_host_is_given_less() -> None:
    costs = dict.fromkeys(range(12), 1.0)
    queues = balanced(whole_blocks(blocks_of([[4, 4, 4]]), costs), costs, [1.0, 3.0], 0.0)
    shares = [sum(unit.cost for unit in queue) for queue in queues]
    assert shares == [9.0, 3.0]


def test_the_longest_come_first() -> None:
    units = [Unit(0, index, 0, (index,), cost) for index, cost in enumerate([1.0, 5.0, 3.0])]
    queues = assign([[unit] for unit in units], [1.0, 1.0])
    assert [[unit.cost for (unit,) in queue] for queue in queues] == [[5.0], [3.0, 1.0]]


def ends(queues: list[list[Unit]], paces: list[float]) -> list[float]:
    return [sum(unit.cost for unit in queue) * pace for queue, pace in zip(queues, paces, strict=True)]


def moves(queues: list[list[Unit]], far: list[list[bool]]) -> int:
    """How many units are trained on another node than their edge's."""
    return sum(far[unit.task][host] for host, queue in enumerate(queues) for unit in queue)


@pytest.mark.parametrize("paces", [[1.0, 1.0], [1.0, 0.97], [0.97, 1.0]])
def test_hosts_train_for_edges_of_their_node(paces: list[float]) -> None:
    """Two nodes, each with an edge and a host: nothing needs to travel, in whatever order the hosts are fast."""
    costs = dict.fromkeys(range(24), 1.0)
    for sizes in ([[3, 3], [3, 3]], [[3, 3, 3, 3], [3, 3, 3, 3]], [[6], [6]]):
        units = whole_blocks(blocks_of(sizes), costs)
        for far in ([[False, True], [True, False]], [[True, False], [False, True]]):
            assert moves(balanced(units, costs, paces, 1.0, far), far) == 0


@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=2, max_size=4),
    st.lists(st.sampled_from([1.0, 1.0, 1.1, 2.0]), min_size=2, max_size=4),
    st.data(),
)
@settings(max_examples=400)
def test_nearness_costs_no_time(sizes, paces, data) -> None:
    """All units are there still, no more of them travel, and no host ends later than hosts may without it."""
    blocks = blocks_of(sizes)
    costs = {client: float(data.draw(st.integers(1, 4))) for own in blocks for block in own for client in block.clients}
    gain = data.draw(st.sampled_from([0.0, 1000.0]))
    nodes = data.draw(st.lists(st.integers(0, 2), min_size=len(paces), max_size=len(paces)))
    far = [[node != data.draw(st.integers(0, 2)) for node in nodes] for _ in blocks]
    units = whole_blocks(blocks, costs)
    before, after = balanced(units, costs, paces, gain), balanced(units, costs, paces, gain, far)
    everything = sorted((unit for queue in before for unit in queue), key=lambda unit: (unit.task, unit.block, unit.start))
    assert sorted((unit for queue in after for unit in queue), key=lambda unit: (unit.task, unit.block, unit.start)) == everything
    assert moves(after, far) <= moves(before, far)
    late = ends(before, paces)
    assert max(ends(after, paces)) <= max(*late, 1.05 * sum(late) / len(late)) * (1 + 1e-6)


def test_dedicated_hosts_are_given_single_clients() -> None:
    costs = {0: 1.0, 1: 2.0, 2: 3.0}
    whole = whole_blocks([[Block(0, (0, 1, 2))]], costs)
    assert single_clients(whole, costs) == [
        replace(whole[0], start=client, clients=(client,), cost=cost) for client, cost in costs.items()
    ]


def test_times_are_learnt_and_forgotten() -> None:
    times = HostTimes(3)
    assert not times.known
    assert times.seconds_per_image == [1.0, 1.0, 1.0]
    times.observe(0, cost=10, seconds=20)
    assert times.seconds_per_image == [2.0, 2.0, 2.0]
    times.observe(1, cost=10, seconds=40)
    assert times.seconds_per_image == [2.0, 4.0, 3.0]
    times.observe(0, cost=10, seconds=10)
    assert times.seconds_per_image[0] == pytest.approx(2 + 0.3 * (1 - 2))
    times.forget(1)
    assert times.seconds_per_image[1] == pytest.approx(1.7)
