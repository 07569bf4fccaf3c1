"""The devices of a federation: named classes with shares, or a table; drawn once per client, keyed by the seed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from fedphd_ray.devices.availability import Always, Availability, Share
from fedphd_ray.devices.presets import PRESETS
from fedphd_ray.devices.quantities import LogNormal, Positive, Quantity, QuantityOrNone, draw
from fedphd_ray.devices.tables import read_columns
from fedphd_ray.errors import ConfigError
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.settings.sections import Section
from fedphd_ray.system.files import absolute

MBIT, GIB = 1e6, float(2**30)
NUMBERS = ("macs_per_second", "memory_gib", "download_mbit", "upload_mbit", "latency_ms")
SPREAD = ("macs_per_second", "download_mbit", "upload_mbit")
FEDSCALE = ("computation", "communication")


class DeviceClass(Section):
    """A kind of device.

    Attributes:
        name: as tables and pictures call it.
        share: of the clients that are of this kind; shares are divided by their sum.
        macs_per_second: multiply-accumulates while it trains.
        memory_gib: for training; a client whose network does not fit is not asked.
        download_mbit: towards it, in Mbit/s.
        upload_mbit: from it.
        latency_ms: before the first byte of every message, in milliseconds.
        spread: sigma of a log-normal factor on speed and rates, where they are plain numbers.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$", max_length=40)]
    share: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    macs_per_second: Quantity
    memory_gib: Quantity = 1e6
    download_mbit: Quantity
    upload_mbit: Quantity
    latency_ms: QuantityOrNone = 20.0
    spread: Annotated[float, Field(ge=0, le=5)] = 0.0

    def quantity(self, name: str) -> QuantityOrNone:
        """One of `NUMBERS`, with the spread."""
        own: QuantityOrNone = getattr(self, name)
        if not self.spread or name not in SPREAD or not isinstance(own, int | float):
            return own
        return LogNormal(distribution="log_normal", median=float(own), sigma=self.spread)


class Outage(Section):
    """An edge is away for some rounds.

    Attributes:
        edge: which.
        round: the first of them.
        rounds: how many.
    """

    edge: NonNegativeInt
    round: PositiveInt
    rounds: PositiveInt = 1


class EdgeLinks(Section):
    """What edges have.

    Attributes:
        client_mbit: shared by the clients that receive from an edge at the same time, and again by those that send to it, max-min
            fairly; null for no limit.
        download_mbit: from its parent to an edge (or any other node), in Mbit/s.
        upload_mbit: from a node to its parent.
        latency_ms: before the first byte of every message between nodes.
        detour_ms: latency on top for every edge that is not the client's own (client c's is c modulo the number of edges), drawn
            for each client and edge; null for none.
        outages: edges that are away for some rounds. What an edge has not sent up by then is lost; clients go to others; back
            again, it is given its parent's model.
    """

    client_mbit: Quantity | None = None
    download_mbit: Quantity = 1000.0
    upload_mbit: Quantity = 1000.0
    latency_ms: QuantityOrNone = 10.0
    detour_ms: Quantity | None = None
    outages: Annotated[tuple[Outage, ...], Field(max_length=1000)] = ()


class Dropout(Section):
    """Probabilities that a client is gone in a round before it has trained, and before its update has arrived."""

    training: Share = 0.0
    upload: Share = 0.0


