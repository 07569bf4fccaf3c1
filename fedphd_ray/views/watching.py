"""The live view of a run that goes on elsewhere, from its files alone; also of one that is over."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.records import Outcome
from fedphd_ray.runtime.events import Event, Judged, LeftOut, Replaced, Reporter, RoundDone, Started
from fedphd_ray.views.run_view import Line, RunView, quality_of, record_of

LOOK_SECONDS = 1.0


def watch(directory: Path, reporter: Reporter, pause: Callable[[float], None] = time.sleep) -> RunView:
    """Tells of everything that is and will be in a run's books, until nobody works at it any more; returns it as it is then.

    A run that goes on from a checkpoint takes rounds back: the reporter is then told everything from the beginning.

    Raises:
        UserError: it is no run directory.
    """
    told = -1
    while True:
        run = RunView.of(directory)
        if run.round < told or told < 0:
            told = 0
            reporter.on_event(Started(0, {}))
        for event in _events(run, told):
            reporter.on_event(event)
        told = max(told, run.round)
        if run.state != "running":
            return run
        pause(LOOK_SECONDS)


def _events(run: RunView, after: int) -> Iterator[Event]:
    """What happened after a round, in the order of rounds."""
    qualities = {line.get("round"): line for line in run.qualities}
    if not after and (untrained := _judged(qualities, 0)) is not None:
        yield Judged(0, untrained)
    for line in run.rounds:
        record = record_of(line)
        if record is None or record.round <= after:
            continue
        for client, why in record.failures.items():
            edge = record.participants.get(client, 0)
            yield LeftOut(record.round, client, edge, Outcome(record.outcomes.get(client, Outcome.FAILED)), why)
        for why in record.replacements:
            yield Replaced(record.round, why)
        if (quality := _judged(qualities, record.round)) is not None:
            yield Judged(record.round, quality)
        yield RoundDone(record, None)


def _judged(lines: dict[Any, Line], round: int) -> QualityReport | None:
    return quality_of(lines[round]) if round in lines else None
