"""What a run tells while it goes on. Everything here executes in the driver."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedphd_ray.errors import UserError
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import EdgeReport, EdgeStatistics
from fedphd_ray.runtime.events import Event, Judged, RoundDone
from fedphd_ray.runtime.storage.seals import FileSeal
from fedphd_ray.strategies.homogeneity import homogeneity_score, uniform
from fedphd_ray.system.files import BOOK_BYTES, read_book, read_text, write_whole


@dataclass(frozen=True)
class RoundRecord:
    """One line of `metrics.jsonl`.

    Attributes:
        loss: mean noise-prediction loss over the round's optimiser steps.
        local_steps: optimiser steps of all clients whose update was aggregated.
        num_images: images that went through them, repetitions counted.
        participants: client -> edge.
        homogeneity: edge -> SH of what it has seen since the last synchronisation.
        bytes_by_hop: of this round.
        version: architecture after the round.
        round_seconds: wall time of the round; evaluation and checkpoint go on beside the next one.
        train_seconds: time inside local training, added up over slots.
        wait_seconds: time that slots had nothing to do, added up over slots.
        aggregate_seconds: time spent adding up updates and models, on all tiers.
        transfer_seconds: time the driver spent putting models into the object store and taking them out.
        checkpoint_seconds: time spent on writing the checkpoint of the round before, if there was one.
        overhead_fraction: 1 - train_seconds / (slots * round_seconds).
        sim_seconds: simulated time since the start of the run; 0 where devices are not simulated.
        unused: clients that were asked and whose update was not used, with the reason in a word: `gone`, `late`, `surplus`.
        failures: clients whose update was not aggregated, and why.
        outcomes: the same in a word: they have failed, were late, or were lost with their process.
        replacements: processes that died and were replaced since the record before, a sentence each.
        active_clients: who can still be asked after the round; None in records of former versions.
    """

    round: int
    loss: float
    local_steps: int
    num_images: int
    participants: dict[int, int]
    homogeneity: dict[int, float]
    bytes_by_hop: dict[str, int]
    version: int
    round_seconds: float
    train_seconds: float
    wait_seconds: float
    aggregate_seconds: float
    transfer_seconds: float
    checkpoint_seconds: float
    slots: int
    overhead_fraction: float
    sim_seconds: float
    unused: dict[int, str]
    failures: dict[int, str]
    outcomes: dict[int, str]
    replacements: tuple[str, ...]
    active_clients: int | None = None


def round_record(
    plan: RoundPlan,
    version: int,
    reports: Sequence[EdgeReport],
    seen: Sequence[EdgeStatistics],
    bytes_by_hop: Mapping[str, int],
    seconds: Mapping[str, float],
    slots: int,
    replacements: Sequence[str],
    active_clients: int,
) -> RoundRecord:
    """The record of a round: from its plan, its edges' reports and statistics, seconds by phase, and what was replaced."""
    clients = [client for report in reports for client in report.reports]
    good = [client for client in clients if not client.failure]
    steps = sum(client.num_steps for client in good)
    train_seconds = sum(report.train_seconds for report in reports)
    busy_seconds = sum(report.busy_seconds for report in reports)
    slot_seconds = slots * seconds["round"]
    return RoundRecord(
        round=plan.round,
        loss=sum(client.loss * client.num_steps for client in good) / steps if steps else math.nan,
        local_steps=steps,
        num_images=sum(client.num_images for client in good),
        participants=plan.edge_of,
        homogeneity={edge: homogeneity_score(own.distribution, uniform(len(own.distribution))) for edge, own in enumerate(seen)},
        bytes_by_hop=dict(bytes_by_hop),
        version=version,
        round_seconds=seconds["round"],
        train_seconds=train_seconds,
        wait_seconds=max(0.0, slot_seconds - busy_seconds),
        aggregate_seconds=busy_seconds - train_seconds + sum(r.fold_seconds for r in reports) + seconds.get("aggregate", 0.0),
        transfer_seconds=seconds.get("transfer", 0.0),
        checkpoint_seconds=seconds.get("checkpoint", 0.0),
        slots=slots,
        overhead_fraction=max(0.0, 1.0 - train_seconds / slot_seconds),
        sim_seconds=plan.sim_seconds,
        unused={flight.client: flight.fate for flight in plan.flights if flight.fate},
        failures={client.client: client.failure for client in clients if client.failure},
        outcomes={client.client: client.outcome.value for client in clients if client.outcome is not None},
        replacements=tuple(replacements),
        active_clients=active_clients,
    )


class MetricsFile:
    """`metrics.jsonl`, one object per round, and `quality.jsonl`, one per evaluation; whole lines, flushed at once."""

    def __init__(self, directory: Path) -> None:
        self._metrics = directory / "metrics.jsonl"
        self._quality = directory / "quality.jsonl"

    def on_event(self, event: Event) -> None:
        """A line for a round, a line for an evaluation."""
        match event:
            case Judged(round, quality):
                _append(self._quality, {"round": round, **vars(quality)})
            case RoundDone(record, quality):
                figures = {"fid": quality.fid, "kid": quality.kid} if quality is not None else {}
                _append(self._metrics, {**vars(record), **figures})

    def seals(self) -> tuple[FileSeal, FileSeal]:
        """Of both files as they are."""
        return FileSeal.of(self._metrics), FileSeal.of(self._quality)

    def rewind(self, metrics: FileSeal, quality: FileSeal) -> None:
        """Forgets what was written after the seals.

        Raises:
            UserError: something is missing of what was written before.
        """
        kept = [(path, seal.sealed_part(path)) for path, seal in ((self._metrics, metrics), (self._quality, quality))]
        for path, data in kept:
            if data or path.exists():
                write_whole(path, data)

    def clear(self) -> None:
        """Forgets everything."""
        for path in (self._metrics, self._quality):
            path.unlink(missing_ok=True)

    def num_lines(self) -> int:
        """Rounds that were written down, whole or not."""
        return read_book(self._metrics).count(b"\n")

    def rounds(self) -> list[dict[str, object]]:
        """All lines of `metrics.jsonl`."""
        return read_lines(self._metrics)

    def qualities(self) -> list[dict[str, object]]:
        """All lines of `quality.jsonl`."""
        return read_lines(self._quality)


def read_lines(path: Path) -> list[dict[str, object]]:
    """The objects of a JSON-lines file.

    Raises:
        UserError: it holds something else.
    """
    if not path.exists():
        return []
    entries: list[dict[str, object]] = []
    try:
        for number, line in enumerate(read_text(path, BOOK_BYTES).splitlines(), start=1):
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError(f"line {number} is no object")
            entries.append(entry)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            str(path),
            expected="one JSON object per line, as a run writes them",
            found=str(error),
            remedy="restore the file from a copy, or `fedphd resume` the run: it writes again what follows its checkpoint",
        ) from None
    return entries


def _append(path: Path, entry: Mapping[str, object]) -> None:
    with path.open("a") as file:
        file.write(_line(entry))
        file.flush()
        os.fsync(file.fileno())


def _line(entry: Mapping[str, object]) -> str:
    return json.dumps(_finite(entry)) + "\n"


def _finite(value: object) -> object:
    """The same with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: _finite(own) for key, own in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
