"""Who holds what, as a picture: clients by classes."""

from pathlib import Path

import altair as alt
import numpy as np
from numpy.typing import NDArray

from fedphd_ray.devices.profiles import Devices
from fedphd_ray.report.pictures import save_picture

MOST_CLIENTS = 400
HEIGHT, WIDTH = 480, 360
KINDS = ("#08306B", "#D95F02", "#1B9E77", "#7570B3", "#E7298A", "#666666")
SHADES = ("#DEEBF7", "#08306B")  # few images are not none, which is white


def draw_holdings(label_counts: NDArray[np.int64], path: Path, title: str, devices: Devices | None = None) -> None:
    """Writes a picture of images per client and class, beside it of images per client, and of its device.

    Args:
        label_counts: int64 [num_clients, num_classes]; of more than 400 clients, as many are drawn, evenly spread.
        path: `.png` or `.svg`; its folder is made if it is missing.
        title: heading.
        devices: of the clients, where they are simulated.

    Raises:
        UserError: the path is of another kind, or cannot be written.
    """
    save_picture(figure(label_counts, title, devices), path, "--picture")


def figure(label_counts: NDArray[np.int64], title: str, devices: Devices | None = None) -> alt.HConcatChart:
    """The picture."""
    total, num_classes = label_counts.shape
    shown = np.unique(np.linspace(0, total - 1, min(total, MOST_CLIENTS)).round().astype(int))
    cells = [
        {"client": int(client), "class": label, "images": int(label_counts[client, label])}
        for client in shown
        for label in range(num_classes)
        if label_counts[client, label]
    ]
    sums = [{"client": int(client), "images": int(label_counts[client].sum())} for client in shown]
    order = [int(client) for client in shown]
    ticks = order[:: max(1, len(order) // 20)]
    rows = alt.Y("client:O", sort=order, axis=alt.Axis(values=ticks, title="client"))
    grid = (
        alt.Chart(alt.Data(values=cells))
        .mark_rect()
        .encode(
            x=alt.X("class:O", scale=alt.Scale(domain=list(range(num_classes))), axis=alt.Axis(title="class", labelAngle=0)),
            y=rows,
            color=alt.Color("images:Q", scale=alt.Scale(domainMin=0, range=SHADES), title="images"),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )
    bars = (
        alt.Chart(alt.Data(values=sums))
        .mark_bar(color="#7F7F7F")
        .encode(x=alt.X("images:Q", title="images"), y=alt.Y("client:O", sort=order, axis=None))
        .properties(width=WIDTH // 3, height=HEIGHT)
    )
    more = f"{len(order)} of {total:,} clients" if len(order) < total else f"{total} clients"
    heading = alt.TitleParams(title, subtitle=f"{more}, {int(label_counts.sum()):,} images", anchor="start")
    beside = [] if devices is None else [_device(devices, shown, *each) for each in _quantities(devices)]
    chart: alt.HConcatChart = alt.hconcat(grid, bars, *beside, title=heading)
    return chart


def _quantities(devices: Devices) -> list[tuple[str, NDArray[np.float64], alt.Legend | None]]:
    """What is drawn of devices; one legend is enough."""
    return [("MACs per second", devices.speed, None), ("upload, Mbit/s", devices.upload / 1e6, alt.Legend())]


def _device(
    devices: Devices, shown: NDArray[np.int64], what: str, values: NDArray[np.float64], legend: alt.Legend | None
) -> alt.Chart:
    """A dot per client, in the colour of its kind of device."""
    dots = [{"client": int(client), "value": float(values[client]), "device": devices.kinds[client]} for client in shown]
    chart: alt.Chart = (
        alt.Chart(alt.Data(values=dots))
        .mark_circle(size=28, opacity=0.9)
        .encode(
            x=alt.X("value:Q", title=what, scale=alt.Scale(type="log"), axis=alt.Axis(format="~s", tickCount=4)),
            y=alt.Y("client:O", sort=[dot["client"] for dot in dots], axis=None),
            color=alt.Color("device:N", title="device", scale=alt.Scale(range=list(KINDS)), legend=legend),
        )
        .properties(width=WIDTH // 3, height=HEIGHT)
    )
    return chart
