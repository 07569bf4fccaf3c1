"""What a comparison shows: a table for people, the same for programs, and a picture."""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import altair as alt

from fedphd_ray.experiments.comparison import Entry, Row, equal_work, rows
from fedphd_ray.report import text

COLUMNS = ("method", "FID", "KID", "local steps", "at the cloud", "at the clients", "MACs trained", "parameters", "time")
PANEL = {"width": 340, "height": 240}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F", "#8B4513", "#B8B000")
"""Okabe and Ito's, and three more: told apart by people who see few colours, and with the markers also in print."""
MARKERS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")


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
        chart = figure(entries, title)
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
        f"FID and KID of {evaluation['num_samples']} samples with {evaluation['steps']} DDIM steps, in the features of "
        f"{entries[0].summary.fid_features or 'nothing: none was judged'}"
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


def figure(entries: Sequence[Entry], title: str) -> alt.VConcatChart:
    """FID against bytes at the cloud, bytes at the clients, MACs and rounds; means over the seeds, and standard deviations."""
    values = _mean_points(entries)
    fid = f"FID ({entries[0].summary.fid_features})"
    labels = list(dict.fromkeys(entry.label for entry in entries))
    color = alt.Color("method:N", sort=labels, scale=alt.Scale(domain=labels, range=_repeated(COLOURS, len(labels))))
    shape = alt.Shape("method:N", sort=labels, scale=alt.Scale(domain=labels, range=_repeated(MARKERS, len(labels))))
    panels = [
        _panel(values, color, shape, "cloud_bytes", "bytes over the cloud's link", fid, log=True),
        _panel(values, color, shape, "client_bytes", "bytes over the clients' links", fid, log=True),
        _panel(values, color, shape, "macs", "forward MACs of local training", fid, log=False),
        _panel(values, color, shape, "round", "round", fid, log=False),
    ]
    if any(value["sim_seconds"] for value in values):
        panels.append(_panel(values, color, shape, "sim_seconds", "simulated seconds", fid, log=False))
    notes = ["dashed: the untrained network"]
    notes += ["ring: first judged after the pruning"] if any(value["just_pruned"] for value in values) else []
    notes += ["bars: standard deviation over the seeds"] if any(value["low"] != value["high"] for value in values) else []
    heading = alt.TitleParams(title, subtitle="; ".join(notes), anchor="start")
    chart: alt.VConcatChart = alt.vconcat(*(alt.hconcat(*panels[at : at + 2]) for at in range(0, len(panels), 2)), title=heading)
    styled: alt.VConcatChart = chart.configure_legend(title=None, symbolSize=80)
    return styled


def _repeated(choices: Sequence[str], number: int) -> list[str]:
    return [choices[index % len(choices)] for index in range(number)]


def _panel(
    values: list[dict[str, object]], color: alt.Color, shape: alt.Shape, key: str, title: str, fid: str, *, log: bool
) -> alt.LayerChart | alt.FacetChart:
    shown = [value for value in values if not log or value[key]]  # nothing is sent before the first round
    scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(padding=12)
    x = alt.X(f"{key}:Q", title=title, scale=scale, axis=alt.Axis(format="~s", tickCount=5, tickMinStep=1))
    fid_scale = alt.Scale(type="log", nice=False, padding=12)
    y = alt.Y("fid:Q", title=fid, scale=fid_scale, axis=alt.Axis(tickCount=6))
    base = alt.Chart(alt.Data(values=shown)).encode(x=x, y=y, color=color)
    lines, points = base.mark_line(opacity=0.7).encode(order="round:Q"), base.mark_point(filled=True, size=60, opacity=1)
    bars = base.mark_rule(opacity=0.6).encode(y=alt.Y("low:Q", title=fid, scale=fid_scale), y2="high:Q")
    rings = alt.Chart(alt.Data(values=[value for value in shown if value["just_pruned"]])).encode(x=x, y=y)
    untrained = [value for value in values if value["round"] == 0][:1]
    start = alt.Chart(alt.Data(values=untrained)).mark_rule(strokeDash=[4, 4], color="grey").encode(y=y)
    ringed = rings.mark_point(filled=False, size=220, color="black", shape="circle")
    return alt.layer(start, bars, lines, points.encode(shape=shape), ringed).properties(**PANEL)


def _mean_points(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """One value per method and evaluated round."""
    values: list[dict[str, object]] = []
    for label in dict.fromkeys(entry.label for entry in entries):
        points = [point for entry in entries if entry.label == label for point in entry.points]
        version = 0
        for round in sorted({point.round for point in points}):
            own = [point for point in points if point.round == round]
            fids = [point.fid for point in own]
            mean, spread = statistics.fmean(fids), statistics.stdev(fids) if len(fids) > 1 else 0.0
            values.append(
                {
                    "method": label,
                    "round": round,
                    "fid": mean,
                    "low": max(mean - spread, 0.1 * mean),  # a logarithmic axis has no zero
                    "high": mean + spread,
                    "just_pruned": own[0].version > version,
                    "cloud_bytes": statistics.fmean(point.cloud_bytes for point in own),
                    "client_bytes": statistics.fmean(point.client_bytes for point in own),
                    "macs": statistics.fmean(point.macs for point in own),
                    "sim_seconds": statistics.fmean(point.sim_seconds for point in own),
                }
            )
            version = own[0].version
    return values
