"""Runs from Python: what a notebook or a script needs, by short names. `import fedphd_ray` brings all of them.

Everything that the commands can do, with objects of your own in the place of names: images, a strategy, reporters.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from fedphd_ray.config import Config, load_config, parse_config
from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.partition import PartitionRule
from fedphd_ray.diffusion.metrics import Metric
from fedphd_ray.experiments import comparison
from fedphd_ray.experiments.contenders import contenders
from fedphd_ray.federation.channel.ledger import read_ledger
from fedphd_ray.reporters import reporters as tools
from fedphd_ray.runtime.directory.identity import Identity
from fedphd_ray.runtime.directory.participation import read_clients
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.events import Event, Reporter, Reporters
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.settings.overrides import read_tree
from fedphd_ray.settings.yaml_files import dump_yaml
from fedphd_ray.strategies import Strategy
from fedphd_ray.system.saying import Say, unheard
from fedphd_ray.views.page import write_page
from fedphd_ray.views.run_view import RunView, runs_below

Configuration = Config | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class Run:
    """A run that is over, or its directory as it is.

    Attributes:
        directory: where everything of it lies (docs/run_directory.md).
    """

    directory: Path

    @cached_property
    def summary(self) -> Summary | None:
        """Final figures; None before the end."""
        return Summary.read(self.directory)

    @property
    def rounds(self) -> pa.Table:
        """A row per round: loss, seconds, bytes."""
        flat = [
            {key: value for key, value in line.items() if not isinstance(value, dict | list)}
            | {f"bytes_{hop}": num for hop, num in line.get("bytes_by_hop", {}).items()}
            for line in RunView.of(self.directory).rounds
        ]
        return pa.Table.from_pylist(flat)

    @property
    def quality(self) -> pa.Table:
        """A row per evaluation; round 0 is the untrained model."""
        return pa.Table.from_pylist(RunView.of(self.directory).qualities)

    @property
    def ledger(self) -> pa.Table:
        """A row per message over a link."""
        return read_ledger(self.directory / "ledger")

    @property
    def clients(self) -> pa.Table:
        """A row per client and round that it was asked in."""
        return read_clients(self.directory)

    @property
    def model(self) -> Path:
        """The delivered model, in the layout of diffusers."""
        return self.directory / "model"

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the HTML report; by default into the run directory."""
        target = self.directory / "report.html" if path is None else Path(path)
        write_page([RunView.of(self.directory)], target)
        return target


