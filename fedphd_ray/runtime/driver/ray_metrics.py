"""The reporter that hands a run's figures to Ray's metrics, where the run is on Ray and they are collected."""

from collections import Counter
from typing import TYPE_CHECKING

from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.events import Event, Judged, RoundDone
from fedphd_ray.system.memory import resident_bytes

if TYPE_CHECKING:
    from fedphd_ray.runtime.on_ray.metrics import RunMetrics


class RayMetrics:
    """See `RunMetrics`.

    Args:
        metrics: of this run.
        rounds: that it will have.
    """

    def __init__(self, metrics: "RunMetrics", rounds: int) -> None:
        self._metrics, self._rounds = metrics, rounds

    def on_event(self, event: Event) -> None:
        """See `Reporter`."""
        match event:
            case Judged(_, quality):
                self._metrics.set({"fid": quality.fid}, {})
            case RoundDone(record, _):
                self._metrics.count(record.bytes_by_hop, outcomes(record), len(record.replacements))
                gauges = ("round", "loss", "round_seconds", "sim_seconds", "overhead_fraction", "version")
                values = {name: float(getattr(record, name)) for name in gauges}
                values |= {"rounds": self._rounds, "memory_bytes": resident_bytes()}
                self._metrics.set(values, record.homogeneity)


def outcomes(record: RoundRecord) -> Counter[tuple[int, str]]:
    """How many clients of each edge were used, failed, late, ...; those who were asked in vain count for edge -1."""
    counts = Counter((edge, record.outcomes.get(client, "used")) for client, edge in record.participants.items())
    counts.update((-1, fate) for client, fate in record.unused.items() if client not in record.participants)
    return counts
