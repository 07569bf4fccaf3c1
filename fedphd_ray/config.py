"""The configuration: one typed tree, read from YAML, checked as a whole before anything is written or started.

Every section is the configuration object of the component it configures, so a default lives in one place.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.sources import DataSource, Digits
from fedphd_ray.devices.profiles import Devices, DevicesConfig
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig, load_process
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.budget import within_budget
from fedphd_ray.federation.channel.communication import Codecs, HopCodec, require_fit
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.planning.policies import Buffered
from fedphd_ray.federation.planning.schedule import HierarchyConfig, ScheduleConfig
from fedphd_ray.federation.submodels.slices import require_networks
from fedphd_ray.federation.submodels.widths import SubModels
from fedphd_ray.overrides import read_tree
from fedphd_ray.plugins import trusting
from fedphd_ray.population import ClientRows
from fedphd_ray.pruning.policy import PruningConfig
from fedphd_ray.reporters.config import ReportingConfig
from fedphd_ray.runtime.evaluation import EvaluationConfig
from fedphd_ray.runtime.experiment import Experiment, ServerConfig
from fedphd_ray.runtime.policy.failures import FailureConfig
from fedphd_ray.runtime.policy.faults import Fault, FaultScript
from fedphd_ray.runtime.policy.placement import RuntimeConfig
from fedphd_ray.runtime.storage.checkpoint import CheckpointConfig
from fedphd_ray.saying import Say, unheard
from fedphd_ray.sections import Section
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.strategies import AnyStrategy, FedPhD
from fedphd_ray.validation import explained
from fedphd_ray.yaml_files import dump_yaml


class Config(Section):
    """A whole experiment. Unknown keys are refused; every default is filled in and written to the run directory."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    seed: NonNegativeInt = 2025
    data: DataSource = Digits()
    model: UNetConfig
    process: ProcessConfig = ProcessConfig()
    strategy: AnyStrategy = FedPhD()
    hierarchy: HierarchyConfig = HierarchyConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    devices: DevicesConfig | None = None
    local: LocalConfig = LocalConfig()
    submodels: SubModels | None = None
    communication: dict[str, HopCodec] = Field(default_factory=dict, max_length=20)
    pruning: PruningConfig = PruningConfig()
    server: ServerConfig = ServerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    reporting: ReportingConfig = ReportingConfig()
    failures: FailureConfig = FailureConfig()
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        self._check_cohort()
        self._check_devices()
        self.pruning.require_fit(self.schedule.rounds)
        self._check_hierarchy()
        self._check_strategy()
        if self.pruning.asks_clients and self.submodels is not None:
            raise ConfigError(
                "pruning.criterion",
                expected="group_l2, group_l1 or random where there is a section submodels: not every client has every channel",
                found=self.pruning.criterion,
            )
        if self.submodels is not None:
            buffered = isinstance(self.schedule.policy, Buffered)
            feedback = any(getattr(own, "error_feedback", False) for own in self.communication.values())
            self.submodels.require_fit(self.strategy, devices=self.devices is not None, rounds=not buffered, feedback=feedback)
        require_fit(self.communication, self.hierarchy.topology(), self.strategy)
        self._check_faults()
        self._check_evaluation()
        self._check_pretrained()
        return self

    def _check_pretrained(self) -> None:
        """A saved model goes on under the noise that it knows."""
        known = None if self.model.pretrained is None else load_process(Path(self.model.pretrained))
        own = self.process.model_copy(update={"min_snr_gamma": None})
        if known is not None and known.config != own:
            before, now = known.config.model_dump(), own.model_dump()
            raise ConfigError(
                "process",
                expected="; ".join(f"{key}: {before[key]}" for key in before if before[key] != now[key])
                + ", as model.pretrained was trained",
                found="; ".join(f"{key}: {now[key]}" for key in before if before[key] != now[key]),
                remedy="set process so",
            )

    def _check_evaluation(self) -> None:
        if self.evaluation.every and self.evaluation.steps > self.process.num_timesteps:
            raise ConfigError(
                "evaluation.steps",
                expected=f"at most process.num_timesteps = {self.process.num_timesteps}",
                found=str(self.evaluation.steps),
                remedy="sample with fewer steps, or judge never (evaluation.every: 0)",
            )

    def _check_faults(self) -> None:
        """In one process there is nothing to kill but the run itself."""
        if self.runtime.backend == "local" and any(fault.kind in ("kill", "hang") for fault in self.faults):
            raise ConfigError(
                "faults",
                expected="no kind kill or hang where runtime.backend is local: its only process would not survive",
                found="one",
                remedy="take runtime.backend: ray, or another kind of fault",
            )
        topology = self.hierarchy.topology()
        if unknown := sorted(
            {fault.node for fault in self.faults if fault.node is not None and not topology.merges_at(fault.node)}
        ):
            above = ", ".join(f"{tier.name}/0 to {tier.name}/{tier.nodes - 1}" for tier in topology.tiers[1:])
            raise ConfigError(
                "faults",
                expected=f"a node above the edges: {above or 'there is none in this tree'}",
                found=", ".join(unknown),
                remedy="an edge server is meant by `edge: 0`",
            )

    def _check_devices(self) -> None:
        if self.devices is None and self.schedule.policy.name != "wait":
            raise ConfigError(
                "schedule.policy",
                expected="wait, where there is no section devices: nobody is late",
                found=self.schedule.policy.name,
                remedy="for example devices: {preset: phones}",
            )
        if self.schedule.sampler.needs_times and self.devices is None:
            raise ConfigError(
                "schedule.sampler",
                expected="a rule that goes without times, where there is no section devices",
                found=self.schedule.sampler.name,
                remedy="for example devices: {preset: phones}",
            )
        pairs = self.strategy.reported_parts(range(4), numpy_rng(self.seed, Purpose.REPORTED_PARTS))
        if isinstance(self.schedule.policy, Buffered) and pairs:
            raise ConfigError(
                "schedule.policy",
                expected="a policy with rounds, where the clients of a round share the parts of the model among themselves",
                found=self.schedule.policy.name,
                remedy="take another policy, or another mode of the strategy",
            )

    def _check_cohort(self) -> None:
        if self.schedule.clients_per_round > self.data.num_clients:
            raise ConfigError(
                "schedule.clients_per_round",
                expected=f"at most data.num_clients = {self.data.num_clients}",
                found=str(self.schedule.clients_per_round),
                remedy="sample fewer clients a round, or register more",
            )

    def _check_hierarchy(self) -> None:
        rule = self.hierarchy.edge_choice
        if (rule.needs_latency and self.devices is None) or (rule.needs_statistics and not self.strategy.shares_label_statistics):
            raise ConfigError(
                "hierarchy.edge_choice",
                expected="a rule that goes without latencies, where there is no section devices"
                if rule.needs_latency
                else "a rule that goes without label counts: this strategy shares none",
                found=rule.name,
                remedy="for example devices: {preset: phones}" if rule.needs_latency else "take fedphd, which shares them",
            )
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
        for key, wrapped in {
            "local.compile": self.local.compile,
            "model.class_conditional": self.model.class_conditional,
        }.items():
            if strategy.looks_inside and wrapped:
                raise ConfigError(
                    key,
                    expected=f"false: {name} looks inside the network while it is trained",
                    found="true",
                    remedy="leave it out, or take another strategy",
                )
        if strategy.looks_inside and self.local.micro_batch is not None:
            raise ConfigError(
                "local.micro_batch",
                expected=f"null: {name} draws noise of its own for the batch that is in the network",
                found=str(self.local.micro_batch),
                remedy="leave it out",
            )
        if strategy.keeps_parts_private and any(self.pruning.moments):
            raise ConfigError(
                "pruning.mode",
                expected=f"none or at_init: with {name} nobody has the whole model, so nobody can tell which channels matter",
                found=self.pruning.mode,
                remedy="prune at_init, or take a strategy (or feddiffuse mode) whose model travels whole",
            )

    def simulated(self) -> Devices | None:
        """The devices of all clients and nodes, drawn; None where none are simulated."""
        if self.devices is None:
            return None
        topology = self.hierarchy.topology()
        return self.devices.build(self.data.num_clients, topology.num_servers, self.seed, len(topology.aggregators))

    def build(self, say: Say = unheard, dataset: ImageDataset | None = None) -> Experiment:
        """Loads the data, divides it among the clients, and makes every component.

        Args:
            say: told what takes time while the data is read, and what was left out of it.
            dataset: images to take instead.
        """
        dataset = self.data.load(self.seed, say) if dataset is None else dataset
        spec = UNetSpec.of(self.model, dataset.image_size, dataset.channels, dataset.num_classes)
        rng = numpy_rng(self.seed, Purpose.PARTITION)
        indices = self.data.partition.split(dataset.labels, dataset.num_classes, self.data.num_clients, rng, dataset.owners)
        if self.evaluation.every:
            self.evaluation.features.require()
        pruning = within_budget(spec, self.pruning)
        require_networks(spec, pruning.ratios, self.submodels)  # refuses what would empty a layer, or blind the network
        return Experiment(
            name=self.name,
            devices=self.simulated(),
            feature_skew=self.data.feature_skew,
            seed=self.seed,
            dataset=dataset,
            client_rows=ClientRows.of(indices),
            spec=spec,
            process=NoiseProcess(self.process),
            strategy=self.strategy,
            hierarchy=self.hierarchy,
            schedule_config=self.schedule,
            local=self.local,
            pruning=pruning,
            server=self.server,
            evaluation=self.evaluation,
            runtime=self.runtime,
            checkpoint=self.checkpoint,
            failures=self.failures,
            faults=FaultScript(self.faults),
            settings=self.settings(),
            codecs=Codecs.of(self.communication, self.hierarchy.topology(), self.seed),
            submodels=self.submodels,
        )

    def settings(self) -> dict[str, object]:
        """The resolved configuration as plain values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved configuration, every default filled in."""
        return dump_yaml(self.model_dump(mode="json"))


def load_config(path: Path, overrides: Sequence[str] = (), trusted: Collection[str] | None = None) -> Config:
    """Reads a YAML file and applies `key=value` overrides (dotted keys, YAML values).

    Args:
        path: of the file.
        overrides: applied in their order.
        trusted: classes of the user's own that the file may name (`plugins`); None for all.

    Raises:
        ConfigError: one message for everything that is wrong, naming keys.
    """
    return parse_config(read_tree(path, overrides), trusted)


def parse_config(tree: Mapping[str, object], trusted: Collection[str] | None = None) -> Config:
    """Validates a configuration tree as YAML has it: text is no number, and a truth value neither; see `load_config`."""
    try:
        return Config.model_validate_json(json.dumps(tree), strict=True, context=trusting(trusted))
    except ValidationError as error:
        raise explained(error, Config) from None
