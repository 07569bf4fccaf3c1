"""What a round asks of clients and links: bytes of messages, work of local training, memory. Known before anything is trained."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedphd_ray.federation.channel.communication import Codecs
from fedphd_ray.federation.channel.links import Message
from fedphd_ray.federation.channel.protocol import Holdings, covered, importance, statistics, upload
from fedphd_ray.federation.costs import Cost
from fedphd_ray.federation.submodels.assignments import Candidates
from fedphd_ray.federation.submodels.widths import SubModels
from fedphd_ray.plans import Flight, RoundPlan
from fedphd_ray.records import Slice, Transfer
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.parts import named
from fedphd_ray.topology import Hop, Topology, client_name

FORWARD_AND_BACKWARD = 3  # the backward pass takes twice what the forward pass does


@dataclass(frozen=True)
class Narrow:
    """A sub-model's network: what is sent of it (values do not matter), and what it asks of a client."""

    held: Holdings
    cost: Cost


@dataclass(frozen=True)
class Narrowing:
    """Sub-models of one architecture.

    Attributes:
        submodels: as configured.
        widths: share of the channels that each client trains [num_clients]; 0 for one that can train none.
        networks: by width, but for those of width 1.
        num_slices: different slices there are: as many numbers say who has covered what.
        candidates: what widths are assigned by.
    """

    submodels: SubModels
    widths: NDArray[np.float64]
    networks: Mapping[float, Narrow]
    num_slices: int
    candidates: Candidates


