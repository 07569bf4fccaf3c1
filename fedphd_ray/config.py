"""The configuration: one typed tree, read from YAML, checked as a whole before anything is written or started.

Every section is the configuration object of the component it configures, so a default lives in one place.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

from fedphd_ray.data.sources import DataSource, Digits
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.local_training import LocalConfig
from fedphd_ray.federation.schedule import HierarchyConfig, ScheduleConfig
from fedphd_ray.pruning.policy import PruningConfig
from fedphd_ray.runtime.checkpoint import CheckpointConfig
from fedphd_ray.runtime.evaluation import EvaluationConfig
from fedphd_ray.runtime.experiment import Experiment, ServerConfig
from fedphd_ray.runtime.failures import FailureConfig
from fedphd_ray.runtime.faults import Fault, FaultScript
from fedphd_ray.runtime.placement import RuntimeConfig
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.strategies import AnyStrategy, FedPhD


class Config(BaseModel):
    """A whole experiment. Unknown keys are refused; every default is filled in and written to the run directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    seed: NonNegativeInt = 2025
    data: DataSource = Digits()
    model: UNetConfig
    process: ProcessConfig = ProcessConfig()
    strategy: AnyStrategy = FedPhD()
    hierarchy: HierarchyConfig = HierarchyConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    local: LocalConfig = LocalConfig()
    pruning: PruningConfig = PruningConfig()
    server: ServerConfig = ServerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    failures: FailureConfig = FailureConfig()
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        self._check_cohort()
        self._check_pruning()
        self._check_hierarchy()
        self._check_strategy()
        self._check_faults()
        return self

    def _check_faults(self) -> None:
        """In one process there is nothing to kill but the run itself."""
        if self.runtime.backend == "local" and any(fault.kind in ("kill", "hang") for fault in self.faults):
            raise ConfigError(
                "faults",
                expected="no kind kill or hang where runtime.backend is local: its only process would not survive",
                found="one",
                remedy="take runtime.backend: ray, or another kind of fault",
            )

    def _check_cohort(self) -> None:
        if self.schedule.clients_per_round > self.data.num_clients:
            raise ConfigError(
                "schedule.clients_per_round",
                expected=f"at most data.num_clients = {self.data.num_clients}",
                found=str(self.schedule.clients_per_round),
                remedy="sample fewer clients a round, or register more",
            )

    def _check_pruning(self) -> None:
        pruning, rounds = self.pruning, self.schedule.rounds
        if pruning.mode not in ("prune", "sparse_then_prune"):
            return
        if pruning.round is None:
            raise ConfigError(
                "pruning.round",
                expected=f"the round after which to prune, 1 to {rounds - 1}",
                found="nothing",
                remedy=f"set it, or use pruning.mode at_init or none instead of {pruning.mode}",
            )
        if pruning.round >= rounds:
            raise ConfigError(
                "pruning.round",
                expected=f"a round before the last one, 1 to {rounds - 1} (schedule.rounds = {rounds})",
                found=str(pruning.round),
                remedy="prune earlier, run longer, or set pruning.mode: none",
            )

    def _check_hierarchy(self) -> None:
        if self.hierarchy.num_edges == 0 and self.hierarchy.cloud_period != 1:
            raise ConfigError(
                "hierarchy.cloud_period",
                expected="1 where hierarchy.num_edges is 0: a flat federation aggregates at the cloud every round",
                found=str(self.hierarchy.cloud_period),
                remedy="set hierarchy.cloud_period: 1, or give the federation edges",
            )

    def _check_strategy(self) -> None:
        name, strategy = self.strategy.name, self.strategy
        if strategy.flat_only and self.hierarchy.num_edges > 0:
            raise ConfigError(
                "strategy.name",
                expected=f"hierarchy.num_edges: 0, because the server of {name} steps after every round",
                found=f"{self.hierarchy.num_edges} edges",
                remedy="set hierarchy: {num_edges: 0, cloud_period: 1}, or take another strategy",
            )
        if strategy.looks_inside and self.local.compile:
            raise ConfigError(
                "local.compile",
                expected=f"false: {name} looks inside the network while it is trained",
                found="true",
                remedy="leave it out",
            )
        if strategy.keeps_parts_private and self.pruning.mode in ("prune", "sparse_then_prune"):
            raise ConfigError(
                "pruning.mode",
                expected=f"none or at_init: with {name} nobody has the whole model, so nobody can tell which channels matter",
                found=self.pruning.mode,
                remedy="prune at_init, or take a strategy (or feddiffuse mode) whose model travels whole",
            )

    def build(self) -> Experiment:
        """Loads the data, divides it among the clients, and makes every component."""
        dataset = self.data.load(self.seed)
        spec = UNetSpec(self.model, dataset.image_size, dataset.channels)
        rng = numpy_rng(self.seed, Purpose.PARTITION)
        indices = self.data.partition.split(dataset.labels, dataset.num_classes, self.data.num_clients, rng)
        return Experiment(
            name=self.name,
            seed=self.seed,
            dataset=dataset,
            client_indices=tuple(indices),
            spec=spec,
            process=NoiseProcess(self.process),
            strategy=self.strategy,
            hierarchy=self.hierarchy,
            schedule_config=self.schedule,
            local=self.local,
            pruning=self.pruning,
            server=self.server,
            evaluation=self.evaluation,
            runtime=self.runtime,
            checkpoint=self.checkpoint,
            failures=self.failures,
            faults=FaultScript(self.faults),
        )

    def to_yaml(self) -> str:
        """The resolved configuration, every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies `key=value` overrides (dotted keys, YAML values).

    Raises:
        ConfigError: one message for everything that is wrong, naming keys.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(str(path), expected="a readable YAML file", found=error.strerror or str(error)) from error
    tree = _parse(text, str(path))
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree)


def parse_config(tree: Mapping[str, object]) -> Config:
    """Validates a configuration tree; see `load_config`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error) from None


