"""What a comparison shows: a table for people, the same for programs, and a picture."""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import altair as alt

from fedphd_ray.comparison import Entry, Row, equal_work, rows
from fedphd_ray.report import text

COLUMNS = ("method", "FID", "KID", "local steps", "at the cloud", "at the clients", "MACs trained", "parameters", "time")
PANEL = {"width": 340, "height": 240}


def write_comparison(entries: Sequence[Entry], out: Path, title: str, command: str) -> str:
    """Writes `comparison.md`, `.csv`, `.svg` and `.png` into `out`; returns the text of the first.

    Args:
        entries: at least one.
        out: made if missing.
        title: heading.
        command: what to type for the same again.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = rows(entries)
    with (out / "comparison.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)
    report = _markdown(table, entries, title, command)
    (out / "comparison.md").write_text(report)
    if any(len(entry.points) > 1 for entry in entries):
        chart = figure(entries)
        chart.save(out / "comparison.svg")
        chart.save(out / "comparison.png", scale_factor=2)
    return report


def _markdown(table: Sequence[Row], entries: Sequence[Entry], title: str, command: str) -> str:
    seeds = sorted({entry.seed for entry in entries})
    evaluation = entries[0].summary.evaluation
    untrained = {round(entry.summary.fid_untrained, 1) for entry in entries if entry.summary.fid_untrained is not None}
    lines = [
        f"# {title}",
        "",
        f"`{command}`",
        "",
        f"{entries[0].summary.rounds} rounds; seeds {', '.join(map(str, seeds))}; "
        f"FID and KID of {evaluation['num_samples']} samples with {evaluation['steps']} DDIM steps"
        + (f" (untrained: {min(untrained)} to {max(untrained)})" if untrained else "")
        + ". "
        + ("Means, and standard deviations over the seeds. " if len(seeds) > 1 else "")
        + (
            "All methods took the same local steps."
            if equal_work(entries)
            else "**Not the same local work: the numbers of local steps differ.**"
        ),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
        *("| " + " | ".join(_cells(row)) + " |" for row in table),
        "",
        "Bytes are sums over the run of what crosses the cloud's link and the clients' links (flat methods have one link that is "
        "both). MACs are forward passes of local training; what a method computes beside them is not counted.",
        "",
    ]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    spread = "" if math.isnan(row.fid_spread) else f" ± {row.fid_spread:.2f}"
    return [
        row.label,
        f"{row.fid:.2f}{spread}",
        f"{row.kid:.3f}",
        f"{row.local_steps:,.0f}",
        text.num_bytes(row.cloud_bytes),
        text.num_bytes(row.client_bytes),
        text.count(row.macs),
        f"{row.params:,.0f}",
        text.duration(row.seconds),
    ]


def figure(entries: Sequence[Entry]) -> alt.VConcatChart:
    """FID against bytes at the cloud, bytes at the clients, MACs and rounds; means over the seeds."""
    values = _mean_points(entries)
    labels = list(dict.fromkeys(entry.label for entry in entries))
    colors = alt.Scale(scheme="tableau10") if len(labels) <= 10 else alt.Scale(scheme="tableau20")
    color = alt.Color("method:N", sort=labels, scale=colors)
    shape = alt.Shape("method:N", sort=labels, legend=None)
    panels = [
        _panel(values, color, shape, "cloud_bytes", "bytes over the cloud's link", log=True),
        _panel(values, color, shape, "client_bytes", "bytes over the clients' links", log=True),
        _panel(values, color, shape, "macs", "forward MACs of local training", log=False),
        _panel(values, color, shape, "round", "round", log=False),
    ]
    chart: alt.VConcatChart = alt.vconcat(alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:])).configure_legend(title=None)
    return chart


def _panel(
    values: list[dict[str, object]], color: alt.Color, shape: alt.Shape, key: str, title: str, *, log: bool
) -> alt.LayerChart | alt.FacetChart:
    shown = [value for value in values if not log or value[key]]  # nothing is sent before the first round
    scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(padding=12)
    x = alt.X(f"{key}:Q", title=title, scale=scale, axis=alt.Axis(format="~s", tickCount=5, tickMinStep=1))
    y = alt.Y("fid:Q", title="FID", scale=alt.Scale(type="log", nice=False, padding=12), axis=alt.Axis(tickCount=6))
    base = alt.Chart(alt.Data(values=shown)).encode(x=x, y=y, color=color)
    lines, points = base.mark_line(opacity=0.7).encode(order="round:Q"), base.mark_point(filled=True, size=45)
    return alt.layer(lines, points.encode(shape=shape)).properties(**PANEL)


def _mean_points(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """One value per method and evaluated round."""
    values: list[dict[str, object]] = []
    for label in dict.fromkeys(entry.label for entry in entries):
        points = [point for entry in entries if entry.label == label for point in entry.points]
        for round in sorted({point.round for point in points}):
            own = [point for point in points if point.round == round]
            values.append(
                {
                    "method": label,
                    "round": round,
                    "fid": statistics.fmean(point.fid for point in own),
                    "cloud_bytes": statistics.fmean(point.cloud_bytes for point in own),
                    "client_bytes": statistics.fmean(point.client_bytes for point in own),
                    "macs": statistics.fmean(point.macs for point in own),
                }
            )
    return values
