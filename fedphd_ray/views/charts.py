"""The charts of a report, as Vega-Lite: each of one idea, with its figures in words for those who do not see it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from fedphd_ray.report.comparison import COLOURS
from fedphd_ray.report.text import hop, num_bytes
from fedphd_ray.views.run_view import Line, RunView

MOST_POINTS, MOST_CELLS = 400, 100
HEIGHT = 220
PHASES = ("train", "wait", "aggregate", "transfer", "checkpoint")


@dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        title: above it.
        words: what can be read from it, for those who do not see it.
        spec: Vega-Lite; None for a picture of which there are no data.
        rows: its figures, few enough to be read.
    """

    title: str
    words: str
    spec: Mapping[str, Any]
    rows: Sequence[Mapping[str, object]] = field(default_factory=list)


def charts(runs: Sequence[tuple[str, RunView]]) -> list[Chart]:
    """All that there are data for, of one run or several by their labels."""
    found = [
        _quality(runs, "round", "by round", "round"),
        _quality(runs, "bytes", "against bytes sent", "bytes over all links"),
        _quality(runs, "sim_seconds", "against simulated time", "simulated seconds"),
        _loss(runs),
    ]
    if len(runs) == 1:
        run = runs[0][1]
        found += [traffic(run), _homogeneity(run), participation(run), _phases(run)]
    return [chart for chart in found if chart is not None]


def _quality(runs: Sequence[tuple[str, RunView]], key: str, how: str, axis: str) -> Chart | None:
    rows = [
        {"run": label, "round": line["round"], "FID": line["fid"], "bytes": sent, "sim_seconds": seconds}
        for label, run in runs
        for line, sent, seconds in judged(run)
    ]
    rows = [row for row in rows if key == "round" or row[key]]  # nothing sent yet, or a run without a clock
    if not any(row[key] for row in rows):
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(f"{key}:Q", title=axis, axis=alt.Axis(format="~s" if key != "round" else "d", tickMinStep=1)),
        y=alt.Y("FID:Q", scale=alt.Scale(type="log", nice=False, padding=10)),
        **_by_run(runs),
        tooltip=["run:N", "round:Q", "FID:Q", alt.Tooltip("bytes:Q", format=",")],
    )
    last = {label: row["FID"] for label, _ in runs for row in rows if row["run"] == label}
    return Chart(
        f"Quality {how}",
        "Lower is better. " + "; ".join(f"{label}: FID {fid:.2f} at last" for label, fid in last.items()) + ".",
        _spec(base.mark_line(point=True)),
        rows,
    )


def judged(run: RunView) -> list[tuple[Line, int, float]]:
    """Lines of `quality.jsonl` with a FID, and what had been sent, and the clock, by then."""
    sent, seconds, total = {0: 0}, {0: 0.0}, 0
    for line in run.rounds:
        total += sum(line.get("bytes_by_hop", {}).values())
        sent[line["round"]], seconds[line["round"]] = total, float(line.get("sim_seconds") or 0.0)
    return [
        (line, sent.get(line["round"], 0), seconds.get(line["round"], 0.0))
        for line in run.qualities
        if isinstance(line.get("fid"), int | float)
    ]


def _loss(runs: Sequence[tuple[str, RunView]]) -> Chart | None:
    rows = [
        {"run": label, "round": line["round"], "loss": line["loss"]}
        for label, run in runs
        for line in thinned(run.rounds)
        if line.get("loss") is not None
    ]
    if not rows:
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("round:Q", axis=alt.Axis(format="d", tickMinStep=1)),
        y=alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False)),
        **_by_run(runs),
        tooltip=["run:N", "round:Q", "loss:Q"],
    )
    return Chart("Loss", "Mean noise-prediction loss over the local steps of a round.", _spec(base.mark_line(strokeWidth=1.5)))


