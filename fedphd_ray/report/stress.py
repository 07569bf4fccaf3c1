"""What a grid of experiments leaves: one table for programs, one for people, and pictures."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedphd_ray.experiments.stress import Measured
from fedphd_ray.report.pictures import save_picture
from fedphd_ray.report.stress_figures import Table, row, shares, table
from fedphd_ray.report.stress_pictures import pictures


def write_stress(measured: Sequence[Measured], target: float, out: Path, title: str, command: str) -> str:
    """Writes `stress.parquet`, `participation.parquet`, `stress.md`, and heat maps; returns the text of the third.

    Args:
        measured: all runs.
        target: FID for `time to`.
        out: the folder.
        title: heading.
        command: what to type for the same again.
    """
    out.mkdir(parents=True, exist_ok=True)
    hops = sorted({hop for run in measured for hop in run.bytes_by_hop})
    pq.write_table(pa.Table.from_pylist([row(run, target, hops) for run in measured]), out / "stress.parquet")
    kept = [share for run in measured for share in shares(run)]
    pq.write_table(pa.Table.from_pylist(kept), out / "participation.parquet")
    report = _markdown(table(measured, target), title, command)
    (out / "stress.md").write_text(report)
    for suffix in (".svg", ".png"):
        for picture in pictures(measured, target):
            save_picture(picture.chart(title), out / f"{picture.name}{suffix}", "--out")
    return report


def _markdown(cells: Table, title: str, command: str) -> str:
    width = len(cells.columns)
    lines = [
        f"# {title}",
        "",
        f"`{command}`",
        "",
        cells.note,
        "",
        "| " + " | ".join(cells.columns) + " |",
        "|" + "---|" * cells.num_keys + "---:|" * (width - cells.num_keys),
        *("| " + " | ".join(row) + " |" for row in cells.rows),
        "",
    ]
    return "\n".join(lines)