@dataclass(frozen=True)
class Workload:
    """Before a round.

    Attributes:
        strategy: the method.
        topology: of the federation.
        codecs: of its links.
        held: what aggregators have; values do not matter.
        counts: label counts, where the method shares them.
        cost: of the network.
        images: that the local training of each client takes [num_clients].
        known: clients that keep something of their own.
        owed: clients that are still owed the pruning plan.
        first: nobody has been given a model yet.
        holding: per level, which nodes hold a model.
        narrowing: sub-models, where some clients train such.
        num_scores: channels that clients score in this round; 0 where they are not asked.
        away: edges that are away in this round.
    """

    strategy: Strategy
    topology: Topology
    codecs: Codecs
    held: Holdings
    counts: NDArray[np.int64] | None
    cost: Cost
    images: NDArray[np.int64]
    known: Container[int]
    owed: Container[int]
    first: bool
    holding: Sequence[Sequence[bool]]
    narrowing: Narrowing | None = None
    num_scores: int = 0
    away: frozenset[int] = frozenset()
    _sizes: dict[tuple[object, ...], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def slices(self, clients: Sequence[int], round: int) -> dict[int, Slice]:
        """What each of some clients trains of the network in a round; one that is not in it trains all of it."""
        narrowing = self.narrowing
        return {} if narrowing is None else narrowing.submodels.slices(narrowing.widths, clients, round)

    def width(self, client: int) -> float:
        """Share of the channels that a client trains, where that is the same in every round."""
        return 1.0 if self.narrowing is None else float(self.narrowing.widths[client])

    def held_at(self, width: float) -> Holdings:
        """What is sent to and by clients of a width."""
        return self.held if self.narrowing is None or width == 1 else self.narrowing.networks[width].held

    def cost_at(self, width: float) -> Cost:
        """What is asked of them."""
        return self.cost if self.narrowing is None or width == 1 else self.narrowing.networks[width].cost

    def down(self, client: int, width: float) -> Message:
        """To a client that trains a width."""
        return self.held_at(width).to_client(known=client in self.known, owed=client in self.owed)

    def up(self, width: float, parts: Sequence[str] | None) -> Message:
        """From a client of a width that reports these parts; None for all that travel."""
        held = self.held_at(width)
        beside = dict.fromkeys(self.strategy.clients_send, held.model)
        return {**upload(held.model, named(held.parts, parts), held.version, beside, self.counts), **self._scores(worked=True)}

    def download_bytes(self, client: int, width: float) -> int:
        """Everything that reaches a client in a round: the model, and what every edge has seen where that is shared."""
        return self._download(client in self.known, client in self.owed, width)

    def upload_bytes(self, width: float, parts: Sequence[str] | None) -> int:
        """What a client sends."""
        return self._upload(width, None if parts is None else tuple(parts))

    def bytes_of_all(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What each client receives and sends in a round [num_clients], if it has as much of its own as the first one."""
        known, owed, num = 0 in self.known, 0 in self.owed, len(self.images)
        if self.narrowing is None:
            return np.full(num, float(self._download(known, owed, 1.0))), np.full(num, float(self._upload(1.0, None)))
        widths = self.narrowing.widths
        down, up = np.zeros(num), np.zeros(num)
        for width in (width for width in np.unique(widths).tolist() if width):
            down[widths == width] = self._download(known, owed, width)
            up[widths == width] = self._upload(width, None)
        return down, up

    def _download(self, known: bool, owed: bool, width: float) -> int:
        key = (known, owed, width)
        if key not in self._sizes:
            to_client = self.topology.to_client
            heard = (len(self.topology.aggregators) - len(self.away)) * self._bytes(statistics(self.counts), to_client)
            self._sizes[key] = self._bytes(self.held_at(width).to_client(known=known, owed=owed), to_client) + heard
        return self._sizes[key]

    def _upload(self, width: float, parts: tuple[str, ...] | None) -> int:
        key = ("up", width, parts)
        if key not in self._sizes:
            self._sizes[key] = self._bytes(self.up(width, parts), self.topology.from_client)
        return self._sizes[key]

    def handed_down_bytes(self, level: int) -> int:
        """What a node of a level is given by its parent."""
        return self._bytes(self.held.to_child(first=self.first, owed=bool(self.owed)), self.topology.down(level))

    def sent_up_bytes(self, level: int) -> int:
        """What a node of a level sends to its parent."""
        return self._bytes(self.to_parent(worked=True), self.topology.up(level))

    def to_parent(self, *, worked: bool) -> Message:
        """From a node under which clients have trained since it has sent last, or have not."""
        beside = dict.fromkeys(self.strategy.clients_send, self.held.model) if worked else {}
        slices = 0 if self.narrowing is None or not worked else self.narrowing.num_slices
        above = replace(self.held, beside=beside).to_parent(self.counts)
        return {**above, **covered(self.held.model, slices), **self._scores(worked=worked)}

    def _scores(self, *, worked: bool) -> Message:
        """Of channels, where clients are asked for them."""
        asked = worked and self.num_scores > 0
        return importance(torch.empty(self.num_scores, device="meta") if asked else None, self.held.version)

    def work(self, client: int, width: float) -> float:
        """MACs of a client's local training of a width."""
        return float(FORWARD_AND_BACKWARD * self.cost_at(width).macs * self.images[client])

    @property
    def work_of_all(self) -> NDArray[np.float64]:
        """The same of every client [num_clients]."""
        return FORWARD_AND_BACKWARD * self._of_all("macs") * self.images

    @property
    def memory_of_all(self) -> NDArray[np.float64]:
        """Bytes that training takes on every client [num_clients]; without end on one that can train nothing."""
        return self._of_all("memory_bytes")

    def _of_all(self, quantity: str) -> NDArray[np.float64]:
        if self.narrowing is None:
            return np.full(len(self.images), float(getattr(self.cost, quantity)))
        widths, found = self.narrowing.widths, np.full(len(self.images), np.inf)
        for width in (width for width in np.unique(widths).tolist() if width):
            found[widths == width] = getattr(self.cost_at(width), quantity)
        return found

    def _bytes(self, message: Message, hop: Hop) -> int:
        return sum(row.num_bytes for row in self.codecs.link(0, hop, "", "").rows(message))


def lost_rows(plan: RoundPlan, workload: Workload) -> list[Transfer]:
    """What was sent to and by clients whose update is not used: as much as had been sent when that was clear."""
    return [row for flight in plan.flights if flight.fate for row in _lost(plan, flight, workload)]


def _lost(plan: RoundPlan, flight: Flight, workload: Workload) -> list[Transfer]:
    topology, client, width = workload.topology, client_name(flight.client), plan.width(flight.client)
    edge = topology.aggregator_name(flight.edge)
    down = workload.codecs.link(plan.round, topology.to_client, edge, client).rows(workload.down(flight.client, width))
    up = workload.codecs.link(plan.round, topology.from_client, client, edge).rows(
        workload.up(width, plan.reported_parts.get(flight.client))
    )
    return [_share(row, flight.received) for row in down] + [_share(row, flight.sent) for row in up if flight.sent > 0]


def _share(row: Transfer, share: float) -> Transfer:
    return row._replace(num_bytes=int(share * row.num_bytes), num_params=int(share * row.num_params), lost=True)
