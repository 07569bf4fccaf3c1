"""What a round asks of clients and links: bytes of messages, work of local training, memory. Known before anything is trained."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.communication import Codecs
from fedphd_ray.federation.links import Message
from fedphd_ray.federation.protocol import Holdings, statistics, upload
from fedphd_ray.plans import Flight, RoundPlan
from fedphd_ray.records import Transfer
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.parts import named
from fedphd_ray.topology import Hop, Topology, client_name

FORWARD_AND_BACKWARD = 3  # the backward pass takes twice what the forward pass does


@dataclass(frozen=True)
class Cost:
    """Of one architecture: MACs of one forward pass of one image, and bytes that training takes on a client."""

    macs: int
    memory_bytes: int


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
    _sizes: dict[tuple[object, ...], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def down(self, client: int) -> Message:
        """To a client."""
        return self.held.to_client(known=client in self.known, owed=client in self.owed)

    def up(self, parts: Sequence[str] | None) -> Message:
        """From a client that reports these parts; None for all that travel."""
        beside = dict.fromkeys(self.strategy.clients_send, self.held.model)
        return upload(self.held.model, named(self.held.parts, parts), self.held.version, beside, self.counts)

    def download_bytes(self, client: int) -> int:
        """Everything that reaches a client in a round: the model, and what every edge has seen where that is shared."""
        key = client in self.known, client in self.owed
        if key not in self._sizes:
            to_client = self.topology.to_client
            heard = len(self.topology.aggregators) * self._bytes(statistics(self.counts), to_client)
            self._sizes[key] = self._bytes(self.down(client), to_client) + heard
        return self._sizes[key]

    def upload_bytes(self, parts: Sequence[str] | None) -> int:
        """What a client sends."""
        key = () if parts is None else ("parts", *parts)
        if key not in self._sizes:
            self._sizes[key] = self._bytes(self.up(parts), self.topology.from_client)
        return self._sizes[key]

    def handed_down_bytes(self, level: int) -> int:
        """What a node of a level is given by its parent."""
        return self._bytes(self.held.to_child(first=self.first, owed=bool(self.owed)), self.topology.down(level))

    def sent_up_bytes(self, level: int) -> int:
        """What a node of a level sends to its parent."""
        beside = dict.fromkeys(self.strategy.clients_send, self.held.model)
        return self._bytes(replace(self.held, beside=beside).to_parent(self.counts), self.topology.up(level))

    def work(self, client: int) -> float:
        """MACs of a client's local training."""
        return float(FORWARD_AND_BACKWARD * self.cost.macs * self.images[client])

    @property
    def work_of_all(self) -> NDArray[np.float64]:
        """The same of every client [num_clients]."""
        return np.asarray(FORWARD_AND_BACKWARD * self.cost.macs * self.images.astype(np.float64))

    def _bytes(self, message: Message, hop: Hop) -> int:
        return sum(row.num_bytes for row in self.codecs.link(0, hop, "", "").rows(message))


def lost_rows(plan: RoundPlan, workload: Workload) -> list[Transfer]:
    """What was sent to and by clients whose update is not used: as much as had been sent when that was clear."""
    return [row for flight in plan.flights if flight.fate for row in _lost(plan, flight, workload)]


def _lost(plan: RoundPlan, flight: Flight, workload: Workload) -> list[Transfer]:
    topology, client = workload.topology, client_name(flight.client)
    edge = topology.aggregator_name(flight.edge)
    down = workload.codecs.link(plan.round, topology.to_client, edge, client).rows(workload.down(flight.client))
    up = workload.codecs.link(plan.round, topology.from_client, client, edge).rows(
        workload.up(plan.reported_parts.get(flight.client))
    )
    return [_share(row, flight.received) for row in down] + [_share(row, flight.sent) for row in up if flight.sent > 0]


def _share(row: Transfer, share: float) -> Transfer:
    return row._replace(num_bytes=int(share * row.num_bytes), num_params=int(share * row.num_params), lost=True)