class DevicesConfig(Section):
    """Devices and links of all clients and edges: simulated, so that nothing waits for them.

    Attributes:
        preset: named classes with figures from stated sources: `phones`, `laptops`, `hospital`, `mixed`.
        classes: your own kinds of device.
        file: or a table of devices, CSV or Parquet, from which each client draws a row; see `docs/heterogeneity.md`.
        reference_macs: MACs behind a FedScale table's `computation` (milliseconds for one image).
        edges: rates of edges, and of the links above them.
        availability: who is there in a round.
        dropout: who leaves in the middle of one.
    """

    preset: Literal["phones", "laptops", "hospital", "mixed"] | None = None
    classes: Annotated[tuple[DeviceClass, ...], Field(max_length=100)] = ()
    file: str | None = None
    reference_macs: Positive = 3.0e8
    edges: EdgeLinks = EdgeLinks()
    availability: Availability = Always()
    dropout: Dropout = Dropout()

    @field_validator("file")
    @classmethod
    def _same_everywhere(cls, file: str | None) -> str | None:
        return None if file is None else absolute(file)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("preset", "classes", "file") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError(
                "devices",
                expected="one of preset, classes and file",
                found=" and ".join(given) or "none of them",
                remedy="for example devices: {preset: phones}",
            )
        if self.classes and not any(own.share for own in self.classes):
            raise ConfigError("devices.classes", expected="a share above 0 of some class", found="none")
        return self

    def build(self, num_clients: int, num_nodes: int, seed: int, num_edges: int | None = None) -> "Devices":
        """Draws everything.

        Args:
            num_clients: registered clients.
            num_nodes: aggregators below the cloud.
            seed: of the run.
            num_edges: those of them that clients speak with; None for all.

        Raises:
            DataError: the table cannot be read.
        """
        num_edges = num_nodes if num_edges is None else num_edges
        rng = numpy_rng(seed, Purpose.DEVICES)
        kinds, numbers = self._from_table(rng, num_clients) if self.file is not None else self._from_classes(rng, num_clients)
        edges, unlimited = self.edges, np.full(num_nodes, np.inf)
        rate = unlimited if edges.client_mbit is None else MBIT * draw(edges.client_mbit, rng, num_nodes)
        return Devices(
            kinds=kinds,
            speed=numbers["macs_per_second"],
            memory_bytes=GIB * numbers["memory_gib"],
            download=MBIT * numbers["download_mbit"],
            upload=MBIT * numbers["upload_mbit"],
            latency=1e-3 * numbers["latency_ms"],
            node_rate=rate,
            node_download=MBIT * draw(edges.download_mbit, rng, num_nodes),
            node_upload=MBIT * draw(edges.upload_mbit, rng, num_nodes),
            node_latency=1e-3 * draw(edges.latency_ms, rng, num_nodes),
            detour=_detour(edges.detour_ms, rng, num_clients, num_edges),
            availability=self.availability,
            dropout=self.dropout,
            outages=edges.outages,
            seed=seed,
        )

    def _from_classes(self, rng: np.random.Generator, num: int) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]:
        classes = self.classes or tuple(DeviceClass.model_validate(own) for own in PRESETS[str(self.preset)])
        shares = np.array([own.share for own in classes])
        chosen = rng.choice(len(classes), num, p=shares / shares.sum())
        numbers = {name: np.zeros(num) for name in NUMBERS}
        for index, own in enumerate(classes):
            for name in NUMBERS:  # all draw for everybody: another share moves nobody else's figures
                numbers[name] = np.where(chosen == index, draw(own.quantity(name), rng, num), numbers[name])
        return tuple(classes[index].name for index in chosen), numbers

    def _from_table(self, rng: np.random.Generator, num: int) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]:
        """FedScale's table has milliseconds per image and one rate in kbit/s; ours has `NUMBERS`, two of them optional."""
        path = Path(str(self.file))
        columns, rows = read_columns(path, (), (*NUMBERS, *FEDSCALE))
        if all(name in columns for name in FEDSCALE):
            columns = {
                "macs_per_second": self.reference_macs / (1e-3 * columns["computation"]),
                "download_mbit": 1e-3 * columns["communication"],
                "upload_mbit": 1e-3 * columns["communication"],
            }
        else:
            columns, rows = read_columns(path, ("macs_per_second", "download_mbit", "upload_mbit"), NUMBERS)
        chosen = rng.integers(0, len(rows), num)
        usual = {"memory_gib": 1e6, "latency_ms": 20.0}
        numbers = {name: columns[name][chosen] if name in columns else np.full(num, usual[name]) for name in NUMBERS}
        return tuple(str(rows[row].get("class") or "table") for row in chosen), numbers


def _detour(detour_ms: Quantity | None, rng: np.random.Generator, num_clients: int, num_edges: int) -> NDArray[np.float64]:
    if detour_ms is None:
        return np.broadcast_to(0.0, (num_clients, num_edges))  # takes no memory
    drawn = 1e-3 * draw(detour_ms, rng, num_clients * num_edges).reshape(num_clients, num_edges)
    drawn[np.arange(num_clients), np.arange(num_clients) % num_edges] = 0.0
    return drawn


@dataclass(frozen=True, eq=False)
class Devices:
    """What was drawn. Rates in bit/s, latencies in seconds, per client [num_clients] and per node below the cloud [num_nodes].

    Attributes:
        kinds: class of each client's device.
        speed: multiply-accumulates per second.
        memory_bytes: of a client.
        download: towards a client.
        upload: from it.
        latency: of each of its messages.
        node_rate: of an edge, shared among its clients.
        node_download: from its parent.
        node_upload: to its parent.
        node_latency: between the two.
        detour: latency on top, from each client to each edge [num_clients, num_edges].
        availability: who is there.
        dropout: who leaves.
        outages: edges that are away for some rounds.
        seed: of the run.
    """

    kinds: tuple[str, ...]
    speed: NDArray[np.float64]
    memory_bytes: NDArray[np.float64]
    download: NDArray[np.float64]
    upload: NDArray[np.float64]
    latency: NDArray[np.float64]
    node_rate: NDArray[np.float64]
    node_download: NDArray[np.float64]
    node_upload: NDArray[np.float64]
    node_latency: NDArray[np.float64]
    detour: NDArray[np.float64]
    availability: Availability = field(default_factory=Always)
    dropout: Dropout = field(default_factory=Dropout)
    outages: tuple[Outage, ...] = ()
    seed: int = 0

    def present(self, round: int, num_regions: int) -> NDArray[np.bool_]:
        """Who is there in a round [num_clients]."""
        return self.availability.present(round, len(self.kinds), num_regions, self.seed)

    def away(self, round: int) -> frozenset[int]:
        """Edges that are away in a round."""
        return frozenset(out.edge for out in self.outages if out.round <= round < out.round + out.rounds)

    def leaves(self, round: int, client: int) -> tuple[str, float] | None:
        """Whether a client that begins in a round will leave: while it trains or sends, and after which share of that."""
        if not (self.dropout.training or self.dropout.upload):
            return None
        first, second, share = numpy_rng(self.seed, Purpose.DROPOUT, round, client).random(3)
        if first < self.dropout.training:
            return "training", float(share)
        return ("upload", float(share)) if second < self.dropout.upload else None
