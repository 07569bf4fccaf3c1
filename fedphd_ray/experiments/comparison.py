"""The same federation under several methods: the same data, partition, cohorts and sampling seeds, and the same local work."""

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

from fedphd_ray.config import Config, load_config
from fedphd_ray.errors import ConfigError, UserError
from fedphd_ray.experiments.contenders import Contender
from fedphd_ray.experiments.side_by_side import Job, run_side_by_side
from fedphd_ray.reporters import reporters, require_reporters
from fedphd_ray.runtime.directory.progress import MetricsFile
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver.run import resume, run
from fedphd_ray.runtime.driver.start import Needs, shared_actors
from fedphd_ray.runtime.events import Reporter, Reporters
from fedphd_ray.settings.plugins import named_in
from fedphd_ray.system.saying import Say
from fedphd_ray.topology import Hop

if TYPE_CHECKING:
    from fedphd_ray.runtime.on_ray.actor_pool import ActorPool

NO_SPECIALS = str.maketrans(":={}[], ", "________")  # labels may hold overrides, folder names should not


@dataclass(frozen=True)
class Point:
    """A run at one evaluation: sums since its start.

    Attributes:
        round: rounds done.
        version: architecture of that moment, 0 for dense.
        fid: of that moment.
        cloud_bytes: over the cloud's link.
        client_bytes: over the clients' links.
        macs: forward MACs of local training (images times MACs of one forward of the network of that round).
        sim_seconds: simulated time; 0 where devices are not simulated.
    """

    round: int
    version: int
    fid: float
    cloud_bytes: int
    client_bytes: int
    macs: int
    sim_seconds: float = 0.0


@dataclass(frozen=True)
class Entry:
    """One finished run of a comparison: its evaluations, and its end (whose FID is not a number if nothing was judged)."""

    label: str
    seed: int
    summary: Summary
    local_steps: int
    points: tuple[Point, ...]
    end: Point


@dataclass(frozen=True)
class Row:
    """A method over all seeds: means, and standard deviations where there are several seeds."""

    label: str
    num_seeds: int
    fid: float
    fid_spread: float
    kid: float
    local_steps: float
    cloud_bytes: float
    client_bytes: float
    macs: float
    params: float
    seconds: float


def compare(
    runs: Sequence[tuple[Contender, Config]],
    out: Path,
    reporter: Callable[[str, Config], AbstractContextManager[Reporter]],
    say: Say,
    at_once: int = 1,
) -> list[Entry]:
    """Runs every method with every seed, skipping what is finished and resuming what was stopped.

    Args:
        runs: methods with their configurations; `planned` makes them.
        out: run directories are `out/LABEL/seed-N`.
        reporter: makes what is told of one run's rounds, from its title and configuration; not used side by side.
        say: told what is run or skipped.
        at_once: runs that go on side by side, each in a process of its own.

    Raises:
        ConfigError: a directory holds a run of another configuration.
        UserError: a tool that shall be told is not installed.
    """
    found = [(contender, *placed(contender, config, out)) for contender, config in runs]
    for _, config, directory in found:
        _refuse_another_run(config, directory)
        require_reporters(config.reporting)
    jobs = []
    for contender, config, directory in found:
        title, experiment = f"{contender.label}, seed {config.seed}", config.build(say)  # all are looked at before one runs
        if Summary.read(directory) is not None:
            say(f"{title}: finished before, in {directory}")
        else:
            jobs.append(Job(title, config, directory, Needs.of(experiment)))
    if at_once > 1 and len(jobs) > 1:
        run_side_by_side(jobs, at_once, say)
    else:
        with shared_actors([job.needs for job in jobs], say) as pool:
            for job in jobs:
                say(job.title)
                with reporter(job.title, job.config) as progress:
                    _go_on(job, progress, say, pool)
    return [_entry(contender.label, config, directory) for contender, config, directory in found]


def placed(contender: Contender, config: Config, out: Path) -> tuple[Config, Path]:
    """A run's configuration with a place of its own for its checkpoints, and its directory."""
    parts = (contender.label.translate(NO_SPECIALS), f"seed-{config.seed}")
    if config.checkpoint.path is not None:
        path = "/".join([config.checkpoint.path.rstrip("/"), *parts])
        config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"path": path})})
    return config, out.joinpath(*parts)


def planned(base: Path, common: Sequence[str], chosen: Sequence[Contender], seeds: int) -> list[tuple[Contender, Config]]:
    """All runs, seed by seed: every method is refused or accepted before the first one starts.

    Args:
        base: YAML file of the common configuration.
        common: `key=value`, for all methods; a method's own come after.
        chosen: the methods.
        seeds: how many, counted on from the configured one.
    """
    first = load_config(base, common).seed
    return [(contender, contender.config(base, common, seed)) for seed in range(first, first + seeds) for contender in chosen]


