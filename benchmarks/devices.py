"""What simulated devices cost: wall time with and without them, how busy the slots are, and what planning takes.

300 clients, three in ten of them stragglers that come and go, 20 a round. Both variants train as many clients for as many steps.
BENCH_ROUNDS (default 200), BENCH_REPEATS (default 2): the variants take turns.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from fedphd_ray.config import Config, parse_config
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.plans import RoundPlan
from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.driver.run import run
from fedphd_ray.runtime.events import Event, RoundDone

ROUNDS, REPEATS = int(os.environ.get("BENCH_ROUNDS", "200")), int(os.environ.get("BENCH_REPEATS", "2"))
DEVICES = {
    "classes": [
        {"name": "usual", "share": 0.7, "macs_per_second": 5.0e9, "download_mbit": 40, "upload_mbit": 10},
        {"name": "straggler", "share": 0.3, "macs_per_second": 5.0e8, "download_mbit": 4, "upload_mbit": 1},
    ],
    "availability": {"name": "markov", "leave": 0.2, "join": 0.4},
}
POLICIES: dict[str, dict[str, object] | None] = {
    "without devices": None,
    "wait": {"name": "wait"},
    "buffered, 20": {"name": "buffered", "size": 20},
    "buffered, 10": {"name": "buffered", "size": 10},
    "buffered, 4": {"name": "buffered", "size": 4},
}
PLANNED = POLICIES | {
    "deadline": {"name": "deadline", "seconds": 60},
    "over_select": {"name": "over_select", "extra": 5},
}


class Records:
    """Those of all rounds."""

    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []

    def on_event(self, event: Event) -> None:
        """A round is over, or something else."""
        if isinstance(event, RoundDone):
            self.rounds.append(event.record)


def job(policy: dict[str, object] | None, *, clients: int = 300, cohort: int = 20, rounds: int = ROUNDS) -> Config:
    """The job under a policy; None leaves out the devices."""
    shapes: dict[str, object] = {"name": "shapes", "image_size": 8, "partition": {"name": "iid"}}
    devices: dict[str, object] = {} if policy is None else {"devices": DEVICES}
    waiting: dict[str, object] = {} if policy is None else {"policy": policy}
    schedule: dict[str, object] = {"rounds": rounds, "clients_per_round": cohort} | waiting
    tree: dict[str, object] = {
        "name": "devices",
        "data": shapes | {"num_images": 20 * clients, "num_clients": clients},
        "model": {"widths": [32, 64], "layers_per_block": 1, "groups": 8, "attention": [False, True]},
        "strategy": {"name": "fedavg"},
        "hierarchy": {"num_edges": 2, "cloud_period": 5},
        "schedule": schedule,
        "local": {"steps": 2, "batch_size": 16, "learning_rate": 1e-3},
        "evaluation": {"every": 0},
        "runtime": {"placement": "pooled", "hosts": 2},
        "checkpoint": {"every": 10, "keep": 1},
    } | devices
    return parse_config(tree)


def seconds_per_training(policy: dict[str, object] | None) -> tuple[float, float, int]:
    """Of a run: wall time of its rounds over its trainings, share of the slots' time spent in training, and its trainings."""
    records = Records()
    with tempfile.TemporaryDirectory() as directory:
        run(job(policy).build(), Path(directory) / "run", records)
    rounds = records.rounds[5:]
    wall = sum(record.round_seconds for record in rounds)
    trained = sum(record.local_steps for record in rounds) // 2
    return wall / trained, sum(record.train_seconds for record in rounds) / (2 * wall), trained


def planning_milliseconds(policy: dict[str, object]) -> float:
    """Of one round's plan, with 10,000 registered clients and ten asked: the median of 400 rounds."""
    experiment, seconds = job(policy, clients=10_000, cohort=10, rounds=400).build(), list[float]()
    schedule = experiment.schedule
    plan = schedule.plan

    def timed(*arguments: Any) -> RoundPlan:
        began = time.perf_counter()
        planned = plan(*arguments)
        seconds.append(time.perf_counter() - began)
        return planned

    schedule.plan = timed  # type: ignore[method-assign, assignment]
    forecast(experiment)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    measured: dict[str, list[tuple[float, float, int]]] = {name: [] for name in POLICIES}
    for _ in range(REPEATS):
        for name, policy in POLICIES.items():
            measured[name].append(seconds_per_training(policy))
            print(name, *measured[name][-1], flush=True)
    base = statistics.median(seconds for seconds, _, _ in measured["without devices"])
    for name, runs in measured.items():
        seconds = statistics.median(seconds for seconds, _, _ in runs)
        busy = statistics.median(busy for _, busy, _ in runs)
        print(f"RESULT {name}: {1000 * seconds:.2f} ms a training, ratio {seconds / base:.3f}, slots {busy:.1%} in training")
    for name, policy in PLANNED.items():
        if policy is not None:
            print(f"PLANNING {name}: {planning_milliseconds(policy):.2f} ms a round at 10,000 registered clients")