@dataclass(frozen=True)
class Handed:
    """Objects in the place of what a configuration names; None where it shall have its way."""

    data: ImageDataset | None
    partition: PartitionRule | None
    strategy: Strategy | None
    metrics: Sequence[Metric] | None

    def taken_out_of(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration's tree without what these objects replace: their classes are not imported by name."""
        own = dict(tree)
        if self.strategy is not None:
            own.pop("strategy", None)
        for given, section, key in ((self.partition, "data", "partition"), (self.metrics, "evaluation", "metrics")):
            if given is not None and isinstance(own.get(section), Mapping):
                own[section] = {name: value for name, value in own[section].items() if name != key}
        return own


def configuration(source: Configuration, *overrides: str) -> Config:
    """A configuration from a dictionary, a YAML file or another configuration.

    Args:
        source: which.
        *overrides: `key=value`, as behind `--set`.

    Raises:
        ConfigError: something in it is wrong; one message names every key.
    """
    if isinstance(source, str | Path):
        return load_config(Path(source), overrides)
    tree = source.model_dump(mode="json") if isinstance(source, Config) else dict(source)
    return parse_config(read_tree(tree, overrides))


def arrays(images: ArrayLike, labels: ArrayLike, *, num_classes: int | None = None, name: str = "given") -> ImageDataset:
    """A data set from arrays.

    Args:
        images: [N, H, W], [N, H, W, C] or [N, C, H, W]; uint8 of 0 to 255, or floats in [-1, 1].
        labels: whole numbers [N], counted from 0.
        num_classes: how many there can be; by default as many as occur.
        name: for people.

    Raises:
        DataError: they are of another form.
    """
    pixels, classes = np.asarray(images), np.asarray(labels).astype(np.int64)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    found = int(classes.max()) + 1 if classes.size else 0
    return ImageDataset(name, np.ascontiguousarray(pixels), classes, found if num_classes is None else num_classes)


def run(
    source: Configuration,
    out: str | Path,
    *,
    data: ImageDataset | None = None,
    partition: PartitionRule | None = None,
    strategy: Strategy | None = None,
    metrics: Sequence[Metric] | None = None,
    reporters: Sequence[Reporter] = (),
    say: Say = unheard,
) -> Run:
    """Trains, and returns the finished run.

    Args:
        source: the configuration. With `data`, its section `data` needs no name: `{"num_clients": 10, "partition": {...}}`.
        out: the run directory; must not hold a run yet.
        data: your own images (`arrays`), in the place of those that the configuration names.
        partition: your own way to divide them, in the place of the configured one.
        strategy: your own method, likewise.
        metrics: your own figures of samples, likewise.
        reporters: told of everything that happens (`runtime.events`), besides those of the configuration's `reporting`.
        say: told, in a sentence each, of what comes before the first round; `print` shows it.

    Raises:
        UserError: the configuration, the data or the directory cannot be used.
        RunFailedError: the run cannot go on.
    """
    if data is not None and not isinstance(source, Config):
        source = _of_given_data(source)
    config, directory = configuration(source), Path(out)
    experiment = _experiment(config, Handed(data, partition, strategy, metrics), say)
    told = _told(reporters, config, directory, experiment, say)
    runs.run(experiment, directory, told, say, dump_yaml(dict(experiment.settings)))
    return Run(directory)


def resume(
    directory: str | Path,
    *,
    data: ImageDataset | None = None,
    partition: PartitionRule | None = None,
    strategy: Strategy | None = None,
    metrics: Sequence[Metric] | None = None,
    reporters: Sequence[Reporter] = (),
    trust: Collection[str] = (),
    say: Say = unheard,
) -> Run:
    """Goes on with a run from its last checkpoint, to the same final bits; whatever was handed to `run` is handed over again.

    `trust` names the classes of your own that the run's configuration may import (`module:Name`).

    Raises:
        UserError: it is no run directory, or another experiment's.
        RunFailedError: the run cannot go on.
    """
    path = Path(directory)
    Identity.read(path)
    handed = Handed(data, partition, strategy, metrics)
    tree = handed.taken_out_of(read_tree(path / "config.yaml"))
    config = parse_config(tree, trust)
    experiment = _experiment(config, handed, say)
    runs.resume(experiment, path, _told(reporters, config, path, experiment, say), say)
    return Run(path)


def compare(
    source: str | Path, strategies: Sequence[str], out: str | Path, *, seeds: int = 1, at_once: int = 1, say: Say = unheard
) -> list[Run]:
    """The same federation under several methods, as `fedphd compare` runs them; runs that are there already are kept.

    Args:
        source: a YAML file.
        strategies: names, e.g. `["fedphd", "fedavg"]`.
        out: a folder for all runs.
        seeds: runs per method.
        at_once: runs side by side, each in a process of its own.
        say: told what goes on.
    """
    planned = comparison.planned(Path(source), (), contenders(",".join(strategies)), seeds)
    comparison.compare(planned, Path(out), lambda title, chosen: Quiet(), say, at_once)
    return [Run(view.directory) for view in runs_below(Path(out))]


class Quiet:
    """A reporter that says nothing."""

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""

    def on_event(self, event: Event) -> None:
        """Nothing."""


def _told(own: Sequence[Reporter], config: Config, directory: Path, experiment: Experiment, say: Say) -> Reporters:
    """The caller's reporters, and those that the configuration names."""
    return Reporters(*own, *tools(config.reporting, directory, experiment.name, experiment.settings, say))


def _of_given_data(source: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    tree: dict[str, Any] = dict(source) if isinstance(source, Mapping) else read_tree(Path(source))
    section = dict(tree.get("data") or {})
    kept = {key: section[key] for key in ("num_clients", "partition", "feature_skew", "drift") if key in section}
    return tree | {"data": {"name": "given", **kept}}


def _experiment(chosen: Config, handed: Handed, say: Say) -> Experiment:
    if handed.partition is not None:
        chosen = chosen.model_copy(update={"data": chosen.data.model_copy(update={"partition": handed.partition})})
    if handed.metrics is not None:
        judging = chosen.evaluation.model_copy(update={"metrics": tuple(handed.metrics)})
        chosen = chosen.model_copy(update={"evaluation": judging})
    experiment = chosen.build(say, handed.data)
    if handed.strategy is None:
        return experiment
    settings = dict(experiment.settings) | {"strategy": handed.strategy.model_dump(mode="json")}
    return replace(experiment, strategy=handed.strategy, settings=settings)
