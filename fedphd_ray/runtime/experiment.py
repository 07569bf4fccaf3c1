"""An experiment: every choice made, as objects. The configuration builds it, tests build it by hand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.drift import Drift, Ownership
from fedphd_ray.data.looks import FeatureSkew
from fedphd_ray.devices.profiles import Devices
from fedphd_ray.diffusion.process import NoiseProcess
from fedphd_ray.diffusion.unet import UNetSpec, activation_bytes
from fedphd_ray.federation.channel.communication import EXACT, Codecs
from fedphd_ray.federation.channel.feedback import clients_keep
from fedphd_ray.federation.channel.protocol import Holdings
from fedphd_ray.federation.costs import Cost
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.planner import planner
from fedphd_ray.federation.planning.schedule import Schedule, ScheduleConfig
from fedphd_ray.federation.planning.workload import Narrow, Narrowing
from fedphd_ray.federation.prune import groups_at, num_channels, shapes_at
from fedphd_ray.federation.submodels.assignments import Candidates
from fedphd_ray.federation.submodels.slices import kept_layout, narrow_layout, num_kept, num_slices
from fedphd_ray.federation.submodels.widths import SubModels
from fedphd_ray.federation.sums.server_optimizer import ServerOptimizer
from fedphd_ray.federation.training.importance import Scoring
from fedphd_ray.population import ClientRows, Population
from fedphd_ray.pruning.importance import SparsityPenalty
from fedphd_ray.pruning.policy import PruningConfig
from fedphd_ray.runtime.evaluation import EvaluationConfig
from fedphd_ray.runtime.policy.failures import FailureConfig
from fedphd_ray.runtime.policy.faults import FaultScript
from fedphd_ray.runtime.policy.placement import Demand, RuntimeConfig
from fedphd_ray.runtime.storage.checkpoint import CheckpointConfig
from fedphd_ray.runtime.workers.host_setup import HostSetup
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies import Strategy
from fedphd_ray.topology import Topology


class ServerConfig(Section):
    """What the cloud does with the aggregated model.

    Attributes:
        ema_decay: moving average of the cloud's models, kept * decay + new * (1 - decay) at every synchronisation; the average is
            then what is judged and delivered. 0 keeps none (the paper).
        optimizer: how the cloud steps along what an aggregation changes; null takes the aggregate as it is.
    """

    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    optimizer: ServerOptimizer | None = None


@dataclass(frozen=True)
class Experiment:
    """Data, network, method and conditions of one run; independent of where it runs except for `runtime`.

    Attributes:
        client_rows: per client, its rows of the data set (sorted, disjoint, together all of them).
        codecs: how parameters are written for every link.
        devices: of clients and edges, where they are simulated.
        feature_skew: how differently clients see their images.
        drift: how what they have changes from round to round.
        submodels: widths of the networks that clients train, where that is not the whole one.
        settings: all of it as the resolved configuration says it, to tell whether another experiment is the same.
    """

    name: str
    seed: int
    dataset: ImageDataset
    client_rows: ClientRows
    spec: UNetSpec
    process: NoiseProcess
    strategy: Strategy
    hierarchy: HierarchyConfig
    schedule_config: ScheduleConfig
    local: LocalConfig
    pruning: PruningConfig
    server: ServerConfig
    evaluation: EvaluationConfig
    runtime: RuntimeConfig
    checkpoint: CheckpointConfig
    failures: FailureConfig
    faults: FaultScript
    settings: Mapping[str, Any]
    codecs: Codecs = EXACT
    devices: Devices | None = None
    feature_skew: FeatureSkew | None = None
    drift: Drift | None = None
    submodels: SubModels | None = None

    @cached_property
    def population(self) -> Population:
        """The registered clients, as a run finds them."""
        return self.population_at(1)

    def population_at(self, round: int) -> Population:
        """The same as a round finds it, where what clients have changes."""
        return self.ownership.population(round)

    @cached_property
    def ownership(self) -> Ownership:
        """What clients have in each round."""
        data = self.dataset
        return Ownership(self.client_rows, data.labels, data.num_classes, self.drift)

    @cached_property
    def training_images(self) -> NDArray[np.int64]:
        """Images that each client's local training takes, repetitions counted [num_clients]."""
        return np.array([self.local.images_through(int(size)) for size in self.population.num_samples], np.int64)

    @cached_property
    def schedule(self) -> Schedule:
        """The planner of rounds."""
        return planner(self.schedule_config, self.hierarchy, self.seed, self.pruning.moments, self.devices)

    @cached_property
    def costs(self) -> tuple[Cost, ...]:
        """Of every architecture there will be."""
        ratios = self.pruning.ratios
        shapes = [shapes_at(self.spec, ratios[:version]) for version in range(len(ratios) + 1)]
        return tuple(Cost.of(self.spec, own, self.local.images_at_once) for own in shapes)

    @cached_property
    def narrowings(self) -> tuple[Narrowing | None, ...]:
        """The sub-models of every architecture; None where all clients train the whole network."""
        narrows = self.submodels is not None and self.submodels.narrows
        return tuple(self._narrowing(version) if narrows else None for version in range(len(self.pruning.ratios) + 1))

    def _narrowing(self, version: int) -> Narrowing:
        assert self.submodels is not None
        ratios, spec, networks = self.pruning.ratios[:version], self.spec, dict[float, Narrow]()
        for width in (width for width in self.submodels.widths if width < 1):
            networks[width] = self._masked(version, width) if self.submodels.scheme == "masked" else self._narrow(version, width)
        costs = tuple(networks[width].cost if width < 1 else self.costs[version] for width in self.submodels.widths)
        candidates = Candidates(self.submodels.widths, costs, self.training_images, self.devices, self.seed)
        return Narrowing(
            self.submodels,
            self.submodels.assignment.assign(candidates),
            networks,
            num_slices(spec, ratios, self.submodels),
            candidates,
        )

    def _narrow(self, version: int, width: float) -> Narrow:
        ratios = self.pruning.ratios[:version]
        layout = narrow_layout(self.spec, ratios, width)
        held = Holdings.sized(layout, self.strategy, version, num_channels(self.spec, ratios))
        return Narrow(held, Cost.of(self.spec, layout.by_name, self.local.images_at_once))

    def _masked(self, version: int, density: float) -> Narrow:
        """As its paper counts: MACs shrink with the parameters; memory does not."""
        ratios, whole = self.pruning.ratios[:version], self.costs[version]
        num_params = sum(map(math.prod, shapes_at(self.spec, ratios).values()))
        layout = kept_layout(num_kept(num_params, density))
        held = replace(Holdings.sized(layout, self.strategy, version, num_channels(self.spec, ratios)), masked=num_params)
        return Narrow(held, replace(whole, macs=math.ceil(density * whole.macs)))

    def num_scores(self, round: int, version: int) -> int:
        """Channels that clients score in a round: all of an architecture, where it is pruned by their scores after it; else 0."""
        if not self.pruning.asks_clients or round not in self.pruning.moments:
            return 0
        return sum(group.num_channels for group in groups_at(self.spec, self.pruning.ratios[:version]))

    @property
    def clients_keep(self) -> bool:
        """Whether clients keep anything between rounds."""
        return clients_keep(self.local, self.strategy, self.codecs, self.topology)

    @property
    def topology(self) -> Topology:
        """Names and links."""
        return self.schedule.topology

    def host_setup(self) -> HostSetup:
        """What client hosts are given."""
        assert self.local.precision != "auto", "decided when a run begins, see `precision.decide_precision`"
        return HostSetup(
            spec=self.spec,
            process=self.process,
            strategy=self.strategy,
            local=self.local,
            penalty=SparsityPenalty(self.pruning.penalty),
            topology=self.topology,
            codecs=self.codecs,
            images=self.dataset.images,
            labels=None if self.spec.num_classes is None else self.dataset.labels,
            ownership=self.ownership,
            seed=self.seed,
            threads=self.runtime.threads_per_host,
            gpu_share=self.runtime.gpus_per_host,
            deterministic=self.runtime.deterministic,
            failures=self.failures,
            faults=self.faults,
            feature_skew=self.feature_skew,
            narrows=self.submodels is not None and self.submodels.narrows,
            ratios=self.pruning.ratios,
            scoring=Scoring.of(self.pruning),
            sampled_batch=self.evaluation.first_chunk if self.local.compile else 0,
        )

    def demand(self, model_bytes: int) -> Demand:
        """What placement has to find room for."""
        return Demand(
            num_clients=self.population.num_clients,
            clients_per_round=self.schedule.cohort_size,
            model_bytes=model_bytes,
            training_bytes=activation_bytes(self.spec, self.local.images_at_once) + self.dataset.images.nbytes,
            num_servers=self.topology.num_servers,
            store_bytes=self.store_bytes(model_bytes),
        )

    def store_bytes(self, model_bytes: int) -> int:
        """What one round may hold in the object store at once, with room: models of edges, sums of blocks, states of clients."""
        cohort = self.schedule.cohort_size
        models, states = 2 * (cohort + self.topology.num_servers + 8), 0
        if self.clients_keep:
            budget = int(self.runtime.client_state_gib * 2**30) + 3 * cohort * model_bytes
            states = min(budget, 3 * self.population.num_clients * model_bytes)
        return self.dataset.images.nbytes + models * model_bytes + states
