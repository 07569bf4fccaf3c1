"""What a grid of experiments shows: one table for programs, one for people, heat maps, and who took part."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import altair as alt
import pyarrow as pa
import pyarrow.parquet as pq

from fedphd_ray.report import text
from fedphd_ray.report.pictures import save_picture
from fedphd_ray.stress import Measured

CELL = {"width": alt.Step(88), "height": alt.Step(44)}
LINES = "split(datum.label, ', ')"  # a line for each part of a label


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
    pq.write_table(pa.Table.from_pylist([_row(run, target, hops) for run in measured]), out / "stress.parquet")
    shares = [row for run in measured for row in _participation(run)]
    pq.write_table(pa.Table.from_pylist(shares), out / "participation.parquet")
    groups = _groups(measured)
    report = _markdown(groups, target, title, command)
    (out / "stress.md").write_text(report)
    for suffix in (".svg", ".png"):
        save_picture(heat_maps(groups, target, title), out / f"stress{suffix}", "--out")
        save_picture(pareto(groups, title), out / f"pareto{suffix}", "--out")
        if any(len(run.clients) > 1 for run in measured):
            save_picture(participation(measured, title), out / f"participation{suffix}", "--out")
    return report


Group = list[Measured]


def _groups(measured: Sequence[Measured]) -> list[Group]:
    """Runs that differ in nothing but their seed."""
    groups: dict[tuple[str, str], Group] = {}
    for run in measured:
        groups.setdefault((run.cell.name, run.strategy), []).append(run)
    return list(groups.values())


def _mean(group: Group, value: Callable[[Measured], float]) -> float:
    return statistics.fmean(value(run) for run in group)


def _spread(group: Group, value: Callable[[Measured], float]) -> float:
    values = [value(run) for run in group]
    return statistics.stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else math.nan


def _row(run: Measured, target: float, hops: Sequence[str]) -> dict[str, object]:
    return {
        **run.cell.values,
        "cell": run.cell.name,
        "strategy": run.strategy,
        "seed": run.seed,
        "fid": run.fid,
        "kid": run.kid,
        "sim_seconds": run.sim_seconds,
        "sim_seconds_to_target": run.seconds_to(target),
        "target_fid": target,
        "cloud_bytes": run.cloud_bytes,
        "client_bytes": run.client_bytes,
        **{f"{hop}_bytes": run.bytes_by_hop.get(hop, 0) for hop in hops},
        "lost_bytes": run.lost_bytes,
        "updates_used": sum(run.used.values()),
        "updates_not_used": sum(run.unused.values()),
        "local_steps": run.local_steps,
        "wall_seconds": run.wall_seconds,
    }


def _participation(run: Measured) -> list[dict[str, object]]:
    return [
        {
            **run.cell.values,
            "cell": run.cell.name,
            "strategy": run.strategy,
            "seed": run.seed,
            "class": kind,
            "clients": number,
            "used": run.used.get(kind, 0),
            "not_used": run.unused.get(kind, 0),
        }
        for kind, number in sorted(run.clients.items())
    ]


def _markdown(groups: Sequence[Group], target: float, title: str, command: str) -> str:
    keys, seeds = list(groups[0][0].cell.values), sorted({run.seed for group in groups for run in group})
    columns = [*keys, "method", *_cells(groups[0], target, simulated=_simulated(groups))]
    several = " Means, and standard deviations over the seeds." if len(seeds) > 1 else ""
    timed = " Times are simulated; the target is the FID that all reach." if _simulated(groups) else ""
    lost = ", and the share of the latter for updates that were not used" if _simulated(groups) else ""
    lines = [
        f"# {title}",
        "",
        f"`{command}`",
        "",
        f"Seeds {', '.join(map(str, seeds))}.{several}{timed} Bytes: over the cloud's link, over the clients' links{lost}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * (len(keys) + 1) + "---:|" * (len(columns) - len(keys) - 1),
    ]
    for group in groups:
        cells = _cells(group, target, simulated=_simulated(groups)).values()
        lines.append("| " + " | ".join([*group[0].cell.values.values(), group[0].strategy, *cells]) + " |")
    return "\n".join([*lines, ""])


def _simulated(groups: Sequence[Group]) -> bool:
    return any(run.sim_seconds for group in groups for run in group)


def _cells(group: Group, target: float, *, simulated: bool) -> dict[str, str]:
    """Column -> what it has of a group; those of time and loss only where devices are simulated."""
    spread, reached = _spread(group, lambda run: run.fid), _mean(group, lambda run: run.seconds_to(target))
    times = {
        "simulated time": text.duration(_mean(group, lambda run: run.sim_seconds)),
        f"time to FID {target:.3g}": "not by all" if math.isnan(reached) else text.duration(reached),
    }
    lost = text.percent(_mean(group, lambda run: run.lost_bytes / run.client_bytes if run.client_bytes else 0.0))
    return {
        "FID": f"{_mean(group, lambda run: run.fid):.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}"),
        **(times if simulated else {}),
        "updates used": f"{_mean(group, lambda run: sum(run.used.values())):,.0f}",
        "cloud": text.num_bytes(_mean(group, lambda run: run.cloud_bytes)),
        "clients": text.num_bytes(_mean(group, lambda run: run.client_bytes)),
        **({"lost": lost} if simulated else {}),
    }


def heat_maps(groups: Sequence[Group], target: float, title: str) -> alt.VConcatChart:
    """One row of maps per figure, one map per method: the first key across, the others down."""
    keys = list(groups[0][0].cell.short)
    figures: dict[str, tuple[Callable[[Measured], float], Callable[[float], str]]] = {
        "FID": (lambda run: run.fid, lambda value: f"{value:.2f}"),
        "simulated time": (lambda run: run.sim_seconds, text.duration),
        f"simulated time to FID {target:.3g}": (lambda run: run.seconds_to(target), text.duration),
        "bytes over the cloud's link": (lambda run: run.cloud_bytes, text.num_bytes),
        "share of bytes for nothing": (lambda run: run.lost_bytes / max(1, run.client_bytes), text.percent),
    }
    rows = []
    for label, (value, told) in figures.items():
        values = [
            {
                "x": group[0].cell.short[keys[0]] if keys else "",
                "y": "; ".join(group[0].cell.short[key] for key in keys[1:]),
                "method": group[0].strategy,
                "value": None if math.isnan(mean) else mean,
                "told": "none" if math.isnan(mean) else told(mean),
            }
            for group in groups
            for mean in [_mean(group, value)]
        ]
        if any(one["value"] for one in values):
            rows.append(_map(values, label, keys))
    chart: alt.VConcatChart = alt.vconcat(*rows, title=alt.TitleParams(title, anchor="start")).resolve_scale(color="independent")
    return chart


def _map(values: Sequence[Mapping[str, object]], label: str, keys: Sequence[str]) -> alt.FacetChart:
    order = {name: _in_order(values, name) for name in ("x", "y", "method")}
    x = alt.X("x:N", sort=order["x"], title=keys[0] if keys else None, axis=alt.Axis(labelAngle=0, labelExpr=LINES))
    y = alt.Y("y:N", sort=order["y"], title="; ".join(keys[1:]) or None, axis=alt.Axis(labelLimit=240, labelExpr=LINES))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    scale = alt.Scale(range=["#FFF7EC", "#FDBB84", "#D7301F"])
    cells = base.mark_rect(stroke="white").encode(color=alt.Color("value:Q", scale=scale, legend=None))
    words = base.mark_text(fontSize=11).encode(text="told:N")
    column = alt.Column("method:N", sort=order["method"], title=label, header=alt.Header(titleAnchor="start", titleFontSize=13))
    chart: alt.FacetChart = alt.layer(cells, words).properties(**CELL).facet(column=column)
    return chart


def pareto(groups: Sequence[Group], title: str) -> alt.VConcatChart:
    """Bytes against FID, a point per method and a row per cell; a line joins those that no other method beats in both."""
    points: list[dict[str, object]] = []
    for label, moved in {"the cloud's link": "cloud_bytes", "all links": "all_bytes"}.items():
        for group in groups:
            fid, spread = _mean(group, lambda run: run.fid), _spread(group, lambda run: run.fid)
            num_bytes = _mean(group, lambda run: sum(run.bytes_by_hop.values()) if moved == "all_bytes" else run.cloud_bytes)  # noqa: B023
            told = "; ".join(f"{key} {value}" for key, value in group[0].cell.short.items())
            if not math.isnan(fid) and num_bytes > 0:
                low, high = (fid, fid) if math.isnan(spread) else (fid - spread, fid + spread)
                point = {"cell": told, "link": label, "method": group[0].strategy, "megabytes": num_bytes / 1e6, "fid": fid}
                points.append({**point, "low": low, "high": high})
    for point in points:
        rivals = [one for one in points if (one["cell"], one["link"]) == (point["cell"], point["link"])]
        point["best"] = not any(
            float(str(one["megabytes"])) <= float(str(point["megabytes"])) and float(str(one["fid"])) < float(str(point["fid"]))
            for one in rivals
        )
    base = alt.Chart().encode(
        x=alt.X("megabytes:Q", scale=alt.Scale(type="log"), title="bytes, MB"),
        y=alt.Y("fid:Q", title="FID", scale=alt.Scale(zero=False)),
        color=alt.Color("method:N", sort=_in_order(points, "method"), title=None),
    )
    front = (
        base.transform_filter("datum.best").mark_line(strokeDash=[3, 3], interpolate="step-after").encode(color=alt.value("gray"))
    )
    bars = base.mark_rule().encode(y=alt.Y("low:Q", title="FID"), y2="high:Q")
    layers = alt.layer(front, bars, base.mark_point(size=70, filled=True), data=alt.Data(values=points)).properties(
        width=300, height=220
    )
    cells, links = _in_order(points, "cell"), _in_order(points, "link")
    chart = layers.facet(
        row=alt.Row("cell:N", sort=cells, title=None, header=alt.Header(labelLimit=240)),
        column=alt.Column("link:N", sort=links, title=None),
    )
    grid: alt.VConcatChart = alt.vconcat(chart, title=alt.TitleParams(title, anchor="start")).resolve_scale(color="shared")
    return grid


def participation(measured: Sequence[Measured], title: str) -> alt.FacetChart:
    """Used updates per client of each class of devices, by cell and method."""
    shares = [
        {
            "cell": "; ".join(f"{key} {value}" for key, value in run.cell.short.items()),
            "method": run.strategy,
            "class": kind,
            "updates": run.used.get(kind, 0) / number,
        }
        for run in measured
        for kind, number in run.clients.items()
    ]
    cells, methods = _in_order(shares, "cell"), _in_order(shares, "method")
    heading = alt.TitleParams(title, subtitle="updates used per client of a class, in the mean over the seeds", anchor="start")
    chart: alt.FacetChart = (
        alt.Chart(alt.Data(values=shares))
        .mark_bar()
        .encode(
            x=alt.X("mean(updates):Q", title="updates per client"),
            y=alt.Y("class:N", title=None),
            color=alt.Color("class:N", legend=None),
            row=alt.Row("cell:N", sort=cells, title=None, header=alt.Header(labelAngle=0, labelAlign="left", labelLimit=260)),
            column=alt.Column("method:N", sort=methods, title=None),
        )
        .properties(width=150, height=alt.Step(16), title=heading)
    )
    return chart


def _in_order(values: Sequence[Mapping[str, object]], name: str) -> list[str]:
    """What a column holds, each once, in the order of its first."""
    return list(dict.fromkeys(str(value[name]) for value in values))
