"""The driver of a round over scripted actors, without Ray: orders, deaths, blame and deadlines, in milliseconds.

The actors add real numbers, in an order that chance decides and with deaths where it wants them: what edges end with must have
the bits of one process all the same.
"""

import functools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.errors import RunFailedError
from fedphd_ray.plans import Block
from fedphd_ray.records import EdgeReport, LocalOrder
from fedphd_ray.runtime.on_ray.calls import TICK_SECONDS, Wires
from fedphd_ray.runtime.on_ray.round import RayRound, RoundRules
from fedphd_ray.runtime.policy.dispatch import HostTimes, single_clients, whole_blocks
from fedphd_ray.runtime.policy.failures import FailureConfig
from fedphd_ray.runtime.policy.faults import FaultScript
from fedphd_ray.runtime.workers.backend import EdgeOutcome, EdgeTask
from fedphd_ray.strategies import FedAvg

VALUES = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
COSTS = dict.fromkeys(range(100), 1.0)


def fold(vectors: Sequence[np.ndarray | None]) -> np.ndarray | None:
    given = [vector for vector in vectors if vector is not None]
    return functools.reduce(np.add, given) if given else None


@dataclass(eq=False)
class Actor:
    """One process: calls wait in its queue until it does them."""

    world: "World"
    name: str
    calls: deque = field(default_factory=deque)
    alive: bool = True
    lost: bool = False  # out of reach: it may well be alive

    def __getattr__(self, method: str) -> "Method":
        return Method(self, method)


@dataclass
class Method:
    actor: Actor
    name: str

    def options(self, **_: object) -> "Method":
        return self

    def remote(self, *args: object) -> list[object]:
        refs = [object() for _ in range(30)]
        self.actor.calls.append((self.name, args, refs))
        self.actor.world.trained += [(self.actor.name, args[0])] if self.name == "train" else []
        return refs


class World:
    """Actors, a clock, and chance: who does the next thing, and who dies instead."""

    def __init__(self, num_hosts: int, num_edges: int, seed: int = 0, deaths: int = 0) -> None:
        self.hosts = [Actor(self, f"host/{index}") for index in range(num_hosts)]
        self.servers = [Actor(self, f"edge/{index}") for index in range(num_edges)]
        self.chance, self.deaths = random.Random(seed), deaths
        self.values: dict[object, object] = {}
        self.failed: dict[object, Exception] = {}
        self.trained: list[tuple[str, object]] = []
        self.waits: list[float] = []
        self.replaced: list[str] = []
        self.late: set[int] = set()
        self.clock = 0.0
        self.hangs = False

    # What the pool does.

    def replace(self, actor: Actor, why: str) -> None:
        for kind in (self.hosts, self.servers):
            if actor in kind:
                kind[kind.index(actor)] = Actor(self, actor.name)
                self.replaced.append(why)

    def require_replacements(self) -> None:
        pass

    def overdue(self, round: int, client: int) -> bool:
        return client in self.late

    # What Ray does.

    @property
    def wires(self) -> Wires:
        return Wires(self.wait, self.get, lambda: self.clock)

    def wait(self, refs: Sequence[object], seconds: float) -> Sequence[object]:
        self.waits.append(seconds)
        if self.hangs:
            self.clock += seconds
            return []
        while not (there := [ref for ref in refs if ref in self.values or ref in self.failed]):
            busy = [actor for actor in [*self.hosts, *self.servers] if actor.calls]
            actor = self.chance.choice(busy)
            if self.deaths and self.chance.random() < 0.3:
                self.deaths -= 1
                self.kill(actor)
            else:
                self.work(actor)
        return [self.chance.choice(there)]

    def get(self, ref: object) -> object:
        if ref in self.failed:
            raise self.failed[ref]
        return self.values[ref]

    def kill(self, actor: Actor, error: Exception | None = None) -> None:
        for _, _, refs in actor.calls:
            self.failed[refs[0]] = error or ray.exceptions.ActorDiedError()
        actor.calls.clear()

    def work(self, actor: Actor) -> None:
        name, args, refs = actor.calls.popleft()
        self.values |= dict(zip(refs, getattr(self, f"_{name}")(actor, *args), strict=False))

    def _train(self, actor, orders, groups, num_models, *values):
        sums = [fold([VALUES[client] for client in clients]) for _, _, clients in orders]
        rest = iter(sums)
        return [[0.1] * len(orders), *(fold(list(islice(rest, size))) for size in groups)]

    def _fold(self, actor, sizes, *partials):
        return [0.1, self._sum(sizes, partials)]

    def _aggregate(self, actor, edge, model, sizes, strategy, fresh, *partials):
        edge = int(actor.name.partition("/")[2])
        return [EdgeReport(edge, 0.0, (), np.zeros(2), (), (), 0.0, 0.0, 0.0), self._sum(sizes, partials)]

    def _sum(self, sizes: Sequence[int], partials: Sequence[object]) -> np.ndarray | None:
        rest = iter([self.values[ref] for ref in partials])
        return fold([fold(list(islice(rest, size))) for size in sizes])


def tasks_of(sizes: Sequence[Sequence[int]]) -> list[EdgeTask]:
    """Edges with blocks of so many clients."""
    clients, order = iter(range(100)), LocalOrder(1, 0, 1.0, 0.0)
    return [
        EdgeTask(edge, f"model {edge}", tuple(Block(edge, tuple(islice(clients, size))) for size in own), order, FedAvg(), {})
        for edge, own in enumerate(sizes)
    ]


