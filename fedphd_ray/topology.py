"""The tree of the federation as data: tiers of aggregators between the clients and the cloud, their nodes, links and periods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul
from typing import NamedTuple

CLOUD, CLIENT = "cloud", "client"


class Hop(str):
    """The links between two neighbouring tiers in one direction: `edge_to_client`."""

    __slots__ = ()

    @classmethod
    def between(cls, source: str, destination: str) -> "Hop":
        """From one tier to another."""
        return cls(f"{source}_to_{destination}")

    @property
    def ends(self) -> tuple[str, str]:
        """The two tiers, the sending one first."""
        source, _, destination = self.partition("_to_")
        return source, destination

    @property
    def touches_cloud(self) -> bool:
        """Whether the cloud's own link carries it."""
        return CLOUD in self.ends

    @property
    def touches_client(self) -> bool:
        """Whether a client's own link carries it."""
        return CLIENT in self.ends


def client_name(client: int) -> str:
    """`client/17`."""
    return f"{CLIENT}/{client}"


class Tier(NamedTuple):
    """One tier of aggregators.

    Attributes:
        name: of the tier.
        nodes: how many there are.
        period: its nodes send their models to their parents after every so many aggregations of their own.
    """

    name: str
    nodes: int
    period: int


@dataclass(frozen=True)
class Topology:
    """The tiers from below, without clients and cloud.

    With no tiers the federation is flat: the cloud itself takes the place of the lowest tier, as its only node. Nodes are told
    apart by the level of their tier (0 is the lowest) and their index in it; the level above the highest tier is the cloud.
    """

    tiers: tuple[Tier, ...] = ()

    @property
    def flat(self) -> bool:
        """Whether clients speak with the cloud directly."""
        return not self.tiers

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Nodes of each level below the cloud."""
        return tuple(tier.nodes for tier in self.tiers) or (1,)

    @property
    def depth(self) -> int:
        """Number of levels below the cloud."""
        return len(self.sizes)

    @property
    def aggregators(self) -> Sequence[int]:
        """Ids of those who aggregate clients' updates: the nodes of level 0."""
        return range(self.sizes[0])

    def sends_up(self, round: int) -> int:
        """How many levels, from below, send their models up after a round because their periods are full."""
        if self.flat:
            return 1
        every = accumulate((tier.period for tier in self.tiers), mul)
        return sum(round % rounds == 0 for rounds in every)

    def name(self, level: int, index: int) -> str:
        """`edge/1`; `cloud` for the one above the tiers."""
        return f"{self.tiers[level].name}/{index}" if level < len(self.tiers) else CLOUD

    def parent(self, level: int, index: int) -> int:
        """Index of a node's parent on the level above: neighbours share one, and all have about as many children."""
        above = self.sizes[level + 1] if level + 1 < self.depth else 1
        return index * above // self.sizes[level]

    def children(self, level: int, index: int) -> tuple[int, ...]:
        """Indices of a node's children on the level below."""
        return tuple(child for child in range(self.sizes[level - 1]) if self.parent(level - 1, child) == index)

    def aggregator_name(self, edge: int) -> str:
        """The node at which clients of `edge` are aggregated."""
        return self.name(0, edge)

    @property
    def servers(self) -> tuple[str, ...]:
        """Names of all who aggregate beside the cloud's driver, level by level; in a flat federation one still adds for it."""
        return tuple(self.name(level, index) for level in range(len(self.tiers)) for index in range(self.sizes[level])) or (
            "edge/0",
        )

    @property
    def num_servers(self) -> int:
        """How many `servers` there are."""
        return sum(self.sizes)

    def merges_at(self, name: str) -> bool:
        """Whether there is a node of this name above the edges."""
        tier, _, index = name.partition("/")
        return any(tier == own.name and index in map(str, range(own.nodes)) for own in self.tiers[1:])

    def server(self, level: int, index: int) -> int:
        """Position of a node among `servers`."""
        return sum(self.sizes[:level]) + index

    def down(self, level: int) -> Hop:
        """The links on which a level receives from its parents."""
        return Hop.between(self._tier(level + 1), self._tier(level))

    def up(self, level: int) -> Hop:
        """The links on which a level sends to its parents."""
        return Hop.between(self._tier(level), self._tier(level + 1))

    @property
    def to_client(self) -> Hop:
        """The links on which clients receive."""
        return self.down(-1)

    @property
    def from_client(self) -> Hop:
        """The links on which clients send."""
        return self.up(-1)

    @property
    def hops(self) -> tuple[Hop, ...]:
        """All of them: from the cloud down to the clients, and up again."""
        levels = range(-1, len(self.tiers))
        return tuple(self.down(level) for level in reversed(levels)) + tuple(self.up(level) for level in levels)

    def _tier(self, level: int) -> str:
        if level < 0:
            return CLIENT
        return self.tiers[level].name if level < len(self.tiers) else CLOUD
