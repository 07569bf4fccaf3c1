"""A run as lines of JSON, for those who collect logs: what happened, when, and to whom."""

import json
import math
from datetime import UTC, datetime
from typing import IO, Any

from fedphd_ray.runtime.events import Ended, Event, Judged, LeftOut, Planned, Pruned, Replaced, RoundDone, Saved, Started
from fedphd_ray.runtime.policy.failures import first_line


class JsonLog:
    """A reporter that writes a line per event: `time`, `level`, `event`, `run`; of `round`, `edge`, `client` what is known.

    Args:
        stream: where to.
        run: its name.
    """

    def __init__(self, stream: IO[str], run: str) -> None:
        self._stream, self._run = stream, run

    def say(self, message: str) -> None:
        """A sentence that is for people elsewhere."""
        self._write("said", message=message)

    def on_event(self, event: Event) -> None:
        """See `Reporter`."""
        match event:
            case Started(round, bytes_by_hop):
                self._write("started", round=round, bytes_by_hop=dict(bytes_by_hop))
            case Planned(plan):
                self._write("planned", round=plan.round, edges=dict(plan.edge_of))
            case LeftOut(round, client, edge, outcome, why):
                place = {"round": round, "edge": edge, "client": client}
                self._write("left_out", "warning", **place, outcome=outcome.value, message=first_line(why))
            case Replaced(round, why):
                self._write("replaced", "warning", round=round, message=why)
            case Pruned(round, version, num_params):
                self._write("pruned", round=round, version=version, params=num_params)
            case Judged(round, quality):
                self._write("judged", round=round, fid=quality.fid, kid=quality.kid, features=quality.features)
            case RoundDone(record, _):
                self._write("round", round=record.round, loss=record.loss, seconds=record.round_seconds, version=record.version)
            case Saved(round):
                self._write("saved", round=round)
            case Ended(round):
                self._write("ended", round=round)

    def _write(self, event: str, level: str = "info", **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        known = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in fields.items()}
        line = {"time": now, "level": level, "event": event, "run": self._run, **known}
        self._stream.write(json.dumps(line, allow_nan=False) + "\n")
        self._stream.flush()
