"""What a run will cost: the schedule is replayed without training, and bytes are counted in closed form.

Sizes depend on shapes alone, and edge choices on label counts alone, so the forecast equals the ledger to the byte (unless a
client fails: an update that is not sent is not counted).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.diffusion.export import export_stock, opener
from fedphd_ray.diffusion.unet import UNetSpec, build_unet, initial_state
from fedphd_ray.errors import UserError
from fedphd_ray.federation.channel.links import model_bytes
from fedphd_ray.federation.planning.workload import Narrowing
from fedphd_ray.federation.prune import pruned_shapes
from fedphd_ray.foresight.replay import EdgeFigures, Replay, Simulated
from fedphd_ray.pruning.groups import count_macs
from fedphd_ray.runtime.directory.run_directory import cloud_saving
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.strategies.edge_choice import EdgeRule, Greedy, Nearest, OfTheStrategy, Random, Region, RoundRobin
from fedphd_ray.tensors import Layout, Shape


@dataclass(frozen=True)
class Network:
    """Size of one architecture: parameters, and MACs of one forward of one image."""

    params: int
    macs: int


@dataclass(frozen=True)
class Forecast:
    """Quantities of a run before it starts.

    Attributes:
        label_counts: int64 [num_clients, num_classes].
        dense: the network as configured.
        pruned: the network after pruning; the dense one if it is not pruned.
        effective_ratio: share of the prunable channels that goes: whole channels, so it may be more than was asked for.
        bytes_by_hop: of the whole run.
        cloud_saving: against flat FedAvg with the same clients per round.
        rounds: of the run.
        syncs: number of aggregations at the cloud.
        host_memory_bytes: estimate for one host process.
        simulated: where devices are.
        edges: how alike and how loaded they are; None for a flat federation.
        exact: bytes are those of the ledger; else the most there can be: a codec's sizes depend on the values.
        narrowings: sub-models of each architecture; None where all clients train the whole network.
        trained: (architecture, width) -> updates of it in the run.
    """

    label_counts: NDArray[np.int64]
    dense: Network
    pruned: Network
    effective_ratio: float
    bytes_by_hop: dict[str, int]
    cloud_saving: float
    rounds: int
    syncs: int
    host_memory_bytes: int
    simulated: Simulated | None = None
    edges: EdgeFigures | None = None
    exact: bool = True
    narrowings: tuple[Narrowing | None, ...] = ()
    trained: Mapping[tuple[int, float], int] = field(default_factory=dict)

    @property
    def params_removed(self) -> float:
        """Share of the parameters that pruning removes."""
        return 1.0 - self.pruned.params / self.dense.params


def forecast(experiment: Experiment) -> Forecast:
    """Replays the schedule, without what clients report: a planner that goes by their losses cannot be foretold.

    Raises:
        PruningError: the pruning ratio would empty a layer.
    """
    spec = experiment.spec
    dense_net = build_unet(spec, device="meta")
    layout = Layout.of(dict(dense_net.named_parameters()))
    dense = Network(layout.num_params, count_macs(dense_net, spec.image_size, spec.channels))
    layouts, pruned, num_channels, ratio = [layout], dense, 0, 0.0
    for left in pruned_shapes(spec, *experiment.pruning.ratios):
        pruned_net = build_unet(spec, left.by_name, device="meta")
        layouts.append(Layout.of(dict(pruned_net.named_parameters())))
        macs = count_macs(pruned_net, spec.image_size, spec.channels)
        pruned, num_channels, ratio = Network(layouts[-1].num_params, macs), left.num_channels, left.effective_ratio
    traffic = Replay(experiment, layouts, num_channels)
    bytes_by_hop, syncs = traffic.replay()
    return Forecast(
        label_counts=experiment.population.label_counts,
        dense=dense,
        pruned=pruned,
        effective_ratio=ratio,
        bytes_by_hop=bytes_by_hop,
        cloud_saving=cloud_saving(experiment, dense.params, bytes_by_hop),
        rounds=experiment.schedule.rounds,
        syncs=syncs,
        host_memory_bytes=experiment.demand(model_bytes(dense.params)).host_bytes,
        simulated=traffic.simulated,
        edges=None if experiment.topology.flat else EdgeFigures.of(traffic.sendings),
        exact=experiment.codecs.fixed,
        narrowings=experiment.narrowings,
        trained=traffic.trained,
    )


def edge_rules(experiment: Experiment) -> dict[str, Forecast]:
    """Forecasts of the run under every rule of edge choice that it can have, by their names.

    Raises:
        UserError: there are no edges to choose from.
    """
    if len(experiment.topology.aggregators) < 2:
        raise UserError("--edge-choices", expected="at least two edges", found="fewer: there is no choice")
    rules: list[EdgeRule] = [OfTheStrategy(), Random(name="random"), RoundRobin(name="round_robin"), Region(name="region")]
    if experiment.devices is not None:
        rules.append(Nearest(name="nearest"))
    if experiment.strategy.shares_label_statistics:
        rules += [Greedy(name="greedy"), Greedy(name="greedy", knowledge="sequential")]
    found = {}
    for rule in rules:
        own = replace(experiment, hierarchy=experiment.hierarchy.model_copy(update={"edge_choice": rule}))
        found[rule.name + (", sequential" if getattr(rule, "knowledge", "") == "sequential" else "")] = forecast(own)
    return found


def stock_forecast(experiment: Experiment) -> str:
    """Whether stock diffusers will open the delivered model: a random network of its shapes is exported, and tried."""
    spec, will = experiment.spec, f"will open with {opener(experiment.spec)}"
    left = pruned_shapes(spec, *experiment.pruning.ratios)
    if not left:
        return will
    shapes = left[-1].by_name
    unet = build_unet(spec, shapes)
    unet.load_state_dict(first_channels(spec, experiment.seed, shapes))
    export = export_stock(unet, spec, num_timesteps=experiment.process.config.num_timesteps)
    return f"in this project's own class only: {export.reason}" if export.reason else will


def first_channels(spec: UNetSpec, seed: int, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """A random network of pruned shapes, where it does not matter which channels stay."""
    dense = initial_state(spec, seed)
    return {name: dense[name][tuple(slice(size) for size in shape)].contiguous() for name, shape in shapes.items()}
