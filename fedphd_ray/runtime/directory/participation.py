"""Who took part in which round, where, and how it went: the table `clients/` of a run directory."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from fedphd_ray.federation.channel.parts import PartsTable, read_parts
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import EdgeReport

SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("client", pa.int32()),
        ("edge", pa.int32()),
        ("probability", pa.float64()),
        ("status", pa.string()),
        ("loss", pa.float64()),
        ("images", pa.int64()),
        ("steps", pa.int32()),
        ("seconds", pa.float64()),
        ("attempt", pa.int32()),
        ("started_from", pa.int32()),
        ("sim_started", pa.float64()),
        ("sim_ended", pa.float64()),
    ]
)
USED = "used"


class Participation(NamedTuple):
    """One client in one round: a row of the table.

    Attributes:
        round: of the aggregation that the client's update was meant for.
        client: who.
        edge: where it sent to; -1 in a flat federation, where that is the cloud itself.
        probability: with which this edge was drawn; 1 where nothing was left to chance.
        status: `used`; or why its update was not: `failed`, `late`, `lost`; where devices are simulated also `gone`, `surplus`,
            `stale`, `stranded` (its edge is away), `unfinished`.
        loss: mean over its local steps; None where it was not trained.
        images: that went through them.
        steps: local steps.
        seconds: wall time of its training.
        attempt: how often its host had died before.
        started_from: the round whose model it started from.
        sim_started: simulated second at which it was asked; None without simulated devices.
        sim_ended: simulated second at which it was done, or was not waited for any more.
    """

    round: int
    client: int
    edge: int
    probability: float
    status: str
    loss: float | None
    images: int
    steps: int
    seconds: float
    attempt: int
    started_from: int
    sim_started: float | None
    sim_ended: float | None


class ClientTable(PartsTable):
    """The table as a run writes it."""

    def __init__(self, directory: Path | None = None) -> None:
        assert tuple(SCHEMA.names) == Participation._fields
        super().__init__(SCHEMA, directory)


def participations(plan: RoundPlan, reports: Sequence[EdgeReport], *, flat: bool) -> Iterator[Participation]:
    """The rows of a round: everybody who was trained, and everybody who was asked in vain."""
    flights = {flight.client: flight for flight in plan.flights if not flight.fate}
    started = {one.sender: one.version for leaf in plan.at(0) for one in leaf.contributions}
    for report in (report for edge in reports for report in edge.reports):
        flight, version = flights.get(report.client), started.get(report.client)
        yield Participation(
            round=plan.round,
            client=report.client,
            edge=-1 if flat else report.edge,
            probability=plan.chances.get(report.client, 1.0),
            status=USED if report.outcome is None else report.outcome.value,
            loss=report.loss if math.isfinite(report.loss) else None,
            images=report.num_images,
            steps=report.num_steps,
            seconds=report.seconds,
            attempt=report.attempt,
            started_from=plan.round if version is None else version,
            sim_started=None if flight is None else flight.started,
            sim_ended=None if flight is None else flight.ended,
        )
    for flight in (flight for flight in plan.flights if flight.fate):
        yield Participation(
            round=plan.round,
            client=flight.client,
            edge=-1 if flat else flight.edge,
            probability=plan.chances.get(flight.client, 1.0),
            status=flight.fate,
            loss=None,
            images=0,
            steps=0,
            seconds=0.0,
            attempt=0,
            started_from=flight.version,
            sim_started=flight.started,
            sim_ended=flight.ended,
        )


def read_clients(run_directory: Path) -> pa.Table:
    """Who took part in a run, as far as it is written, with `SCHEMA`'s columns.

    Raises:
        UserError: a part cannot be read.
    """
    return read_parts(run_directory / "clients", SCHEMA)
