"""Round plans: who contributes what to which aggregation. Frozen, and made before anything of a round happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.records import Slice

Memory = Mapping[str, NDArray[np.float64]]
"""What a planner remembers of former rounds: arrays by name."""


class Flight(NamedTuple):
    """What a simulated client does from being asked to the end of it. Times in simulated seconds since the start of the run.

    Attributes:
        client: who.
        edge: where it sends to.
        version: the round whose model it starts from.
        started: when it was asked.
        downloaded: when it had the model; not a number where that never was.
        trained: when it had trained; likewise.
        arrived: when its update was there; likewise.
        ended: when it was done, was gone, or was told to stop.
        received: share of the model that reached it.
        sent: share of its update that it sent.
        fate: empty where its update is used; else why not, in a word: `gone`, `late`, `surplus`, `stale`, `stranded`,
            `unfinished`.
    """

    client: int
    edge: int
    version: int
    started: float
    downloaded: float
    trained: float
    arrived: float
    ended: float
    received: float
    sent: float
    fate: str = ""


class Contribution(NamedTuple):
    """What one sender adds to an aggregation.

    Attributes:
        sender: a client, at level 0; elsewhere the index of a child node.
        version: which model of the aggregating node the sender started from: the one that the node had at the beginning of this
            round. None is the newest.
        factor: on the sender's weight.
    """

    sender: int
    version: int | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Aggregation:
    """One node's part of a round: level 0 are the edges, the level above the highest tier is the cloud."""

    level: int
    node: int
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class Block:
    """A reduction block: clients of one edge whose updates are summed first, in this order, wherever they are trained.

    All of them start from the same model, see `Contribution`; no factors are all 1.
    """

    edge: int
    clients: tuple[int, ...]
    version: int | None = None
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class RoundPlan:
    """Everything that is decided about a round before it starts. A round without contributions is one in which nothing happens.

    Attributes:
        round: 1 for the first.
        aggregations: leaves first. Who has sent its model to an aggregation is given its parent's at the next round.
        block_size: clients per reduction block.
        prunes: the cloud model is pruned at the end.
        reported_parts: client -> names of the parts of the model it sends back; a client not in it sends all that travel.
        flights: where devices are simulated, of everybody whose work ends in this round, by client; those whose update is not
            used have no contribution and are not trained.
        steps: client -> share of its local steps that it takes; a client not in it takes all.
        slices: client -> what it trains of the network; a client not in it trains all of it.
        upload_rates: client -> rate in bit/s at which it sends in this round; a client not in it sends as its device does.
        away: edges that nobody reaches in this round.
        chances: client -> probability with which its edge was drawn; a client not in it had no other.
        memory: what the plans that follow remember of this one.
        sim_seconds: the simulated time at the end of the round.
    """

    round: int
    aggregations: tuple[Aggregation, ...]
    block_size: int
    prunes: bool = False
    reported_parts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    flights: tuple[Flight, ...] = ()
    steps: dict[int, float] = field(default_factory=dict)
    slices: dict[int, Slice] = field(default_factory=dict)
    upload_rates: dict[int, float] = field(default_factory=dict)
    away: frozenset[int] = frozenset()
    chances: dict[int, float] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)
    sim_seconds: float = 0.0

    @property
    def asked(self) -> dict[int, int]:
        """Everybody who has been sent something for this round -> the round in which that was."""
        if not self.flights:
            return dict.fromkeys(self.edge_of, self.round)
        return {flight.client: flight.version for flight in self.flights}

    def width(self, client: int) -> float:
        """Share of the channels that a client trains."""
        return self.slices[client].width if client in self.slices else 1.0

    @cached_property
    def edge_of(self) -> dict[int, int]:
        """Client -> edge, in the order of client ids."""
        leaves = self.at(0)
        return dict(sorted((each.sender, leaf.node) for leaf in leaves for each in leaf.contributions))

    def at(self, level: int) -> tuple[Aggregation, ...]:
        """The aggregations of a level."""
        return tuple(each for each in self.aggregations if each.level == level)

    def blocks(self, edge: int) -> tuple[Block, ...]:
        """The reduction tree of an edge: contributions in their order, a new block where the model differs."""
        blocks: list[Block] = []
        for each in (each for leaf in self.at(0) if leaf.node == edge for each in leaf.contributions):
            last = blocks[-1] if blocks else None
            if last is None or len(last.clients) == self.block_size or last.version != each.version:
                last = Block(edge, (), each.version)
                blocks.append(last)
            blocks[-1] = Block(edge, (*last.clients, each.sender), each.version, (*last.factors, each.factor))
        return tuple(blocks)
