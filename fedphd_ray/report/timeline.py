"""One round of simulated clients as a picture: per edge, who receives, trains and sends when, and who is late or gone."""

import math
from collections.abc import Iterator
from pathlib import Path

import altair as alt

from fedphd_ray.errors import UserError
from fedphd_ray.foresight.replay import Simulated
from fedphd_ray.plans import Flight
from fedphd_ray.report.pictures import save_picture

PHASES = ("receives", "trains", "sends")
COLOURS = ("#56B4E9", "#009E73", "#E69F00")
WIDTH, ROW = 640, 16


def draw_timeline(simulated: Simulated, round: int, path: Path, title: str) -> None:
    """Writes a picture of one round.

    Args:
        simulated: of a forecast.
        round: from 1.
        path: `.png` or `.svg`.
        title: heading.

    Raises:
        UserError: there is no such round, nobody was asked in it, or the picture cannot be written.
    """
    rounds = len(simulated.flights)
    if not 1 <= round <= rounds or not simulated.flights[round - 1]:
        found = "nobody whose work ends in it" if 1 <= round <= rounds else "no such round"
        raise UserError(f"--round {round}", expected=f"a round from 1 to {rounds} in which somebody works", found=found)
    save_picture(figure(simulated, round, title), path, "--timeline")


def figure(simulated: Simulated, round: int, title: str) -> alt.FacetChart:
    """The picture."""
    flights = simulated.flights[round - 1]
    bars = [bar for flight in flights for bar in _bars(flight, simulated)]
    names = [f"{flight.client} ({simulated.devices.kinds[flight.client]})" for flight in flights]
    base = alt.Chart(alt.Data(values=bars)).encode(
        y=alt.Y("client:N", sort=list(dict.fromkeys(names)), axis=alt.Axis(title="client", labelLimit=160))
    )
    x = alt.X("from:Q", title="simulated seconds", scale=alt.Scale(zero=False, nice=False))
    color = alt.Color("phase:N", sort=list(PHASES), scale=alt.Scale(domain=list(PHASES), range=list(COLOURS)), title=None)
    phases = base.transform_filter("datum.phase != null").mark_bar(height=ROW - 5).encode(x=x, x2="to:Q", color=color)
    words = base.transform_filter("datum.fate != null").mark_text(align="left", dx=4, color="#B00020").encode(x=x, text="fate:N")
    late = sum(1 for flight in flights if flight.fate)
    heading = alt.TitleParams(title, subtitle=f"round {round}: {len(flights)} clients, {late} updates not used", anchor="start")
    chart: alt.FacetChart = (
        alt.layer(phases, words)
        .properties(width=WIDTH, height=alt.Step(ROW))
        .facet(row=alt.Row("edge:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left")))
        .resolve_scale(y="independent")
        .properties(title=heading)
    )
    return chart


def _bars(flight: Flight, simulated: Simulated) -> Iterator[dict[str, object]]:
    """Phases as far as they went; a last value with the word for one that is not used."""
    about = {"client": f"{flight.client} ({simulated.devices.kinds[flight.client]})", "edge": f"edge {flight.edge}"}
    begin = flight.started
    for phase, end in zip(PHASES, (flight.downloaded, flight.trained, flight.arrived), strict=True):
        until = flight.ended if math.isnan(end) else end
        yield {**about, "phase": phase, "from": begin, "to": until, "fate": None}
        begin = until
        if math.isnan(end):
            break
    if flight.fate:
        yield {**about, "phase": None, "from": flight.ended, "to": flight.ended, "fate": flight.fate}
