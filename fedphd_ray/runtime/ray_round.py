"""One round on Ray actors: blocks to hosts, their sums to edges. An actor that dies is replaced, and does its part again.

The driver owns every object. Hosts return sums that only an edge reads; the driver passes references on and reads receipts.
Training is keyed by (seed, round, client) and edges keep nothing, so doing a part again gives the same bits.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from fedphd_ray.errors import FedPhDError, RunFailedError
from fedphd_ray.records import EdgeReport
from fedphd_ray.runtime.actor_pool import ActorPool
from fedphd_ray.runtime.backend import EdgeOutcome, EdgeTask, Handle
from fedphd_ray.runtime.dispatch import HostTimes, Unit
from fedphd_ray.topology import client_name

IN_FLIGHT_PER_HOST = 2  # one trains, one waits in the actor's queue: no gap between units
BLOCKS_AT_ONCE = 8  # an edge adds up so many before it is given more
Ref = Any


@dataclass
class _Call:
    """A running call: who does it, what to do with its receipt, and how to ask again. The first reference is the receipt."""

    actor: Any
    who: str
    refs: list[Ref]
    done: Callable[["_Call", Any], None]
    again: Callable[["_Call"], None]


@dataclass
class _Edge:
    """What has arrived for one edge and is not folded yet."""

    task: EdgeTask
    pieces: dict[tuple[int, int], tuple[Unit, Ref]] = field(default_factory=dict)
    total: Ref | None = None
    next_block: int = 0
    busy: bool = False
    report: EdgeReport | None = None
    model: Ref | None = None
    states: dict[int, Handle] = field(default_factory=dict)


class RayRound:
    """Runs one round.

    Args:
        pool: the actors; dead ones are replaced in it.
        tasks: one per edge.
        queues: per host, what it trains, in order; hosts with nothing left take over from others unless `dedicated`.
        times: told how long hosts take.
        dedicated: clients are bound to their hosts.
        keeps_states: clients return what they keep, each as an object of its own.
        deadline: of everything, on the monotonic clock.
    """

    def __init__(
        self,
        pool: ActorPool,
        tasks: Sequence[EdgeTask],
        queues: Sequence[Sequence[Unit]],
        times: HostTimes,
        *,
        dedicated: bool,
        keeps_states: bool,
        deadline: float,
    ) -> None:
        self._pool = pool
        self._edges = [_Edge(task) for task in tasks]
        self._queues = [deque(queue) for queue in queues]
        self._in_flight = [0] * len(queues)
        self._times = times
        self._dedicated = dedicated
        self._keeps_states = keeps_states
        self._deadline = deadline
        self._running: dict[Ref, _Call] = {}

    def run(self) -> list[EdgeOutcome]:
        """Until every edge has aggregated; outcomes in the order of the tasks."""
        self._feed()
        while self._running:
            done, _ = ray.wait(list(self._running), timeout=max(0.0, self._deadline - time.monotonic()), fetch_local=False)
            if not done:
                late = ", ".join(sorted(call.who for call in self._running.values()))
                raise RunFailedError(f"no answer within runtime.round_timeout_seconds from {late}")
            self._end(self._running.pop(done[0]))
            self._feed()
        outcomes = []
        for edge in self._edges:
            assert edge.report is not None
            outcomes.append(EdgeOutcome(edge.report, edge.model, edge.states))
        return outcomes

    def _end(self, call: _Call) -> None:
        try:
            receipt = ray.get(call.refs[0])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FedPhDError):
                raise error.cause from None
            raise RunFailedError(f"{call.who} failed:\n{error}") from error
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            self._pool.replace(call.actor, f"{call.who}: {error}")
            call.again(call)
        else:
            call.done(call, receipt)

    def _start(self, call: _Call) -> None:
        self._running[call.refs[0]] = call

    # Training

    def _feed(self) -> None:
        """Keeps every host in work."""
        for host, queue in enumerate(self._queues):
            while self._in_flight[host] < IN_FLIGHT_PER_HOST and (queue or self._take_over(host)):
                self._train(host, self._times.take_short(host, queue))

    def _take_over(self, host: int) -> bool:
        """Gives a host that has nothing at all the last unit of the longest queue; whether there was one."""
        if self._dedicated or self._in_flight[host]:
            return False
        longest = max(self._queues, key=lambda queue: sum(unit.cost for unit in queue))
        if longest:
            self._queues[host].append(longest.pop())
        return bool(longest or self._queues[host])

    def _train(self, host: int, units: Sequence[Unit]) -> None:
        self._in_flight[host] += 1
        actor = self._pool.hosts[host]
        used = sorted({unit.task for unit in units})
        tasks = [self._edges[task].task for task in used]
        orders = [(used.index(unit.task), self._edges[unit.task].task.order, unit.clients) for unit in units]
        clients = [(unit.task, client) for unit in units for client in unit.clients]
        states = [self._edges[task].task.states.get(client) for task, client in clients]
        names = ", ".join(client_name(client) for _, client in clients)
        call = actor.train.options(
            name=f"train {names} round {tasks[0].order.round}",
            num_returns=1 + len(units) + (len(clients) if self._keeps_states else 0),
        )
        refs = call.remote(orders, len(tasks), *(task.model for task in tasks), *states)

        def done(call: _Call, seconds: list[float]) -> None:
            self._in_flight[host] -= 1
            self._times.observe(host, sum(unit.cost for unit in units), sum(seconds))
            for unit, ref in zip(units, call.refs[1:], strict=False):
                self._edges[unit.task].pieces[unit.block, unit.start] = unit, ref
            for (task, client), ref in zip(clients, call.refs[1 + len(units) :], strict=False):
                self._edges[task].states[client] = ref
            for task in used:
                self._fold(self._edges[task])

        def again(call: _Call) -> None:
            self._in_flight[host] -= 1
            self._times.forget(host)
            self._train(host, units)

        self._start(_Call(actor, f"host/{host} ({names})", refs, done, again))

    # Folding

    def _fold(self, edge: _Edge) -> None:
        """Sends an edge what it can add up: its last blocks, or the next few where there are many. One call at a time."""
        ready = self._complete_blocks(edge)
        last = edge.next_block + len(ready) == len(edge.task.blocks)
        if edge.busy or not (last or len(ready) >= BLOCKS_AT_ONCE):
            return
        edge.busy = True
        sizes, partials = [len(block) for block in ready], [ref for block in ready for ref in block]
        if edge.total is not None:
            sizes, partials = [1, *sizes], [edge.total, *partials]
        edge.next_block += len(ready)
        edge.pieces = {key: piece for key, piece in edge.pieces.items() if key[0] >= edge.next_block}
        if last:
            self._aggregate(edge, sizes, partials)
        else:
            self._add_up(edge, sizes, partials)

    def _complete_blocks(self, edge: _Edge) -> list[list[Ref]]:
        """The next blocks that have arrived whole, each as its pieces in order."""
        blocks: list[list[Ref]] = []
        for index in range(edge.next_block, len(edge.task.blocks)):
            size, start, pieces = len(edge.task.blocks[index].clients), 0, []
            while (index, start) in edge.pieces:
                unit, ref = edge.pieces[index, start]
                pieces.append(ref)
                start += len(unit.clients)
            if start < size:
                break
            blocks.append(pieces)
        return blocks

    def _add_up(self, edge: _Edge, sizes: list[int], partials: list[Ref]) -> None:
        actor, name = self._pool.edges[edge.task.edge], f"edge/{edge.task.edge}"
        call = actor.fold.options(num_returns=2, name=f"fold {name} round {edge.task.order.round}")
        refs = call.remote(sizes, *partials)

        def done(call: _Call, seconds: float) -> None:
            edge.total, edge.busy = call.refs[1], False
            self._fold(edge)

        self._start(_Call(actor, name, refs, done, lambda call: self._add_up(edge, sizes, partials)))

    def _aggregate(self, edge: _Edge, sizes: list[int], partials: list[Ref]) -> None:
        task, name = edge.task, f"edge/{edge.task.edge}"
        actor = self._pool.edges[task.edge]
        call = actor.aggregate.options(num_returns=2, name=f"aggregate {name} round {task.order.round}")
        refs = call.remote(task.model, sizes, task.strategy, *partials)

        def done(call: _Call, report: EdgeReport) -> None:
            edge.report, edge.model = report, call.refs[1]

        self._start(_Call(actor, name, refs, done, lambda call: self._aggregate(edge, sizes, partials)))
