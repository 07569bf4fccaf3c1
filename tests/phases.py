"""Where the phases of a round begin, a way to make something happen there, and to write down what came of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedphd_ray.federation.training.local_training import LocalTrainer
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.evaluation import Evaluator
from fedphd_ray.runtime.on_ray.round import RayRound
from fedphd_ray.runtime.storage.checkpoint import Checkpoints
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.edge_server import EdgeServer

_AT_THE_CLOUD: dict[str, tuple[type, str]] = {
    "cloud aggregation": (Cloud, "_server_step"),
    "pruning": (Cloud, "_prune"),
    "checkpointing": (Checkpoints, "_remove_old"),
    "evaluation": (Evaluator, "evaluate"),
}
ON_RAY: dict[str, tuple[type, str]] = {
    "training": (RayRound, "_train"),
    "upload": (RayRound, "_fold"),
    "edge aggregation": (RayRound, "_aggregate"),
    **_AT_THE_CLOUD,
}
IN_ONE_PROCESS: dict[str, tuple[type, str]] = {
    "training": (LocalTrainer, "train"),
    "upload": (ClientHost, "_upload"),
    "edge aggregation": (EdgeServer, "aggregate"),
    **_AT_THE_CLOUD,
}
PHASES = tuple(ON_RAY)


def at_first_entry(
    patch: Callable[[Any, str, Any], Any], owner: type, name: str, round: int, action: Callable[[], object]
) -> dict[str, Any]:
    """Makes something happen once, right after a method was entered for the first time in a round (of the cloud's, from 1).

    What it returns says under `done` whether it has happened.
    """
    original, tasks = getattr(owner, name), Cloud._tasks
    now: dict[str, Any] = {"round": 0, "done": False}

    def watched_tasks(self: Cloud, state: Any, plan: Any) -> Any:
        now["round"] = plan.round
        return tasks(self, state, plan)

    def watched(*args: Any, **kwargs: Any) -> Any:
        strikes = now["round"] >= round and not now["done"]
        if not strikes:
            return original(*args, **kwargs)
        now["done"] = True
        if owner is RayRound:  # calls are on their way first
            result = original(*args, **kwargs)
            action()
            return result
        action()
        return original(*args, **kwargs)

    patch(Cloud, "_tasks", watched_tasks)
    patch(owner, name, watched)
    return now


def record(fault: str, phase: str, seen: str, seconds: float, *, same: bool) -> None:
    """A row of the table in docs/reliability.md, if FEDPHD_RELIABILITY_ROWS names a file for it."""
    if path := os.environ.get("FEDPHD_RELIABILITY_ROWS"):
        row = {"fault": fault, "phase": phase, "seen": seen, "seconds": round(seconds, 1), "same": same}
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")
