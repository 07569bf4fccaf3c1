"""Runs in a table, a line each."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedphd_ray.report import text
from fedphd_ray.views.run_view import RunView

Key = Callable[[RunView], Any]
ORDERS: dict[str, Key] = {
    "path": lambda run: str(run.directory),
    "name": lambda run: (run.name, run.method),
    "fid": lambda run: (run.fid is None, run.fid or 0.0),
    "bytes": lambda run: sum(run.bytes_by_hop.values()),
    "began": lambda run: run.identity.began,
}


def facts(run: RunView) -> dict[str, Any]:
    """One run, for programs."""
    return {
        "directory": str(run.directory),
        "name": run.name,
        "strategy": run.method,
        "seed": run.settings.get("seed"),
        "state": run.state,
        "round": run.round,
        "rounds": run.num_rounds,
        "fid": run.fid,
        "bytes": sum(run.bytes_by_hop.values()),
        "seconds": run.seconds,
        "began": run.identity.began,
    }


def as_json(runs: Sequence[RunView]) -> str:
    """All of them."""
    return json.dumps([facts(run) for run in runs], indent=1)


def print_runs(console: Console, runs: Sequence[RunView], folder: Path) -> None:
    """For people."""
    table = Table(box=None, pad_edge=False)
    for column, where in (("run", "left"), ("state", "left"), ("method", "left"), ("round", "right")):
        table.add_column(column, justify=where, no_wrap=column != "run", overflow="fold")  # type: ignore[arg-type]
    for column in ("FID", "sent", "time", "began"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        path = run.directory.relative_to(folder) if run.directory.is_relative_to(folder) else run.directory
        table.add_row(
            str(path) if path.parts else str(run.directory),
            run.state,
            run.method,
            f"{run.round}/{run.num_rounds}",
            "" if run.fid is None else f"{run.fid:.2f}",
            text.num_bytes(sum(run.bytes_by_hop.values())),
            text.duration(run.seconds),
            run.identity.began[:16].replace("T", " "),
        )
    console.print(table, markup=False)
