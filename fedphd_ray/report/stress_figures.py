"""The figures of a grid of experiments: a row per run for programs, a row per cell and method for people."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedphd_ray.experiments.stress import Measured
from fedphd_ray.report import text


@dataclass(frozen=True)
class Table:
    """The figures of all cells, for people.

    Attributes:
        columns: their names; first the keys of the grid, and the method.
        rows: as many values each.
        num_keys: how many columns say which cell it is.
        note: what the figures are.
    """

    columns: list[str]
    rows: list[list[str]]
    num_keys: int
    note: str


Group = list[Measured]


def groups_of(measured: Sequence[Measured]) -> list[Group]:
    """Runs that differ in nothing but their seed."""
    groups: dict[tuple[str, str], Group] = {}
    for run in measured:
        groups.setdefault((run.cell.name, run.strategy), []).append(run)
    return list(groups.values())


def mean(group: Group, value: Callable[[Measured], float]) -> float:
    """Over the seeds."""
    return statistics.fmean(value(run) for run in group)


def deviation(group: Group, value: Callable[[Measured], float]) -> float:
    """Standard deviation over the seeds; not a number for one seed."""
    values = [value(run) for run in group]
    return statistics.stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else math.nan


def row(run: Measured, target: float, hops: Sequence[str]) -> dict[str, object]:
    """What a program reads of a run."""
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


def shares(run: Measured) -> list[dict[str, object]]:
    """How often clients of each kind of device took part."""
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


def table(measured: Sequence[Measured], target: float) -> Table:
    """A row per cell and method."""
    groups, simulated = groups_of(measured), any(run.sim_seconds for run in measured)
    keys, seeds = list(groups[0][0].cell.values), sorted({run.seed for run in measured})
    several = " Means, and standard deviations over the seeds." if len(seeds) > 1 else ""
    timed = " Times are simulated; the target is the FID that all reach." if simulated else ""
    lost = ", and the share of the latter for updates that were not used" if simulated else ""
    rows = [
        [*group[0].cell.values.values(), group[0].strategy, *_cells(group, target, simulated=simulated).values()]
        for group in groups
    ]
    return Table(
        columns=[*keys, "method", *_cells(groups[0], target, simulated=simulated)],
        rows=rows,
        num_keys=len(keys) + 1,
        note=f"Seeds {', '.join(map(str, seeds))}.{several}{timed} Bytes: over the cloud's link, over the clients' links{lost}.",
    )


def _cells(group: Group, target: float, *, simulated: bool) -> dict[str, str]:
    """Column -> what it has of a group; those of time and loss only where devices are simulated."""
    spread, reached = deviation(group, lambda run: run.fid), mean(group, lambda run: run.seconds_to(target))
    times = {
        "simulated time": text.duration(mean(group, lambda run: run.sim_seconds)),
        f"time to FID {target:.3g}": "not by all" if math.isnan(reached) else text.duration(reached),
    }
    lost = text.percent(mean(group, lambda run: run.lost_bytes / run.client_bytes if run.client_bytes else 0.0))
    return {
        "FID": f"{mean(group, lambda run: run.fid):.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}"),
        **(times if simulated else {}),
        "updates used": f"{mean(group, lambda run: sum(run.used.values())):,.0f}",
        "cloud": text.num_bytes(mean(group, lambda run: run.cloud_bytes)),
        "clients": text.num_bytes(mean(group, lambda run: run.client_bytes)),
        **({"lost": lost} if simulated else {}),
    }
