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
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec
from fedphd_ray.federation.budget import within_budget
from fedphd_ray.federation.channel.communication import Codecs, HopCodec
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.schedule import ScheduleConfig
from fedphd_ray.federation.submodels.slices import require_networks
from fedphd_ray.federation.submodels.widths import SubModels
from fedphd_ray.fitting import require_fit
from fedphd_ray.pruning.policy import PruningConfig
from fedphd_ray.reporters.config import ReportingConfig
from fedphd_ray.runtime.evaluation import EvaluationConfig
from fedphd_ray.runtime.experiment import Experiment, ServerConfig
from fedphd_ray.runtime.policy.failures import FailureConfig
from fedphd_ray.runtime.policy.faults import Fault, FaultScript
from fedphd_ray.runtime.policy.placement import RuntimeConfig
from fedphd_ray.runtime.storage.checkpoint import CheckpointConfig
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.settings.overrides import read_tree
from fedphd_ray.settings.plugins import trusting
from fedphd_ray.settings.sections import Section
from fedphd_ray.settings.validation import explained
from fedphd_ray.settings.yaml_files import dump_yaml
from fedphd_ray.strategies import AnyStrategy, FedPhD, Strategy
from fedphd_ray.system.saying import Say, unheard


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
        require_fit(self)
        return self

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
        rows = self.data.partition.divide(dataset.labels, dataset.num_classes, self.data.num_clients, rng, dataset.owners)
        if self.evaluation.every:
            self.evaluation.features.require()
        pruning = within_budget(spec, self.pruning)
        require_networks(spec, pruning.ratios, self.submodels)  # refuses what would empty a layer, or blind the network
        return Experiment(
            name=self.name,
            devices=self.simulated(),
            feature_skew=self.data.feature_skew,
            drift=self.data.drift,
            seed=self.seed,
            dataset=dataset,
            client_rows=rows,
            spec=spec,
            process=NoiseProcess(self.process),
            strategy=self.method,
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

    @property
    def method(self) -> Strategy:
        """The strategy as it is run: with normalised updates where the policy asks for that."""
        return self.strategy.model_copy(update={"normalise_steps": True}) if self.schedule.policy.normalises else self.strategy

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
