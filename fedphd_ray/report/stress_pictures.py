"""The pictures of a grid of experiments: heat maps, bytes against quality, and who took part."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import altair as alt

from fedphd_ray.experiments.stress import Measured
from fedphd_ray.report import text
from fedphd_ray.report.stress_figures import Group, deviation, groups_of, mean

CELL = {"width": alt.Step(88), "height": alt.Step(44)}
LINES = "split(datum.label, ', ')"  # a line for each part of a label


@dataclass(frozen=True)
class Picture:
    """One picture of a grid.

    Attributes:
        name: of its file.
        title: of what it shows.
        words: what can be read from it.
        chart: draws it under a heading; none for an empty one.
    """

    name: str
    title: str
    words: str
    chart: Callable[[str], alt.TopLevelMixin]


def pictures(measured: Sequence[Measured], target: float) -> list[Picture]:
    """All that there are data for."""
    groups = groups_of(measured)
    found = [
        Picture(
            "stress",
            "Heat maps",
            "A map per figure and method; a cell is one setting of the keys.",
            partial(heat_maps, groups, target),
        ),
        Picture(
            "pareto", "Bytes against quality", "Further down is better, further to the left is cheaper.", partial(pareto, groups)
        ),
    ]
    if any(len(run.clients) > 1 for run in measured):
        words = "Share of the clients of each kind of device whose updates were used."
        found.append(Picture("participation", "Who took part", words, partial(participation, measured)))
    return found


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
                "value": None if math.isnan(average) else average,
                "told": "none" if math.isnan(average) else told(average),
            }
            for group in groups
            for average in [mean(group, value)]
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
    on_colour = alt.condition("isValid(datum.value)", alt.value("#1A1D21"), alt.value("#808080"))  # on a dark page, too
    words = base.mark_text(fontSize=11).encode(text="told:N", color=on_colour)
    column = alt.Column("method:N", sort=order["method"], title=label, header=alt.Header(titleAnchor="start", titleFontSize=13))
    chart: alt.FacetChart = alt.layer(cells, words).properties(**CELL).facet(column=column)
    return chart


def pareto(groups: Sequence[Group], title: str) -> alt.VConcatChart:
    """Bytes against FID, a point per method and a row per cell; a line joins those that no other method beats in both."""
    points: list[dict[str, object]] = []
    for label, moved in {"the cloud's link": "cloud_bytes", "all links": "all_bytes"}.items():
        for group in groups:
            fid, spread = mean(group, lambda run: run.fid), deviation(group, lambda run: run.fid)
            num_bytes = mean(group, lambda run: sum(run.bytes_by_hop.values()) if moved == "all_bytes" else run.cloud_bytes)  # noqa: B023
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
