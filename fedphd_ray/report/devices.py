"""The drawn population of devices, and what it does to a run, for the terminal."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedphd_ray.foresight.replay import Simulated
from fedphd_ray.report import text

BARS = " ▁▂▃▄▅▆▇█"
BINS = 12
UNLIMITED = 1e14  # bytes: nobody said how much there is


def print_devices(console: Console, simulated: Simulated) -> None:
    """Quantities with their histograms, a client's time in a round, and how many updates are used."""
    devices = simulated.devices
    kinds = Counter(devices.kinds)
    title = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    table = Table(title=f"Devices: {title}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("least", "median", "90 %", "most"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("clients", no_wrap=True)
    rows = {
        "MACs/s": (devices.speed, text.count),
        "memory": (devices.memory_bytes, text.num_bytes),
        "down, Mbit/s": (devices.download / 1e6, _plain),
        "up, Mbit/s": (devices.upload / 1e6, _plain),
        "latency, ms": (devices.latency * 1e3, _plain),
        **{label: (seconds, text.duration) for label, seconds in simulated.client_seconds.items()},
    }
    for label, (figures, told) in rows.items():
        values = figures[np.isfinite(figures)]  # whoever can train nothing takes no time
        if not len(values) or (label == "memory" and values.min() >= UNLIMITED):
            continue
        marks = np.quantile(values, [0.0, 0.5, 0.9, 1.0], method="nearest")
        table.add_row(label, *(told(float(mark)) for mark in marks), histogram(values))
    console.print(table)
    if simulated.whole:
        _print_memory(console, simulated)
    for out in simulated.devices.outages:
        last = out.round + out.rounds - 1
        console.print(f"edge/{out.edge} is away in rounds {out.round} to {last}", highlight=False)
    flights = [flight for round in simulated.flights for flight in round]
    fates = Counter(flight.fate or "used" for flight in flights)
    told_fates = ", ".join(f"{number} {fate}" for fate, number in fates.most_common())
    console.print(f"simulated time: {text.duration(simulated.seconds)}; updates: {told_fates or 'none'}", highlight=False)
    empty = sum(not any(not flight.fate for flight in round) for round in simulated.flights)
    if empty:
        console.print(f"rounds in which no update is used: {empty} of {len(simulated.flights)}", highlight=False)


def _print_memory(console: Console, simulated: Simulated) -> None:
    """What training takes, and who has less."""
    needed = " and then ".join(text.num_bytes(size) for size in simulated.needed_bytes)
    small = " and then ".join(str(int((simulated.devices.memory_bytes < size).sum())) for size in simulated.needed_bytes)
    console.print(f"training takes {needed} on a client; clients that cannot hold it: {small}", highlight=False)


def histogram(values: NDArray[np.float64]) -> str:
    """One line: how many of the values lie in each of some equal steps from the least to the most, on a log scale."""
    logs = np.log(values)
    if np.ptp(logs) < 1e-9:
        return "all alike"
    counts, _ = np.histogram(logs, BINS)
    return "".join(BARS[int(np.ceil(count * (len(BARS) - 1) / counts.max()))] for count in counts)


def _plain(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
