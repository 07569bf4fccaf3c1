"""Our side of the common job (benchmarks/README.md): the same rounds as other systems run, with edges and the ledger on.

BENCH_STEPS=0 python benchmarks/common_job.py
"""

import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from fedphd_ray.config import parse_config
from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.runtime.progress import RoundRecord
from fedphd_ray.runtime.run import run


def setting(name: str, default: int) -> int:
    """BENCH_NAME, or a default."""
    return int(os.environ.get(f"BENCH_{name}", default))


CLIENTS, COHORT, STEPS = setting("CLIENTS", 100), setting("COHORT", 20), setting("STEPS", 2)
ROUNDS, WARM, EDGES = setting("ROUNDS", 8), setting("WARM", 2), setting("EDGES", 2)
WIDTHS = [int(width) for width in os.environ.get("BENCH_WIDTHS", "16,32").split(",")]


class Stamps:
    """When each round ended."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.records: list[RoundRecord] = []

    def on_quality(self, round: int, quality: QualityReport) -> None:
        """Nothing is judged."""

    def on_round(self, record: RoundRecord, quality: QualityReport | None) -> None:
        """A round is over."""
        self.seconds.append(time.perf_counter())
        self.records.append(record)


def main() -> None:
    """Runs the job and prints the line."""
    config = parse_config(
        {
            "name": "common-job",
            "data": {"name": "digits", "num_clients": CLIENTS, "partition": {"name": "iid"}},
            "model": {"widths": WIDTHS, "layers_per_block": 1, "groups": 8, "attention": [False, True]},
            "strategy": {"name": "fedavg"},
            "hierarchy": {"num_edges": EDGES, "cloud_period": 1},
            "schedule": {"rounds": ROUNDS + 1, "clients_per_round": COHORT},
            "local": {"steps": STEPS, "batch_size": setting("BATCH", 16), "learning_rate": 1e-3, "clip_norm": None},
            "evaluation": {"every": 0},
            "runtime": {"placement": "pooled", "hosts": setting("HOSTS", 2)},
            "checkpoint": {"every": 10, "keep": 1},
        }
    )
    stamps = Stamps()
    with tempfile.TemporaryDirectory() as directory:
        summary = run(config.build(), Path(directory) / "run", stamps)
    rounds = [after - before for before, after in pairwise(stamps.seconds)][max(0, WARM - 1) :]
    median = statistics.median(rounds)
    overhead = statistics.median(record.overhead_fraction for record in stamps.records)
    print(
        f"RESULT fedphd_ray round_s median {median:.4f} min {min(rounds):.4f} max {max(rounds):.4f} "
        f"task_ms {1000 * median / COHORT:.2f} params {summary.params_dense} clients {CLIENTS} cohort {COHORT} steps {STEPS} "
        f"edges {EDGES} overhead {overhead:.3f}"
    )


if __name__ == "__main__":
    main()