def rows(entries: Sequence[Entry]) -> list[Row]:
    """One row per method, in the order of first appearance."""
    labels = dict.fromkeys(entry.label for entry in entries)
    return [_row(label, [entry for entry in entries if entry.label == label]) for label in labels]


def equal_work(entries: Sequence[Entry]) -> bool:
    """Whether all methods took the same number of local optimiser steps with the same seed."""
    return len({(entry.seed, entry.local_steps) for entry in entries}) == len({entry.seed for entry in entries})


def _go_on(job: Job, progress: Reporter, say: Say, pool: "ActorPool | None") -> Summary:
    """From the newest checkpoint if the run has begun before."""
    config, directory, experiment = job.config, job.directory, job.config.build()
    tools = reporters(config.reporting, directory, f"{experiment.name}, {job.title}", experiment.settings, say)
    told = Reporters(progress, *tools)
    if (directory / "metrics.jsonl").exists() or (directory / "checkpoints").exists():
        return resume(experiment, directory, told, say, pool)
    return run(experiment, directory, told, say, config.to_yaml(), pool)


def _refuse_another_run(config: Config, directory: Path) -> None:
    """Where a run took place, and keys that were added with a default since, make no other run of it."""
    resolved = directory / "config.yaml"
    trusted = named_in(config.settings())
    was = load_config(resolved, trusted=trusted) if resolved.exists() else config
    if was.model_dump(exclude={"runtime"}) != config.model_dump(exclude={"runtime"}):
        raise ConfigError(
            str(directory),
            expected="a run of this configuration, or none",
            found="a run of another one",
            remedy="compare into another directory (--out), or remove this one",
        )


def _entry(label: str, config: Config, directory: Path) -> Entry:
    """Sums up a finished run's files."""
    metrics, summary = MetricsFile(directory), Summary.read(directory)
    assert summary is not None
    if [seal.sha256 for seal in metrics.seals()] != [summary.metrics_sha256, summary.quality_sha256]:
        raise UserError(
            str(directory),
            expected="the metrics.jsonl and quality.jsonl that the run finished with",
            found="missing, damaged or other ones",
            remedy="restore them from a copy, or remove this run's directory to have it run again",
        )
    records = [RoundFigures.model_validate(line) for line in metrics.rounds()]
    # A round is trained with the architecture that the round before left.
    versions = [int(config.pruning.at_start), *(record.version for record in records)]
    macs_of = summary.macs_by_version
    macs = accumulate(
        (record.num_images * macs_of[version] for record, version in zip(records, versions, strict=False)), initial=0
    )
    cloud = accumulate((record.moved(cloud=True) for record in records), initial=0)
    client = accumulate((record.moved(cloud=False) for record in records), initial=0)
    sums = list(zip(cloud, client, macs, [0.0, *(record.sim_seconds for record in records)], strict=True))
    judged = {QualityFigures.model_validate(line).round: QualityFigures.model_validate(line) for line in metrics.qualities()}
    points = tuple(
        Point(round, versions[round], quality.fid, *sums[round])
        for round, quality in sorted(judged.items())
        if quality.fid is not None
    )
    end = Point(len(records), versions[-1], math.nan if summary.fid is None else summary.fid, *sums[-1])
    return Entry(label, config.seed, summary, sum(record.local_steps for record in records), points, end)


class RoundFigures(BaseModel):
    """What a comparison needs of a line of `metrics.jsonl`."""

    version: int
    local_steps: int
    num_images: int
    sim_seconds: float = 0.0
    bytes_by_hop: dict[Annotated[str, Field(pattern="^[a-z0-9]+_to_[a-z0-9]+$")], int]

    def moved(self, *, cloud: bool) -> int:
        """Bytes over the cloud's link, or over the clients' links (in a flat federation they are the same)."""
        return sum(
            num for hop, num in self.bytes_by_hop.items() if (Hop(hop).touches_cloud if cloud else Hop(hop).touches_client)
        )


class QualityFigures(BaseModel):
    """What a comparison needs of a line of `quality.jsonl`."""

    round: int
    fid: float | None


def _row(label: str, entries: Sequence[Entry]) -> Row:
    ends = [entry.end for entry in entries]
    fids, mean = [end.fid for end in ends], statistics.fmean
    return Row(
        label=label,
        num_seeds=len(entries),
        fid=mean(fids),
        fid_spread=statistics.stdev(fids) if len(fids) > 1 else math.nan,
        kid=mean(math.nan if entry.summary.kid is None else entry.summary.kid for entry in entries),
        local_steps=mean(entry.local_steps for entry in entries),
        cloud_bytes=mean(end.cloud_bytes for end in ends),
        client_bytes=mean(end.client_bytes for end in ends),
        macs=mean(end.macs for end in ends),
        params=mean(entry.summary.params_final for entry in entries),
        seconds=mean(entry.summary.wall_seconds for entry in entries),
    )
