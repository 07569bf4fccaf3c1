"""Aggregations at nodes over nodes: who takes part, from which models, and what the state is after that."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.sums.merge import MergeOrder, held_by, order_of, sent_up_in_vain
from fedphd_ray.plans import Aggregation, RoundPlan
from fedphd_ray.records import Transfer
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend, Handle, MergeTask
from fedphd_ray.tensors import as_numpy, as_tensor
from fedphd_ray.topology import Hop


def ready(state: RunState, plan: RoundPlan, level: int) -> list[Aggregation]:
    """The aggregations of a level that have something to do, at nodes that hold a model (the cloud always does)."""
    held = [held_by(state.models[level - 1], each) for each in plan.at(level)]
    own = state.models[level] if level < len(state.models) else (state.model,)
    return [each for each in held if each.contributions and own[each.node] is not None]


def order_for(experiment: Experiment, state: RunState, aggregation: Aggregation) -> tuple[tuple[Handle, ...], MergeOrder]:
    """The models that a node's children started from (its own first), and what it is told to do with theirs."""
    level, node = aggregation.level, aggregation.node
    versions = list(dict.fromkeys(each.version for each in aggregation.contributions if each.version is not None))
    own = state.models[level][node] if level < experiment.topology.depth else state.model
    order = order_of(
        aggregation,
        experiment.strategy,
        experiment.population,
        state.statistics[level - 1],
        round=state.round,
        bases=[0 if each.version is None else 1 + versions.index(each.version) for each in aggregation.contributions],
        plan_channels=state.plan_channels,
        num_slices=0 if (narrowing := experiment.narrowings[state.model.version]) is None else narrowing.num_slices,
        num_scores=experiment.num_scores(state.round, state.model.version),
        fresh=level == experiment.topology.depth or state.statistics[level][node].weight == 0,
    )
    return (own, *(state.past[version][level][node] for version in versions)), order


def merge(
    experiment: Experiment, backend: Backend, state: RunState, aggregations: Sequence[Aggregation]
) -> tuple[RunState, list[Transfer]]:
    """Some nodes of one level merge the models of their children, and will hand down what comes of it."""
    tasks, rows = [], list[Transfer]()
    for each in aggregations:
        bases, order = order_for(experiment, state, each)
        children = tuple(state.models[order.level][child] for child in order.children)
        tasks.append(MergeTask(order, bases, children, experiment.strategy))
    for task, outcome in zip(tasks, backend.merge(tasks) if tasks else (), strict=True):
        level, node, seen = task.order.level + 1, task.order.node, task.order.statistics
        rows += sent_up_in_vain(
            task.order, state.model, outcome.lost, experiment.strategy, experiment.topology, experiment.codecs
        )
        rows += outcome.rows
        models, statistics = list(state.models[level]), list(state.statistics[level])
        models[node], statistics[node] = outcome.model, statistics[node].after_merge(seen)
        state = sent_up(
            replace(
                state,
                models=(*state.models[:level], tuple(models), *state.models[level + 1 :]),
                statistics=(*state.statistics[:level], tuple(statistics), *state.statistics[level + 1 :]),
            ),
            task.order,
        )
    return state, rows


def sent_up(state: RunState, order: MergeOrder) -> RunState:
    """Nodes have sent their models up: they hold none, and have seen nothing since."""
    level = order.level
    models, statistics = list(state.models[level]), list(state.statistics[level])
    for child in order.children:
        models[child], statistics[child] = None, statistics[child].reset()
    return replace(
        state,
        models=(*state.models[:level], tuple(models), *state.models[level + 1 :]),
        statistics=(*state.statistics[:level], tuple(statistics), *state.statistics[level + 1 :]),
    )


def residuals_of(experiment: Experiment, state: RunState, order: MergeOrder) -> list[Tensor | None]:
    """What the messages of the cloud's children have left out so far [num_params]; None where they keep nothing."""
    topology, hop = experiment.topology, experiment.topology.up(order.level)
    return [residual_of(experiment, state, hop, topology.name(order.level, child)) for child in order.children]


def residual_of(experiment: Experiment, state: RunState, hop: Hop, sender: str) -> Tensor | None:
    """What a sender's messages over a hop have left out so far [num_params]: nothing before the first."""
    if not experiment.codecs.keeps_residual(hop):
        return None
    kept = state.residuals.get(residual_name(hop, sender))
    return torch.zeros(state.model.layout.num_params) if kept is None else as_tensor(kept)


def with_residuals(
    experiment: Experiment, state: RunState, order: MergeOrder, residuals: Sequence[Tensor | None]
) -> dict[str, NDArray[np.float32]]:
    """What is kept after they have sent."""
    topology, hop = experiment.topology, experiment.topology.up(order.level)
    return state.residuals | {
        residual_name(hop, topology.name(order.level, child)): as_numpy(left)
        for child, left in zip(order.children, residuals, strict=True)
        if left is not None
    }


def residual_name(hop: Hop, sender: str) -> str:
    """By which the residual of a sender's messages is kept."""
    return f"{hop}:{sender}"