def run(world: World, tasks: Sequence[EdgeTask], *, single: bool = False, retries: int = 20, deadline: float = 1e9):
    """The round; per edge what it sums up to, and the outcomes."""
    units = whole_blocks([task.blocks for task in tasks], COSTS)
    units = single_clients(units, COSTS) if single else units
    queues = [units[host :: len(world.hosts)] for host in range(len(world.hosts))]

    def leave_out(client: int, edge: int, reason: str, outcome: object) -> object:
        world.left_out = [*getattr(world, "left_out", []), (client, reason)]
        ref = object()
        world.values[ref] = None
        return ref

    failures = FailureConfig(client_retries=retries, client_timeout_seconds=3.0)
    rules = RoundRules(False, False, COSTS, failures, FaultScript(), leave_out)
    round = RayRound(world, tasks, queues, HostTimes(len(world.hosts)), rules, deadline, world.wires)
    outcomes = round.run()
    return [world.values[outcome.model] for outcome in outcomes], outcomes


def reference(tasks: Sequence[EdgeTask], without: Sequence[int] = ()) -> list[np.ndarray | None]:
    """The same in one process, in the plan's order."""
    return [
        fold([fold([VALUES[client] for client in block.clients if client not in without]) for block in task.blocks])
        for task in tasks
    ]


SIZES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=12), min_size=1, max_size=3)


@given(SIZES, st.integers(1, 3), st.integers(0, 10_000), st.integers(0, 6), st.booleans())
def test_whoever_ends_first_and_whoever_dies_the_sums_have_the_same_bits(sizes, hosts, seed, deaths, single) -> None:
    tasks = tasks_of(sizes)
    world = World(hosts, len(tasks), seed, deaths)
    sums, outcomes = run(world, tasks, single=single)
    assert [outcome.report.edge for outcome in outcomes] == list(range(len(tasks)))
    for own, expected in zip(sums, reference(tasks), strict=True):
        assert own.tobytes() == expected.tobytes()
    assert not hasattr(world, "left_out")


def test_only_what_a_dead_host_had_begun_counts_as_an_attempt() -> None:
    """Of two calls at one host the first is to blame; the second is only made again."""
    tasks = tasks_of([[2, 2]])
    world = World(1, 1)
    world.deaths = 1
    world.chance.random = lambda: 0.0
    _, (outcome,) = run(world, tasks)
    assert outcome.lost == ((0, 0), (1, 0))
    again = [(order.attempt, tuple(clients)) for _, orders in world.trained[2:] for _, order, clients in orders]
    assert sorted(again) == [(0, (2, 3)), (1, (0,)), (1, (1,))]
    assert len(world.replaced) == 1


def test_a_host_that_is_only_out_of_reach_is_not_to_blame() -> None:
    tasks = tasks_of([[2]])
    world = World(1, 1)
    kill = world.kill
    world.deaths, world.chance.random = 1, lambda: 0.0
    world.kill = lambda actor: kill(actor, ray.exceptions.ActorUnavailableError("the call got lost", None))
    _, (outcome,) = run(world, tasks)
    assert not outcome.lost
    assert [order.attempt for _, orders in world.trained for _, order, _ in orders] == [0, 0]


def test_a_client_that_kills_every_host_is_left_out_with_what_it_was_sent_counted() -> None:
    tasks, world = tasks_of([[1, 1]]), World(1, 1)
    work = world.work

    def deadly(actor: Actor) -> None:
        name, args, _ = actor.calls[0]
        if name == "train" and any(1 in clients for _, _, clients in args[0]):
            world.kill(actor)
        else:
            work(actor)

    world.work = deadly
    (total,), (outcome,) = run(world, tasks, retries=2)
    assert world.left_out == [(1, "its host died 3 times while it was trained")]
    assert [lost for lost in outcome.lost if lost[0] == 1] == [(1, 0), (1, 1), (1, 2)]
    assert total.tobytes() == reference(tasks, without=[1])[0].tobytes()


def test_a_client_whose_host_ended_itself_is_left_out_at_once() -> None:
    tasks, world = tasks_of([[1, 1]]), World(1, 1)
    world.late, world.deaths, world.chance.random = {0}, 1, lambda: 0.0
    run(world, tasks)
    assert world.left_out == [(0, "no answer within failures.client_timeout_seconds = 3")]


def test_every_wait_ends_and_the_deadline_names_who_is_late() -> None:
    world = World(2, 1)
    world.hangs = True
    with pytest.raises(RunFailedError, match=r"no answer within runtime.round_timeout_seconds from host/0 \(.*host/1 \("):
        run(world, tasks_of([[1, 1, 1, 1]]), deadline=12.0)
    assert world.waits == [TICK_SECONDS, TICK_SECONDS, 2.0]


def test_edges_add_up_a_few_blocks_at_a_time() -> None:
    """One with many blocks holds few of them; and one call at a time, so that sums stay in order."""
    tasks, world = tasks_of([[1] * 40]), World(1, 1)
    calls: list[int] = []
    summed = world._sum
    world._sum = lambda sizes, partials: (calls.append(len(partials)), summed(sizes, partials))[1]
    run(world, tasks, single=True)
    assert len(calls) > 2
    assert max(calls) <= 12


def test_outcomes_are_of_their_edges() -> None:
    sums, outcomes = run(World(2, 3), tasks_of([[1], [2], [3]]))
    assert all(isinstance(outcome, EdgeOutcome) for outcome in outcomes)
    assert len({own.tobytes() for own in sums}) == 3
