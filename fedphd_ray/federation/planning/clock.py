"""The simulated time of every node: links between nodes take theirs, and who waits for somebody is as late as he is."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.devices.profiles import Devices
from fedphd_ray.federation.planning.workload import Workload
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import Transfer
from fedphd_ray.topology import CLIENT, Topology, client_name


class Clock:
    """Seconds since the start of the run, per node.

    Args:
        devices: their links.
        topology: of the federation.
        seconds: of every node, level by level, the cloud's last [num_nodes + 1]; None at the start.
    """

    def __init__(self, devices: Devices, topology: Topology, seconds: NDArray[np.float64] | None = None) -> None:
        self._devices, self._topology = devices, topology
        self.seconds = np.zeros(topology.num_servers + 1) if seconds is None else np.array(seconds)

    @property
    def now(self) -> float:
        """When the last node is ready."""
        return float(self.seconds.max())

    def edge(self, edge: int) -> float:
        """An edge's."""
        return float(self.seconds[edge])

    def hand_down(self, workload: Workload) -> None:
        """Nodes that hold no model are given their parents'."""
        topology = self._topology
        if topology.flat:
            self.seconds[0] = self.now
            return
        for level in reversed(range(topology.depth)):
            num_bytes = workload.handed_down_bytes(level)
            for index, holds in enumerate(workload.holding[level]):
                if not holds and (level or index not in workload.away):
                    above = self.seconds[self._place(level + 1, topology.parent(level, index))]
                    place = self._place(level, index)
                    self.seconds[place] = max(
                        self.seconds[place], above + self._link(place, num_bytes, self._devices.node_download)
                    )

    def ends(self, edges: Mapping[int, float]) -> None:
        """Edges have aggregated."""
        for edge, seconds in edges.items():
            self.seconds[edge] = max(self.seconds[edge], seconds)

    def send_up(self, level: int, node: int, children: Iterable[int], num_bytes: int) -> None:
        """A node over nodes has what its children hold."""
        place = self._place(level, node)
        for child in children:
            below = self._place(level - 1, child)
            link = 0.0 if self._topology.flat else self._link(below, num_bytes, self._devices.node_upload)
            self.seconds[place] = max(self.seconds[place], self.seconds[below] + link)

    def _place(self, level: int, index: int) -> int:
        return self._topology.server(level, index)

    def _link(self, place: int, num_bytes: int, rates: NDArray[np.float64]) -> float:
        return float(self._devices.node_latency[place] + 8 * num_bytes / rates[place])


def stamped(rows: Sequence[Transfer], plan: RoundPlan, devices: Devices, topology: Topology) -> list[Transfer]:
    """A round's rows with the simulated seconds of each on its link.

    Rows of one message share its seconds by their bytes. What is sent again because a real process died takes none: in the
    simulated federation that did not happen. (A client's upload happens once, whichever training it is of.)
    """

    def again(row: Transfer) -> bool:
        return row.attempt > 0 and row.hop != topology.from_client

    sizes: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        sizes[_message(row)] += 0 if again(row) else row.num_bytes
    clients, places = _client_seconds(plan), {name: place for place, name in enumerate(topology.servers)}

    def seconds(row: Transfer) -> float:
        size = sizes[_message(row)]
        if again(row) or not size:
            return 0.0
        if row.hop.touches_client:
            down, up = clients[_client(row)]
            whole = down if row.hop == topology.to_client else up
        else:
            going_up = row.source in places and (row.destination not in places or places[row.source] < places[row.destination])
            place = places[row.source if going_up else row.destination]
            rates = devices.node_upload if going_up else devices.node_download
            whole = float(devices.node_latency[place] + 8 * size / rates[place])
        return whole * row.num_bytes / size

    return [row._replace(sim_seconds=seconds(row)) for row in rows]


def _message(row: Transfer) -> tuple[str, ...]:
    """What tells messages apart; a client hears of several edges at once."""
    return (row.hop, _client(row)) if row.hop.touches_client else (row.hop, row.source, row.destination)


def _client(row: Transfer) -> str:
    return row.destination if row.destination.startswith(f"{CLIENT}/") else row.source


def _client_seconds(plan: RoundPlan) -> dict[str, tuple[float, float]]:
    """Client's name -> seconds of its download and of its upload, as far as they went."""
    seconds = {}
    for flight in plan.flights:
        down = (flight.ended if math.isnan(flight.downloaded) else flight.downloaded) - flight.started
        up = 0.0 if math.isnan(flight.trained) else flight.ended - flight.trained
        seconds[client_name(flight.client)] = (down, up)
    return seconds
