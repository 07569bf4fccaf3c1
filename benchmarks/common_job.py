"""Our side of the common job (benchmarks/README.md): the same rounds as other systems run, with edges and the ledger on.

BENCH_STEPS=0 python benchmarks/common_job.py
"""

import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from fedphd_ray.config import Config, parse_config
from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.driver.run import run
from fedphd_ray.runtime.events import Event, RoundDone


def setting(name: str, default: int) -> int:
    """BENCH_NAME, or a default."""
    return int(os.environ.get(f"BENCH_{name}", default))


COMPILE = bool(setting("COMPILE", 0))
CLIENTS, COHORT, STEPS = setting("CLIENTS", 100), setting("COHORT", 20), setting("STEPS", 2)
ROUNDS, WARM, EDGES, HOSTS = setting("ROUNDS", 8), setting("WARM", 2), setting("EDGES", 2), setting("HOSTS", 2)
PHASES = ("round", "train", "wait", "aggregate", "transfer", "checkpoint")
WIDTHS = [int(width) for width in os.environ.get("BENCH_WIDTHS", "16,32").split(",")]


class Stamps:
    """When each round ended."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.records: list[RoundRecord] = []

    def on_event(self, event: Event) -> None:
        """A round is over, or something else."""
        if isinstance(event, RoundDone):
            self.seconds.append(time.perf_counter())
            self.records.append(event.record)


def job() -> Config:
    """The job as a configuration."""
    # Digits has an image for each of at most 1,797 clients; the null job of more takes images of noise.
    digits = {"name": "digits", "num_clients": CLIENTS, "partition": {"name": "iid"}}
    shapes = digits | {"name": "shapes", "image_size": setting("IMAGE", 8), "num_images": max(4000, 2 * CLIENTS)}
    attention = [width == WIDTHS[1] and index == 1 for index, width in enumerate(WIDTHS)]
    return parse_config(
        {
            "name": "common-job",
            "data": digits if CLIENTS <= 1000 and "BENCH_IMAGE" not in os.environ else shapes,
            "model": {
                "widths": WIDTHS,
                "layers_per_block": setting("LAYERS", 1),
                "groups": setting("GROUPS", 8),
                "attention": attention,
            },
            "strategy": {"name": "fedavg"},
            "hierarchy": {"num_edges": EDGES, "cloud_period": 1},
            "schedule": {"rounds": ROUNDS + 1, "clients_per_round": COHORT},
            "local": {
                "steps": STEPS,
                "batch_size": setting("BATCH", 16),
                "learning_rate": 1e-3,
                "clip_norm": None,
                "compile": COMPILE,
            },
            "evaluation": {"every": 0},
            "runtime": {"placement": "pooled", "hosts": HOSTS},
            "checkpoint": {"every": 10, "keep": 1},
        }
    )


def measure(config: Config) -> None:
    """Runs the job and prints the line."""
    stamps, began = Stamps(), time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        summary = run(config.build(), Path(directory) / "run", stamps)
    rounds = [after - before for before, after in pairwise(stamps.seconds)][max(0, WARM - 1) :]
    starts = stamps.seconds[0] - began - stamps.records[0].round_seconds
    median = statistics.median(rounds)
    overhead = statistics.median(record.overhead_fraction for record in stamps.records[WARM:])
    phases = " ".join(f"{phase} {_median(stamps.records[WARM:], phase):.1f}" for phase in PHASES)
    print(f"ms by phase: {phases}; start {starts:.1f} s; memory {summary.peak_memory_bytes / 2**20:.0f} MiB")
    print(
        f"RESULT fedphd_ray round_s median {median:.4f} min {min(rounds):.4f} max {max(rounds):.4f} "
        f"task_ms {1000 * median / COHORT:.2f} params {summary.params_dense} clients {CLIENTS} cohort {COHORT} steps {STEPS} "
        f"edges {EDGES} hosts {config.runtime.hosts} overhead {overhead:.3f}"
    )


def _median(records: list[RoundRecord], phase: str) -> float:
    """Milliseconds."""
    return 1000 * float(statistics.median(getattr(record, f"{phase}_seconds") for record in records))


if __name__ == "__main__":
    measure(job())
