"""Merges at the nodes between edges and cloud, on Ray actors. A node that dies is replaced, and merges again."""

from collections.abc import Sequence
from dataclasses import replace

from fedphd_ray.federation.channel.communication import Codecs
from fedphd_ray.records import Transfer
from fedphd_ray.runtime.on_ray.actor_pool import Actor
from fedphd_ray.runtime.on_ray.calls import RAY, Actors, Call, Calls, Wires
from fedphd_ray.runtime.policy.faults import FaultScript, kill_this_process
from fedphd_ray.runtime.workers.backend import MergeOutcome, MergeTask
from fedphd_ray.topology import Topology


class RayMerge:
    """Merges at all nodes of one level at once.

    Args:
        pool: the actors; dead ones are replaced in it.
        tasks: one per node.
        topology: knows the nodes' names and places.
        codecs: of the links.
        faults: what is made to go wrong.
        deadline: of everything, on the clock of the wires.
        wires: how answers are waited for.
    """

    def __init__(
        self,
        pool: Actors,
        tasks: Sequence[MergeTask],
        topology: Topology,
        codecs: Codecs,
        faults: FaultScript,
        deadline: float,
        wires: Wires = RAY,
    ) -> None:
        self._pool, self._tasks = pool, tasks
        self._topology, self._codecs, self._faults = topology, codecs, faults
        self._calls = Calls(pool, deadline, wires)
        self._results: dict[int, MergeOutcome] = {}

    def run(self) -> list[MergeOutcome]:
        """Until every node has merged; results in the order of the tasks."""
        for position, task in enumerate(self._tasks):
            self._start(position, task)
        self._calls.finish(lambda: None)
        return [self._results[position] for position in range(len(self._tasks))]

    def _start(self, position: int, task: MergeTask) -> None:
        order, level = task.order, task.order.level + 1
        actor, name = self._actor(level, order.node), self._topology.name(level, order.node)
        if self._faults.kills_node(order.round, name) and not order.attempt:
            ref = actor.__ray_call__.remote(kill_this_process)
            self._calls.start(Call(actor, name, [ref], lambda call, answer: None, lambda call: None))
        call = actor.merge.options(num_returns=2, name=f"merge {name}")
        refs = call.remote(order, task.strategy, self._topology, self._codecs, *task.bases, *task.children)

        def done(call: Call, rows: list[Transfer]) -> None:
            self._results[position] = MergeOutcome(call.refs[1], rows, order.attempt)

        def lost(call: Call) -> None:
            self._start(position, replace(task, order=replace(order, attempt=order.attempt + 1)))

        self._calls.start(Call(actor, name, refs, done, lost))

    def _actor(self, level: int, node: int) -> Actor:
        return self._pool.servers[self._topology.server(level, node)]
