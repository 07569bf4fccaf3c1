"""The pruning as an event of a run: everything that is shaped like the model is cut by one plan."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.prune import groups_at, plan_pruning
from fedphd_ray.pruning.importance import Importance, group_l2_importance, importance_from
from fedphd_ray.pruning.plan import PrunePlan
from fedphd_ray.records import ClientState
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import RunState, keep_all
from fedphd_ray.runtime.workers.backend import Backend, Handle
from fedphd_ray.tensors import Layout, as_numpy, as_tensor


def prune(experiment: Experiment, backend: Backend, state: RunState) -> RunState:
    """Cuts the cloud's model, and by the same plan everything shaped like it. Every payload is smaller from here on."""
    ratio = experiment.pruning.ratios[state.model.version]
    plan = plan_pruning(experiment.spec, state.model, ratio, state.plan, _importance(experiment, state))
    layout = state.model.layout

    def cut_model(handle: Handle | None) -> Handle | None:
        return None if handle is None else backend.put(plan.cut_payload(backend.get_payload(handle)))

    def cut(client: int) -> ClientState:
        return _cut_state(plan, backend.get_state(state.client_states[client]), layout)

    return replace(
        state,
        model=plan.cut_payload(state.model),
        ema=None if state.ema is None else plan.cut_payload(state.ema),
        client_states=keep_all(backend, state.client_states, cut),
        server=_cut_vectors(plan, state.server, layout),
        residuals=_cut_vectors(plan, state.residuals, layout),
        plan=plan if state.plan is None else state.plan.then(plan),
        pruned_round=state.round,
        plan_owed=frozenset(state.client_states),
        models=tuple(tuple(map(cut_model, level)) for level in state.models),
        past={version: tuple(tuple(map(cut_model, level)) for level in models) for version, models in state.past.items()},
        importance=None,
    )


def _importance(experiment: Experiment, state: RunState) -> Importance:
    """By what channels are compared. Where nobody took part who could have been asked, it is their weights."""
    pruning, version = experiment.pruning, state.model.version
    if not pruning.asks_clients:
        return pruning.criterion.importance(experiment.seed, version + 1)
    if state.importance is None or not state.importance.any():
        return group_l2_importance
    return importance_from(as_tensor(state.importance), groups_at(experiment.spec, pruning.ratios[:version]))


def _cut_vectors(plan: PrunePlan, vectors: Mapping[str, NDArray[np.float32]], layout: Layout) -> dict[str, NDArray[np.float32]]:
    """Whatever is shaped like the model, cut like the model."""
    return {name: as_numpy(plan.cut_vector(as_tensor(vector), layout)[0]) for name, vector in vectors.items()}


def _cut_state(plan: PrunePlan, state: ClientState, layout: Layout) -> ClientState:
    return ClientState(_cut_vectors(plan, state.vectors, layout), state.scalars, plan.version)
