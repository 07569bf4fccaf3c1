"""Names and links of the hierarchy."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

CLOUD = "cloud"


class Hop(enum.StrEnum):
    """The links of the hierarchy. The last two exist only in a flat federation, where no edge stands between."""

    CLOUD_TO_EDGE = "cloud_to_edge"
    EDGE_TO_CLIENT = "edge_to_client"
    CLIENT_TO_EDGE = "client_to_edge"
    EDGE_TO_CLOUD = "edge_to_cloud"
    CLOUD_TO_CLIENT = "cloud_to_client"
    CLIENT_TO_CLOUD = "client_to_cloud"

    @property
    def touches_cloud(self) -> bool:
        """Whether the cloud's own link carries it."""
        return CLOUD in self.value

    @property
    def touches_client(self) -> bool:
        """Whether a client's own link carries it."""
        return "client" in self.value


def edge_name(edge: int) -> str:
    """`edge/1`."""
    return f"edge/{edge}"


def client_name(client: int) -> str:
    """`client/17`."""
    return f"client/{client}"


@dataclass(frozen=True)
class Topology:
    """Names and links of the hierarchy. With no edges the cloud itself takes their place, and edge 0 is the cloud."""

    num_edges: int

    @property
    def flat(self) -> bool:
        """Whether clients speak with the cloud directly."""
        return self.num_edges == 0

    @property
    def aggregators(self) -> Sequence[int]:
        """Ids of those who aggregate clients' updates."""
        return range(max(1, self.num_edges))

    def aggregator_name(self, edge: int) -> str:
        """The node at which clients of `edge` are aggregated."""
        return CLOUD if self.flat else edge_name(edge)

    @property
    def to_client(self) -> Hop:
        """The link on which clients receive."""
        return Hop.CLOUD_TO_CLIENT if self.flat else Hop.EDGE_TO_CLIENT

    @property
    def from_client(self) -> Hop:
        """The link on which clients send."""
        return Hop.CLIENT_TO_CLOUD if self.flat else Hop.CLIENT_TO_EDGE
