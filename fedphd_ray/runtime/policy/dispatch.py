"""Which host trains what. Free to follow timings: what is added to what is the plan's, so no result depends on it."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from fedphd_ray.plans import Block

CALL_SECONDS = 0.005  # what a call to an actor costs beside its work
STORE_BYTES_PER_SECOND = 1e9  # writing a sum into the object store, and reading it from there
SHORT_SECONDS = 0.5  # units that together take less go to a host in one call: each call disturbs all processes
TOLERANCE = 0.05  # hosts may end so far from the mean, as a share of it, before blocks are split


@dataclass(frozen=True)
class Unit:
    """What one host trains in one call: the first clients of a reduction block, summed there, or a single later one.

    Attributes:
        task: position of the edge among those of the round.
        block: position of the block at its edge.
        start: position of the first client in the block.
        clients: in their order.
        cost: images that go through training.
        attempt: how often it was tried before, and its host died.
    """

    task: int
    block: int
    start: int
    clients: tuple[int, ...]
    cost: float
    attempt: int = 0


Group = Sequence[Unit]
"""Units of one edge that stay together."""


def whole_blocks(blocks: Sequence[Sequence[Block]], costs: Mapping[int, float]) -> list[Unit]:
    """One unit per block, of the blocks of every edge.

    Args:
        blocks: per edge.
        costs: client -> images.
    """
    return [
        Unit(task, position, 0, block.clients, sum(costs[client] for client in block.clients))
        for task, own in enumerate(blocks)
        for position, block in enumerate(own)
    ]


def single_clients(units: Sequence[Unit], costs: Mapping[int, float]) -> list[Unit]:
    """One unit per client, as dedicated hosts need them."""
    return [
        replace(unit, start=unit.start + offset, clients=(client,), cost=costs[client])
        for unit in units
        for offset, client in enumerate(unit.clients)
    ]


def runs(units: Sequence[Unit], most: float) -> list[list[Unit]]:
    """Whole blocks in groups that had best stay together: the first of each edge, up to a cost of `most`; the others alone.

    A host returns the first blocks of an edge as one sum (`sums_of`).
    """
    groups: list[list[Unit]] = []
    for unit in units:
        group = groups[-1] if groups else []
        if group and len(group) == unit.block and sum(one.cost for one in [*group, unit]) <= most:
            group.append(unit)
        else:
            groups.append([unit])
    return groups


def assign(groups: Sequence[Group], seconds_per_image: Sequence[float]) -> list[list[Group]]:
    """Groups per host: the longest first, each to the host that is expected to end it first (Graham's LPT rule)."""
    queues: list[list[Group]] = [[] for _ in seconds_per_image]
    ends = [0.0] * len(seconds_per_image)
    for group in sorted(groups, key=lambda group: -_cost(group)):
        expected = [end + _cost(group) * pace for end, pace in zip(ends, seconds_per_image, strict=True)]
        host = expected.index(min(expected))
        ends[host] = expected[host]
        queues[host].append(group)
    return queues


def balanced(
    units: Sequence[Unit],
    costs: Mapping[int, float],
    seconds_per_image: Sequence[float],
    least_gain: float,
    far: Sequence[Sequence[bool]] = (),
) -> list[list[Unit]]:
    """Units per host; an edge's first blocks together where that ends the round as early as anything else.

    Args:
        units: whole blocks, edge by edge.
        costs: client -> images.
        seconds_per_image: per host.
        least_gain: seconds that must be saved by one more sum that travels.
        far: per edge and host, whether they are on different nodes; empty where all are on one.
    """
    share = _cost(units) / len(seconds_per_image)
    queues = assign(runs(units, share), seconds_per_image)
    apart = _split(units, costs, seconds_per_image, least_gain)
    if max(_ends(queues, seconds_per_image)) - max(_ends(apart, seconds_per_image)) > least_gain:
        queues = apart
    if far:
        _bring_near(queues, seconds_per_image, far)
    return [[unit for group in queue for unit in group] for queue in queues]


def _bring_near(queues: list[list[Group]], seconds_per_image: Sequence[float], far: Sequence[Sequence[bool]]) -> None:
    """Lets hosts exchange groups where less goes from node to node then, and none ends later than some host may anyway."""
    ends = _ends(queues, seconds_per_image)
    last = max(max(ends) * (1 + 1e-9), (1 + TOLERANCE) * sum(ends) / len(ends))
    for a, b in permutations(range(len(queues)), 2):
        for at, own in enumerate(queues[a]):
            if not (own and far[own[0].task][a] and not far[own[0].task][b]):
                continue
            for other, theirs in enumerate([*queues[b], ()]):  # or for nothing
                shift = _cost(own) - _cost(theirs)
                sooner, later = ends[a] - shift * seconds_per_image[a], ends[b] + shift * seconds_per_image[b]
                worse = bool(theirs) and far[theirs[0].task][a] and not far[theirs[0].task][b]
                if worse or sooner > last or later > last:
                    continue
                ends[a], ends[b] = sooner, later
                queues[a][at] = theirs
                queues[b][other : other + 1] = [own]
                break


def _split(
    units: Sequence[Unit], costs: Mapping[int, float], seconds_per_image: Sequence[float], least_gain: float
) -> list[list[Group]]:
    """Units per host, with last clients split off blocks until no host would end much later than the mean."""
    queues = assign([[unit] for unit in units], seconds_per_image)
    while True:
        ends = _ends(queues, seconds_per_image)
        late = ends.index(max(ends))
        mean = sum(ends) / len(ends)
        divisible = [unit for (unit,) in queues[late] if len(unit.clients) > 1]
        if not divisible or ends[late] - mean <= max(TOLERANCE * mean, least_gain):
            return queues
        chosen = max(divisible, key=lambda unit: unit.cost)
        units = [unit for unit in units if unit != chosen] + _without_last(chosen, costs)
        finer = assign([[unit] for unit in units], seconds_per_image)
        if max(_ends(finer, seconds_per_image)) >= ends[late]:
            return queues
        queues = finer


def sums_of(units: Sequence[Unit], blocks: Sequence[Sequence[Block]]) -> list[list[Unit]]:
    """The units of one call in groups that its host adds up: an edge's first blocks, whole and one after the other.

    The edge would add up just these in just this order, so the bits are the same.

    Args:
        units: of the call, in order.
        blocks: per edge.
    """
    groups: list[list[Unit]] = []
    for unit in units:
        group = groups[-1] if groups else [unit]
        follows = (group[0].task, group[0].block, len(group)) == (unit.task, 0, unit.block)
        if follows and all(one.clients == blocks[one.task][one.block].clients for one in (group[0], unit)):
            group.append(unit)
        else:
            groups.append([unit])
    return groups


def _cost(units: Group) -> float:
    return sum(unit.cost for unit in units)


def _ends(queues: Sequence[Sequence[Group]], seconds_per_image: Sequence[float]) -> list[float]:
    return [sum(map(_cost, queue)) * pace for queue, pace in zip(queues, seconds_per_image, strict=True)]


def _without_last(unit: Unit, costs: Mapping[int, float]) -> list[Unit]:
    """A unit as two: all clients but the last, and the last."""
    *first, last = unit.clients
    return [
        replace(unit, clients=tuple(first), cost=unit.cost - costs[last]),
        replace(unit, start=unit.start + len(first), clients=(last,), cost=costs[last]),
    ]


def split_gain_seconds(model_bytes: int) -> float:
    """What splitting a block must save at least, because one more sum then travels."""
    return CALL_SECONDS + model_bytes / STORE_BYTES_PER_SECOND


class HostTimes:
    """How fast each host has been so far: seconds per image, the newest calls weighing most.

    Args:
        num_hosts: all unknown at first, then taken to be as fast as the others on average.
    """

    WEIGHT = 0.3

    def __init__(self, num_hosts: int) -> None:
        self._paces: list[float | None] = [None] * num_hosts

    def observe(self, host: int, cost: float, seconds: float) -> None:
        """A host took `seconds` for `cost` images."""
        pace, before = seconds / cost, self._paces[host]
        self._paces[host] = pace if before is None else before + self.WEIGHT * (pace - before)

    def forget(self, host: int) -> None:
        """The host was replaced, perhaps elsewhere."""
        self._paces[host] = None

    def expected(self, host: int, cost: float) -> float:
        """Seconds that a host will take; infinite while it is not known."""
        pace = self._paces[host]
        return math.inf if pace is None else cost * pace

    @property
    def known(self) -> bool:
        """Whether any host has been timed."""
        return any(pace is not None for pace in self._paces)

    @property
    def seconds_per_image(self) -> list[float]:
        """Per host; 1 for all while nothing is known."""
        known = [pace for pace in self._paces if pace is not None]
        mean = sum(known) / len(known) if known else 1.0
        return [mean if pace is None else pace for pace in self._paces]

    def take_short(self, host: int, queue: deque[Unit]) -> list[Unit]:
        """Takes the first unit of a queue, and those after it that a host ends within `SHORT_SECONDS` of work in all.

        One that is tried again is taken alone: it may kill its host, and others with it.
        """
        units = [queue.popleft()]
        seconds = self.expected(host, units[0].cost)
        while queue and not units[0].attempt and not queue[0].attempt:
            seconds += self.expected(host, queue[0].cost)
            if seconds > SHORT_SECONDS:
                break
            units.append(queue.popleft())
        return units
