"""Figures of a run among Ray's own metrics, which Prometheus collects. Tagged by hop and edge, never by client."""

import math
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge


class RunMetrics:
    """Counters and gauges of one run.

    Args:
        run: its name, a tag of all.
    """

    def __init__(self, run: str) -> None:
        own = {"run": run}
        self._sent = Counter("fedphd_sent_bytes", "Bytes that a deployment would have sent.", ("run", "hop"))
        self._updates = Counter(
            "fedphd_updates", "Clients by edge and by what became of their update.", ("run", "edge", "outcome")
        )
        self._replaced = Counter("fedphd_replaced_processes", "Processes that died and were replaced.", ("run",))
        self._homogeneity = Gauge("fedphd_homogeneity", "SH of what an edge has seen; 2 is best.", ("run", "edge"))
        self._gauges = {
            name: Gauge(f"fedphd_{name}", words, ("run",))
            for name, words in {
                "round": "The last round that is over.",
                "rounds": "Rounds that the run will have.",
                "loss": "Mean training loss of the round.",
                "fid": "Frechet distance at the last evaluation.",
                "round_seconds": "Wall time of the round.",
                "sim_seconds": "The simulated clock.",
                "overhead_fraction": "Share of the slots' time that was not training.",
                "version": "Architecture; 0 is dense.",
                "memory_bytes": "Resident memory of the driver.",
            }.items()
        }
        for metric in (self._sent, self._updates, self._replaced, self._homogeneity, *self._gauges.values()):
            metric.set_default_tags(own)

    def count(self, bytes_by_hop: Mapping[str, int], updates: Mapping[tuple[int, str], int], replaced: int) -> None:
        """Adds what has happened in a round; `updates` by edge and outcome."""
        for hop, num_bytes in bytes_by_hop.items():
            self._sent.inc(num_bytes, {"hop": hop})
        for (edge, outcome), number in updates.items():
            self._updates.inc(number, {"edge": str(edge), "outcome": outcome})
        if replaced:
            self._replaced.inc(replaced)

    def set(self, values: Mapping[str, float], homogeneity: Mapping[int, float]) -> None:
        """Sets gauges by their names; what is no number is left as it was."""
        for name, value in values.items():
            if math.isfinite(value):
                self._gauges[name].set(value)
        for edge, score in homogeneity.items():
            self._homogeneity.set(score, {"edge": str(edge)})