def _parse(text: str, where: str) -> dict[str, object]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(where, expected="YAML", found=" ".join(str(error).split())) from None
    if not isinstance(tree, dict):
        raise ConfigError(where, expected="a mapping of keys to values", found=type(tree).__name__)
    return tree


def _apply(tree: dict[str, object], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError("--set", expected="key=value, for example schedule.rounds=10", found=override)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}", expected="a YAML value after the equals sign", found=text) from None
    node = tree
    for name in path[:-1]:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}", expected=f"{name} to be a section", found=repr(child))
        node = child
    node[path[-1]] = value


def _explain(error: ValidationError) -> ConfigError:
    """One message from all that pydantic found."""
    problems = [_problem(detail) for detail in error.errors(include_url=False)]
    if len(problems) == 1:
        return problems[0]
    details = "".join(f"\n    {problem.where}: expected {problem.expected}; found {problem.found}" for problem in problems)
    remedies = sorted({problem.remedy for problem in problems if problem.remedy})
    return ConfigError(
        "configuration", expected=f"{len(problems)} keys to be different:{details}", found="see above", remedy="; ".join(remedies)
    )


def _problem(detail: ErrorDetails) -> ConfigError:
    cause = detail.get("ctx", {}).get("error")
    path = [str(part) for part in detail["loc"] if part not in _union_tags()]
    key = ".".join(path) or "configuration"
    if detail["type"] == "extra_forbidden":
        return _unknown_key(path)
    if detail["type"] == "missing":
        return ConfigError(
            key, expected="a value: this key has no default", found="nothing", remedy=f"add {key} to the configuration"
        )
    message = str(cause) if cause is not None else detail["msg"]
    return ConfigError(key, expected=message[:1].lower() + message[1:], found=repr(detail["input"]))


def _unknown_key(path: Sequence[str]) -> ConfigError:
    known = _known_keys(path[:-1])
    close = difflib.get_close_matches(path[-1], known, n=1)
    elsewhere = [key for key in _all_keys() if key.split(".")[-1] == path[-1]]
    if close:
        remedy = f"did you mean {'.'.join([*path[:-1], close[0]])}?"
    else:
        remedy = f"did you mean {elsewhere[0]}?" if elsewhere else ""
    where = ".".join(path[:-1]) or "the top level"
    return ConfigError(
        ".".join(path), expected=f"a key of {where}: {', '.join(known)}", found=f"the unknown key {path[-1]!r}", remedy=remedy
    )


def _known_keys(section: Sequence[str]) -> list[str]:
    prefix = "".join(f"{name}." for name in section)
    return sorted({key.removeprefix(prefix).split(".")[0] for key in _all_keys() if key.startswith(prefix)})


def _models(annotation: object) -> list[type[BaseModel]]:
    """The configuration classes inside an annotation (unions and annotated types opened)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _all_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        inner = [key for child in _models(field.annotation) for key in _all_keys(child, f"{prefix}{name}.")]
        keys += inner or [f"{prefix}{name}"]
    return keys


def _union_tags() -> set[str]:
    """Discriminator values that pydantic puts into error paths; they are not keys."""
    tags: set[str] = set()
    stack: list[type[BaseModel]] = [Config]
    while stack:
        for name, field in stack.pop().model_fields.items():
            if name == "name" and get_args(field.annotation):
                tags |= {str(tag) for tag in get_args(field.annotation)}
            stack += _models(field.annotation)
    return tags