def traffic(run: RunView) -> Chart | None:
    """A flow picture: clients, edges, cloud; a band per direction, as wide as its bytes, before and after the pruning."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    rounds: Counter[str] = Counter()
    for line in run.rounds:
        stage = "pruned" if line.get("version") else "dense"
        rounds[stage] += 1
        for name, num in line.get("bytes_by_hop", {}).items():
            sums[stage, name] += num
    if not sums:
        return None
    tiers = _tiers(run)
    places = {tier: at for at, tier in enumerate(tiers)}
    bands: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for (stage, name), num in sums.items():
        source, _, target = name.partition("_to_")
        if source not in places or target not in places:
            continue
        up = places[target] > places[source]
        per_round = num / rounds[stage]
        row = {"stage": f"{stage}, {rounds[stage]} rounds", "hop": hop(name), "bytes": num, "a round": per_round}
        for end in (source, target):
            bands.append(row | {"x": places[end], "y": 0.24 if up else 0.76, "direction": "up" if up else "down"})
    stages = list(dict.fromkeys(str(row["stage"]) for row in bands))
    for shown in stages:
        marks += [{"stage": shown, "tier": tier, "x": at, "y": 0.5} for tier, at in places.items()]
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.35, len(tiers) - 0.65]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    lines = (
        alt.Chart()
        .transform_filter("datum.hop != null")
        .mark_trail(opacity=0.75)
        .encode(
            x=x,
            y=y,
            size=alt.Size("a round:Q", title="bytes a round", scale=alt.Scale(range=[1, 34], zero=True), legend=None),
            color=alt.Color("direction:N", scale=alt.Scale(domain=["up", "down"], range=list(COLOURS[:2]))),
            detail="hop:N",
            tooltip=["hop:N", alt.Tooltip("bytes:Q", format=","), alt.Tooltip("a round:Q", format=",.0f")],
        )
    )
    nodes = (
        alt.Chart()
        .transform_filter("datum.tier != null")
        .mark_text(fontSize=13, fontWeight="bold")
        .encode(x=x, y=y, text="tier:N")
    )
    drawn = alt.layer(lines, nodes, data=alt.Data(values=[*bands, *marks])).properties(height=150, width=300)
    rows = [
        {"stage": stage, "hop": hop(name), "bytes": num, "a round": num / rounds[stage]} for (stage, name), num in sums.items()
    ]
    return Chart(
        "Traffic",
        "Bands are as wide as the bytes of a round. " + " ".join(_in_words(stage, rows) for stage in rounds),
        drawn.facet(column=alt.Column("stage:N", title=None, sort=stages)).to_dict(),
        rows,
    )


def _in_words(stage: str, rows: Sequence[Mapping[str, Any]]) -> str:
    hops = ", ".join(f"{row['hop']} {num_bytes(row['a round'])}" for row in rows if row["stage"] == stage)
    return f"A {stage} round: {hops}."


def _tiers(run: RunView) -> list[str]:
    """From the clients to the cloud, by the names in the hops."""
    pairs = {name.partition("_to_")[::2] for line in run.rounds for name in line.get("bytes_by_hop", {})}
    tiers, here = ["client"], "client"
    while here != "cloud":
        above = [target for source, target in pairs if source == here and target not in tiers]
        if not above:
            break
        here = above[0]
        tiers.append(here)
    return tiers


def _homogeneity(run: RunView) -> Chart | None:
    rows = [
        {"round": line["round"], "edge": f"edge/{edge}", "SH": score}
        for line in thinned(run.rounds)
        for edge, score in line.get("homogeneity", {}).items()
    ]
    if not rows or len({row["edge"] for row in rows}) < 2:
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("round:Q", axis=alt.Axis(format="d", tickMinStep=1)),
        y=alt.Y("SH:Q", title="homogeneity SH (2 is best)", scale=alt.Scale(zero=False)),
        color=alt.Color("edge:N", scale=alt.Scale(range=list(COLOURS))),
        tooltip=["round:Q", "edge:N", "SH:Q"],
    )
    mean = sum(float(row["SH"]) for row in rows) / len(rows)
    words = f"How evenly an edge has seen all classes since its model was sent up last; mean {mean:.3f}."
    return Chart("Homogeneity of edges", words, _spec(base.mark_line(strokeWidth=1)))


def participation(run: RunView) -> Chart | None:
    """Who took part: clients by rounds; of many, groups of clients and of rounds."""
    if not run.rounds:
        return None
    num_clients = int(run.settings.get("data", {}).get("num_clients") or 1)
    last = max(int(line["round"]) for line in run.rounds)
    group, span = -(-num_clients // MOST_CELLS), -(-last // MOST_CELLS)
    cells: Counter[tuple[int, int, str]] = Counter()
    totals: Counter[int] = Counter()
    for line in run.rounds:
        at = (int(line["round"]) - 1) // span
        left_out = {**line.get("outcomes", {}), **line.get("unused", {})}
        for client in {*line.get("participants", {}), *left_out}:
            used = client not in left_out
            cells[int(client) // group, at, "used" if used else "not used"] += 1
            totals[int(client)] += used
    rows = [
        {"client": first * group, "round": at * span + 1, "update": status, "times": times}
        for (first, at, status), times in cells.items()
    ]
    size = max(2.0, min(9.0, 640 / max(1, -(-last // span))))
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("round:Q", bin=alt.Bin(step=span) if span > 1 else alt.Undefined, axis=alt.Axis(format="d", tickMinStep=1)),
        y=alt.Y("client:Q", title="client" if group == 1 else f"clients, {group} to a row", scale=alt.Scale(reverse=True)),
        color=alt.Color("update:N", scale=alt.Scale(domain=["used", "not used"], range=[COLOURS[0], COLOURS[1]])),
        opacity=alt.Opacity("times:Q", legend=None, scale=alt.Scale(range=[0.45, 1])),
        tooltip=["client:Q", "round:Q", "update:N", "times:Q"],
    )
    counts = [totals.get(client, 0) for client in range(num_clients)]
    words = (
        f"Of {num_clients:,} clients {sum(1 for count in counts if count):,} took part at least once; "
        f"updates used per client: {min(counts)} to {max(counts)}, mean {sum(counts) / num_clients:.1f}."
    )
    return Chart(
        "Who took part", words, _spec(base.mark_square(size=size * size), height=max(120, min(420, 5 * -(-num_clients // group))))
    )


def _phases(run: RunView) -> Chart | None:
    rows = [
        {"round": line["round"], "phase": phase, "seconds": float(line.get(f"{phase}_seconds") or 0.0), "order": order}
        for line in thinned(run.rounds)
        for order, phase in enumerate(PHASES)
    ]
    if not rows:
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("round:Q", axis=alt.Axis(format="d", tickMinStep=1)),
        y=alt.Y("seconds:Q", title="seconds, added up over slots", stack=True),
        color=alt.Color("phase:N", sort=list(PHASES), scale=alt.Scale(domain=list(PHASES), range=list(COLOURS))),
        order="order:Q",
        tooltip=["round:Q", "phase:N", "seconds:Q"],
    )
    sums = {phase: sum(float(line.get(f"{phase}_seconds") or 0.0) for line in run.rounds) for phase in PHASES}
    total = sum(sums.values()) or 1.0
    words = "; ".join(f"{phase} {seconds / total:.1%}" for phase, seconds in sums.items()) + "."
    return Chart(
        "Time by phase", words, _spec(base.mark_area()), [{"phase": phase, "seconds": own} for phase, own in sums.items()]
    )


def thinned(lines: Sequence[Line]) -> Sequence[Line]:
    """Not more than can be told apart: every so many, and the last."""
    step = -(-len(lines) // MOST_POINTS)
    return lines if step <= 1 else [*lines[::step], *([] if (len(lines) - 1) % step == 0 else lines[-1:])]


def _by_run(runs: Sequence[tuple[str, RunView]]) -> dict[str, Any]:
    labels = [label for label, _ in runs]
    if len(labels) == 1:
        return {"color": alt.value(COLOURS[0])}
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(labels))]
    return {"color": alt.Color("run:N", title=None, sort=labels, scale=alt.Scale(domain=labels, range=colours))}


def _spec(chart: alt.Chart, height: int = HEIGHT) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = chart.properties(width="container", height=height).to_dict()
    return spec
