"""One round on Ray actors: blocks to hosts, their sums to edges. An actor that dies is replaced, and does its part again.

The driver owns every object. Hosts return sums that only an edge reads; the driver passes references on and reads receipts.
Training is keyed by (seed, round, client) and edges keep nothing, so doing a part again gives the same bits.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedphd_ray.plans import Block
from fedphd_ray.records import EdgeReport, Outcome
from fedphd_ray.runtime.on_ray.actor_pool import Actor, Ref
from fedphd_ray.runtime.on_ray.calls import RAY, Actors, Call, Calls, Wires
from fedphd_ray.runtime.policy.dispatch import HostTimes, Unit, single_clients, sums_of
from fedphd_ray.runtime.policy.failures import FailureConfig, after_a_death
from fedphd_ray.runtime.policy.faults import FaultScript, kill_this_process
from fedphd_ray.runtime.workers.backend import EdgeOutcome, EdgeTask, Handle
from fedphd_ray.topology import client_name

IN_FLIGHT_PER_HOST = 2  # one trains, one waits in the actor's queue: no gap between units
BLOCKS_AT_ONCE = 8  # an edge adds up so many before it is given more


@dataclass
class _Edge:
    """What has arrived for one edge and is not folded yet."""

    task: EdgeTask
    pieces: dict[tuple[int, int], tuple[Unit, list[Ref]]] = field(default_factory=dict)
    total: Ref | None = None
    next_block: int = 0
    busy: bool = False
    report: EdgeReport | None = None
    model: Ref | None = None
    states: dict[int, Handle] = field(default_factory=dict)
    lost: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class RoundRules:
    """How rounds go, the same for all rounds of a run.

    Attributes:
        dedicated: clients are bound to their hosts.
        keeps_states: clients return what they keep, each as an object of its own.
        costs: client -> images that its training takes.
        failures: what happens when a host dies.
        faults: what is made to go wrong.
        leave_out: the empty contribution of a client (with its edge) that is left out for a reason, in words and as an outcome.
    """

    dedicated: bool
    keeps_states: bool
    costs: Mapping[int, float]
    failures: FailureConfig
    faults: FaultScript
    leave_out: Callable[[int, int, str, Outcome], Ref]


class RayRound:
    """Runs one round.

    Args:
        pool: the actors; dead ones are replaced in it.
        tasks: one per edge.
        queues: per host, what it trains, in order; hosts with nothing left take over from others unless dedicated.
        times: told how long hosts take.
        rules: of the run.
        deadline: of everything, on the clock of the wires.
        wires: how answers are waited for.
    """

    def __init__(
        self,
        pool: Actors,
        tasks: Sequence[EdgeTask],
        queues: Sequence[Sequence[Unit]],
        times: HostTimes,
        rules: RoundRules,
        deadline: float,
        wires: Wires = RAY,
    ) -> None:
        self._pool = pool
        self._round = tasks[0].order.round
        self._edges = [_Edge(task) for task in tasks]
        self._queues = [deque(queue) for queue in queues]
        self._in_flight: list[deque[Call]] = [deque() for _ in queues]
        self._blamed: dict[Actor, Call] = {}  # dead host -> what it was doing
        self._struck: set[tuple[str, int]] = set()  # faults of the script that have struck in this round
        self._times = times
        self._rules = rules
        self._calls = Calls(pool, deadline, wires)

    def run(self) -> list[EdgeOutcome]:
        """Until every edge has aggregated; outcomes in the order of the tasks."""
        self._calls.finish(self._feed)
        outcomes = []
        for edge in self._edges:
            assert edge.report is not None
            outcomes.append(EdgeOutcome(edge.report, edge.model, edge.states, tuple(edge.lost)))
        return outcomes

    # Training

    def _feed(self) -> None:
        """Keeps every host in work; those with the least first, so that all begin a round together."""
        for depth in range(IN_FLIGHT_PER_HOST):
            for host, queue in enumerate(self._queues):
                if len(self._in_flight[host]) == depth and (queue or self._take_over(host)):
                    self._train(host, self._times.take_short(host, queue))

    def _take_over(self, host: int) -> bool:
        """Gives a host that has nothing at all the last unit of the longest queue; whether there was one."""
        if self._rules.dedicated or self._in_flight[host]:
            return False
        longest = max(self._queues, key=lambda queue: sum(unit.cost for unit in queue))
        if longest:
            self._queues[host].append(longest.pop())
        return bool(longest or self._queues[host])

    def _train(self, host: int, units: Sequence[Unit]) -> None:
        actor = self._pool.hosts[host]
        starts = [(unit.task, self._block(unit).version) for unit in units]
        used = list(dict.fromkeys(starts))
        models = [self._edges[unit.task].task.start(self._block(unit)) for unit in (units[starts.index(start)] for start in used)]
        orders = [
            (used.index(start), replace(self._edges[unit.task].task.order, attempt=unit.attempt), unit.clients)
            for unit, start in zip(units, starts, strict=True)
        ]
        clients = [(unit.task, client) for unit in units for client in unit.clients]
        states = [self._edges[task].task.states.get(client) for task, client in clients]
        sums = sums_of(units, [edge.task.blocks for edge in self._edges])
        call = actor.train.options(
            num_returns=1 + len(sums) + (len(clients) if self._rules.keeps_states else 0),
        )
        refs = call.remote(orders, [len(group) for group in sums], len(models), *models, *states)

        def done(call: Call, seconds: list[float]) -> None:
            self._leave(host, call)
            self._times.observe(host, sum(unit.cost for unit in units), sum(seconds))
            for group, ref in zip(sums, call.refs[1:], strict=False):
                for unit in group:  # the sum is the first one's; what else is in it has nothing more to give
                    self._edges[unit.task].pieces[unit.block, unit.start] = unit, [ref] if unit is group[0] else []
            for (task, client), ref in zip(clients, call.refs[1 + len(sums) :], strict=False):
                self._edges[task].states[client] = ref
            for task in sorted({unit.task for unit in units}):
                self._fold(self._edges[task])

        def lost(call: Call) -> None:
            guilty = self._blamed.setdefault(call.actor, self._in_flight[host][0]) is call and call.died
            self._leave(host, call)
            self._times.forget(host)
            self._again(host, units, call) if guilty else self._queues[host].extendleft(reversed(units))

        names = ", ".join(client_name(client) for _, client in clients)
        call = Call(actor, f"host/{host} ({names})", refs, done, lost)
        self._in_flight[host].append(call)
        self._calls.start(call)
        if self._rules.faults.kills_host(self._round, host) and self._strikes("host", host):
            self._await_death(actor, f"host/{host}")

    def _block(self, unit: Unit) -> Block:
        return self._edges[unit.task].task.blocks[unit.block]

    def _await_death(self, actor: Actor, who: str) -> None:
        """Kills an actor after the calls that it already has. The round waits for it: its books tell of its own deaths."""
        ref = actor.__ray_call__.remote(kill_this_process)
        self._calls.start(Call(actor, who, [ref], lambda call, answer: None, lambda call: None))

    def _leave(self, host: int, call: Call) -> None:
        self._in_flight[host].remove(call)

    def _again(self, host: int, units: Sequence[Unit], call: Call) -> None:
        """After the death of the host that trained these units: one by one, without the clients that killed too many."""
        for unit in single_clients(units, self._rules.costs):
            self._edges[unit.task].lost.append((unit.clients[0], unit.attempt))
        again, hopeless = after_a_death(units, self._rules.costs, self._rules.failures.client_retries)
        reasons = {unit: (f"its host died {unit.attempt} times while it was trained", Outcome.LOST) for unit in hopeless}
        limit = self._rules.failures.client_timeout_seconds
        for unit in [*again, *hopeless] if limit is not None else ():
            if self._pool.overdue(self._round, unit.clients[0]):
                reasons[unit] = f"no answer within failures.client_timeout_seconds = {limit:g}", Outcome.LATE
        again = [unit for unit in again if unit not in reasons]
        self._queues[host].extendleft(reversed(again))
        for unit, (reason, outcome) in reasons.items():
            edge = self._edges[unit.task]
            edge.pieces[unit.block, unit.start] = unit, [self._rules.leave_out(unit.clients[0], edge.task.edge, reason, outcome)]
            self._fold(edge)

    def _strikes(self, kind: str, number: int) -> bool:
        """Whether a fault of the script has not struck yet in this round; from now on it has."""
        new = (kind, number) not in self._struck
        self._struck.add((kind, number))
        return new

    # Folding

    def _fold(self, edge: _Edge) -> None:
        """Sends an edge what it can add up: its last blocks, or the next few where there are many. One call at a time."""
        ready = self._complete_blocks(edge)
        last = edge.next_block + len(ready) == len(edge.task.blocks)
        if edge.busy or not (last or len(ready) >= BLOCKS_AT_ONCE):
            return
        edge.busy = True
        sizes, partials = [len(block) for block in ready if block], [ref for block in ready for ref in block]
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
            size, start = len(edge.task.blocks[index].clients), 0
            pieces: list[Ref] = []
            while (index, start) in edge.pieces:
                unit, refs = edge.pieces[index, start]
                pieces += refs
                start += len(unit.clients)
            if start < size:
                break
            blocks.append(pieces)
        return blocks

    def _add_up(self, edge: _Edge, sizes: list[int], partials: list[Ref]) -> None:
        actor, name = self._pool.servers[edge.task.edge], f"edge/{edge.task.edge}"
        call = actor.fold.options(num_returns=2, name=f"fold {name}")
        refs = call.remote(sizes, *partials)

        def done(call: Call, seconds: float) -> None:
            edge.total, edge.busy = call.refs[1], False
            self._fold(edge)

        self._calls.start(Call(actor, name, refs, done, lambda call: self._add_up(edge, sizes, partials)))

    def _aggregate(self, edge: _Edge, sizes: list[int], partials: list[Ref]) -> None:
        task, name = edge.task, f"edge/{edge.task.edge}"
        actor = self._pool.servers[task.edge]
        if self._rules.faults.kills_edge(self._round, task.edge) and self._strikes("edge", task.edge):
            self._await_death(actor, name)
        call = actor.aggregate.options(num_returns=2, name=f"aggregate {name}")
        refs = call.remote(task.edge, task.model, sizes, task.strategy, task.fresh, *partials)

        def done(call: Call, report: EdgeReport) -> None:
            edge.report, edge.model = report, call.refs[1]

        self._calls.start(Call(actor, name, refs, done, lambda call: self._aggregate(edge, sizes, partials)))
