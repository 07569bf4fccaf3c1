"""Grids of experiments: every combination of some keys' values, under several methods and seeds, each resumable by itself."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc

from fedphd_ray.config import Config, load_config
from fedphd_ray.errors import ConfigError
from fedphd_ray.experiments.comparison import Entry, compare, placed
from fedphd_ray.experiments.contenders import Contender
from fedphd_ray.federation.channel.ledger import read_ledger
from fedphd_ray.report import text
from fedphd_ray.runtime.directory.progress import MetricsFile
from fedphd_ray.runtime.events import Reporter
from fedphd_ray.settings.yaml_files import dump_flow, parse_yaml
from fedphd_ray.system.saying import Say

MOST_RUNS = 10_000


@dataclass(frozen=True)
class Axis:
    """A key of the configuration, and the values it takes, as they are typed."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination: its folder's name, and the value of each axis."""

    name: str
    values: Mapping[str, str]

    @property
    def told(self) -> str:
        """`schedule.rounds=4, seed=3`."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    @property
    def short(self) -> dict[str, str]:
        """The same for pictures: keys without their sections, `{name: deadline, seconds: 30}` as `deadline, seconds: 30`."""
        return {key.rpartition(".")[2]: value.strip("{}").removeprefix("name: ") for key, value in self.values.items()}


@dataclass(frozen=True)
class Measured:
    """One run of a grid.

    Attributes:
        cell: where it belongs.
        strategy: label of the method.
        seed: of the run.
        fid: at the end; not a number where nothing was judged.
        kid: likewise.
        sim_seconds: simulated, of the whole run; 0 without devices.
        reached: round -> (simulated seconds, FID), where it was judged.
        cloud_bytes: over the cloud's link.
        client_bytes: over the clients' links.
        bytes_by_hop: of the whole run.
        lost_bytes: of the clients', for updates that were not used.
        local_steps: taken.
        used: device class -> updates used.
        unused: device class -> updates not used.
        clients: device class -> clients.
        wall_seconds: of the run.
    """

    cell: Cell
    strategy: str
    seed: int
    fid: float
    kid: float
    sim_seconds: float
    reached: Mapping[int, tuple[float, float]]
    cloud_bytes: int
    client_bytes: int
    bytes_by_hop: Mapping[str, int]
    lost_bytes: int
    local_steps: int
    used: Mapping[str, int]
    unused: Mapping[str, int]
    clients: Mapping[str, int]
    wall_seconds: float

    def seconds_to(self, target: float) -> float:
        """Simulated seconds until the first evaluation with an FID of at most the target; not a number if there was none."""
        return next((seconds for seconds, fid in self.reached.values() if fid <= target), math.nan)


def axes(grids: Sequence[str]) -> list[Axis]:
    """Reads `schedule.rounds=5,10` and `schedule.policy={name: wait},{name: buffered, size: 4}`.

    Raises:
        ConfigError: no key, no values, or a value or key twice.
    """
    read = []
    for grid in grids:
        key, equals, values = grid.partition("=")
        listed = parse_yaml(f"[{values}]", f"--grid {key}") if equals and key.strip() else None
        if not isinstance(listed, list) or not listed:
            raise ConfigError("--grid", expected="key=value,value, for example local.epochs=1,2", found=grid)
        told = tuple(dump_flow(value) for value in listed)
        if len(set(told)) < len(told):
            raise ConfigError(f"--grid {key}", expected="every value once", found=values)
        read.append(Axis(key.strip(), told))
    if len({axis.key for axis in read}) < len(read):
        raise ConfigError("--grid", expected="every key once", found=", ".join(axis.key for axis in read))
    return read


def planned(
    base: Path, common: Sequence[str], grid: Sequence[Axis], chosen: Sequence[Contender], seeds: int
) -> list[tuple[Cell, Contender, Config]]:
    """All runs, cell by cell: every one is refused or accepted before the first starts.

    Raises:
        ConfigError: a combination is none; there are too many.
    """
    cells = [
        Cell(f"cell-{number:03d}", dict(zip([axis.key for axis in grid], values, strict=True)))
        for number, values in enumerate(itertools.product(*(axis.values for axis in grid)), start=1)
    ]
    if (num := len(cells) * len(chosen) * seeds) > MOST_RUNS:
        raise ConfigError("--grid", expected=f"at most {MOST_RUNS:,} runs", found=f"{num:,}")
    begin, runs = load_config(base, common).seed, []
    for cell in cells:
        own = [f"{key}={value}" for key, value in cell.values.items()]
        for contender in chosen:
            try:
                first = contender.config(base, [*common, *own], begin)
            except ConfigError as error:
                told = f"{error.where} ({contender.label}, {cell.told})"
                raise ConfigError(told, expected=error.expected, found=error.found, remedy=error.remedy) from None
            runs += [(cell, contender, first.model_copy(update={"seed": begin + number})) for number in range(seeds)]
    return runs


def stress(
    runs: Sequence[tuple[Cell, Contender, Config]],
    out: Path,
    reporter: Callable[[str, Config], AbstractContextManager[Reporter]],
    say: Say,
    at_once: int = 1,
) -> list[Measured]:
    """Runs the grid on one pool of hosts, or side by side, skipping what is finished and resuming what was stopped.

    Args:
        runs: from `planned`.
        out: run directories are `out/CELL/METHOD/seed-N`.
        reporter: makes what is told of one run's rounds, from its title and configuration.
        say: told what is run or skipped.
        at_once: see `comparison.compare`.
    """
    began, done = time.monotonic(), 0

    def told(title: str, config: Config) -> AbstractContextManager[Reporter]:
        nonlocal done
        left = (time.monotonic() - began) / done * (len(runs) - done) if done else math.nan
        done += 1
        about = "" if math.isnan(left) else f", about {text.duration(left)} left for all"
        say(f"run {done} of {len(runs)}{about}")
        return reporter(title, config)

    renamed = [(replace(contender, label=f"{cell.name}/{contender.label}"), config) for cell, contender, config in runs]
    for name, values in {cell.name: cell.told for cell, *_ in runs}.items():
        say(f"{name}: {values}")
    entries = compare(renamed, out, told, say, at_once)
    measured = []
    for (cell, contender, _), (label, config), entry in zip(runs, renamed, entries, strict=True):
        measured.append(_measured(cell, contender.label, *placed(label, config, out), entry))
    return measured


def target_of(measured: Sequence[Measured]) -> float:
    """The FID that every run reaches: the worst of their ends."""
    return max((run.fid for run in measured if not math.isnan(run.fid)), default=math.nan)


def _measured(cell: Cell, strategy: str, config: Config, directory: Path, entry: Entry) -> Measured:
    lines = MetricsFile(directory).rounds()
    devices = config.simulated()
    kinds = ("client",) * config.data.num_clients if devices is None else devices.kinds
    used, unused = Counter[str](), Counter[str]()
    for line in lines:
        used.update(kinds[int(client)] for client in _keys(line["participants"]))
        unused.update(kinds[int(client)] for client in _keys(line["unused"]))
    ledger = read_ledger(directory / "ledger")
    lost = pc.sum(ledger.filter(pc.field("lost"))["num_bytes"]).as_py()
    return Measured(
        cell=cell,
        strategy=strategy,
        seed=config.seed,
        fid=entry.end.fid,
        kid=math.nan if entry.summary.kid is None else entry.summary.kid,
        sim_seconds=entry.summary.sim_seconds,
        reached={point.round: (point.sim_seconds, point.fid) for point in entry.points},
        cloud_bytes=entry.end.cloud_bytes,
        client_bytes=entry.end.client_bytes,
        bytes_by_hop=entry.summary.bytes_by_hop,
        lost_bytes=int(lost or 0),
        local_steps=entry.local_steps,
        used=used,
        unused=unused,
        clients=Counter(kinds),
        wall_seconds=entry.summary.wall_seconds,
    )


def _keys(value: object) -> list[str]:
    return list(value) if isinstance(value, dict) else []
