"""The cloud: its main loop is the algorithm of the paper, its driver is whatever `Backend` it is given."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.diffusion.unet import initial_state
from fedphd_ray.errors import RunFailedError
from fedphd_ray.federation.aggregation import fold_by_name, weighted_models, weights_by_part
from fedphd_ray.federation.prune import plan_pruning
from fedphd_ray.pruning.plan import PrunePlan
from fedphd_ray.records import ClientReport, ClientState, EdgeStatistics, LocalOrder, Payload, RoundPlan, Transfer
from fedphd_ray.runtime.exchange import down_to_edges, sent_in_vain, statistics_to_cohort, up_from_edges
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.observer import Observer, RoundTrace
from fedphd_ray.runtime.policy.failures import require_quorum
from fedphd_ray.runtime.stopwatch import Stopwatch
from fedphd_ray.runtime.storage.state import RunState, keep_all
from fedphd_ray.runtime.workers.backend import Backend, EdgeOutcome, EdgeTask, Handle
from fedphd_ray.strategies.base import Aggregate
from fedphd_ray.strategies.homogeneity import homogeneity_score
from fedphd_ray.tensors import Layout, as_numpy, as_tensor
from fedphd_ray.topology import Topology, client_name


class Cloud:
    """Schedules rounds, aggregates edges, and prunes.

    Args:
        experiment: what is run.
        backend: who runs it.
        observer: handed every state; keeps the books, judges, reports and saves.
    """

    def __init__(self, experiment: Experiment, backend: Backend, observer: Observer) -> None:
        self._experiment = experiment
        self._backend = backend
        self._observer = observer
        self._watch = Stopwatch()

    def begin(self) -> RunState:
        """The state before the first round: a random network, pruned already in mode `at_init`."""
        experiment = self._experiment
        state = initial_state(experiment.spec, experiment.seed)
        layout = Layout.of(state)
        model = Payload(as_numpy(layout.flatten(state)), layout, version=0)
        edges = len(experiment.topology.aggregators)
        run = RunState(
            round=0,
            model=model,
            ema=model if experiment.server.ema_decay else None,
            edge_models=(),
            edge_statistics=(EdgeStatistics.empty(experiment.population.num_classes),) * edges,
            server=_arrays(experiment.strategy.initial_server(layout.num_params)),
        )
        if experiment.pruning.mode == "at_init":
            run = self._prune(run)
        self._observer.observe(run, None)
        return run

    def run(self, state: RunState) -> RunState:
        """All rounds that are left. Clients train at their edges; every r_g rounds the cloud aggregates; once, it prunes."""
        experiment = self._experiment
        while state.round < experiment.schedule.rounds:
            with self._watch("round"):
                plan = experiment.schedule.plan(
                    state.round + 1, experiment.strategy, experiment.population, state.edge_statistics
                )
                state, sent = self._hand_down(state, plan)
                outcomes = self._backend.run_edges(self._tasks(state, plan))
                sent += sent_in_vain(experiment, state, plan.round, outcomes)
                sent += [row for outcome in outcomes for row in outcome.report.transfers]
                state, homogeneity = self._collect(state, outcomes)
                if plan.syncs:
                    state, rows = self._synchronise(state, outcomes)
                    sent += rows
                if plan.prunes:
                    state = self._prune(state)
            reports = tuple(outcome.report for outcome in outcomes)
            self._observer.observe(state, RoundTrace(plan, reports, homogeneity, sent, self._watch.lap()))
        return state

    def _hand_down(self, state: RunState, plan: RoundPlan) -> tuple[RunState, list[Transfer]]:
        """After a synchronisation the edges are given the cloud's model; one object where all hold the same, whoever reads it."""
        sent = statistics_to_cohort(self._experiment, state, plan)
        if state.edge_models and not plan.starts_cycle:
            return state, sent
        with self._watch("transfer"):
            payloads, rows = down_to_edges(self._experiment, state, plan.round)
            handles = {id(payload): self._backend.put(payload) for payload in {id(each): each for each in payloads}.values()}
        return replace(state, edge_models=tuple(handles[id(payload)] for payload in payloads)), rows + sent

    def _tasks(self, state: RunState, plan: RoundPlan) -> list[EdgeTask]:
        """One task per edge that somebody chose."""
        experiment = self._experiment
        scale = experiment.local.learning_rate_scale(plan.round - state.pruned_round)
        sparsity = experiment.pruning.sparsity_at(state.model.version)
        tasks = []
        for edge in experiment.topology.aggregators:
            blocks = tuple(block for block in plan.blocks if block.edge == edge)
            clients = [client for block in blocks for client in block.clients]
            states = {client: state.client_states[client] for client in clients if client in state.client_states}
            if blocks:
                order = LocalOrder(
                    round=plan.round,
                    edge=edge,
                    learning_rate_scale=scale,
                    sparsity=sparsity,
                    reported_parts=plan.reported_parts,
                    plan_channels=state.plan_channels,
                    plan_owed=state.plan_owed.intersection(clients),
                )
                tasks.append(EdgeTask(edge, state.edge_models[edge], blocks, order, experiment.strategy, states))
        return tasks

    def _collect(self, state: RunState, outcomes: Sequence[EdgeOutcome]) -> tuple[RunState, dict[int, float]]:
        """The state after the edges' aggregation, and each edge's homogeneity. An edge nobody chose keeps its model."""
        topology = self._experiment.topology
        reports = [report for outcome in outcomes for report in outcome.report.reports]
        require_quorum(self._experiment.failures, state.round + 1, reports)
        models, statistics = list(state.edge_models), list(state.edge_statistics)
        new_states: dict[int, Handle] = {}
        failures, took_part = list(state.failures), set()
        for outcome in outcomes:
            edge = outcome.report.edge
            models[edge] = outcome.model
            statistics[edge] = statistics[edge].after(outcome.report)
            new_states |= {
                report.client: outcome.states[report.client]
                for report in outcome.report.reports
                if report.client in outcome.states and not report.failure
            }
            took_part |= {report.client for report in outcome.report.reports}
            failures += _failures(state.round + 1, topology.aggregator_name(edge), outcome.report.reports)
        classes = self._experiment.population.num_classes
        homogeneity = {
            edge: homogeneity_score(seen.distribution, [1 / classes] * classes) for edge, seen in enumerate(statistics)
        }
        new = replace(
            state,
            round=state.round + 1,
            edge_models=tuple(models),
            edge_statistics=tuple(statistics),
            client_states=self._backend.keep_states(_renewed(state.client_states, new_states)),
            state_rounds=state.state_rounds | dict.fromkeys(new_states, state.round + 1),
            plan_owed=state.plan_owed - took_part,
            failures=tuple(failures),
        )
        return new, homogeneity

    def _synchronise(self, state: RunState, outcomes: Sequence[EdgeOutcome]) -> tuple[RunState, list[Transfer]]:
        """Aggregates the edges at the cloud, lets the server step, and clears the edges' models and statistics."""
        experiment = self._experiment
        with self._watch("transfer"):
            payloads = [self._backend.get_payload(handle) for handle in state.edge_models]
            arrived, sent = up_from_edges(experiment, state, state.round, payloads)
        with self._watch("aggregate"):
            vector, kept = self._server_step(state, arrived, sum(outcome.report.weight for outcome in outcomes))
            ema = _average(state.ema, vector, experiment.server.ema_decay, state.syncs + 1)
        new = replace(
            state,
            syncs=state.syncs + 1,
            model=replace(state.model, vector=as_numpy(vector)),
            ema=ema,
            server=_arrays(kept),
            edge_models=(),
            edge_statistics=tuple(edge.reset() for edge in state.edge_statistics),
        )
        return new, sent

    def _server_step(self, state: RunState, arrived: Sequence[Payload], weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The cloud's next model [num_params] from the edges', and what it keeps beside it."""
        experiment = self._experiment
        weights = experiment.strategy.edge_weights(state.edge_statistics, experiment.population)
        parts = experiment.strategy.parts(state.model.layout)
        base, models = as_tensor(state.model.vector), [as_tensor(payload.vector) for payload in arrived]
        beside = fold_by_name([payload.beside for payload in arrived], [1] * len(arrived))
        aggregate = Aggregate(
            base=base,
            mean=weighted_models(base, models, parts, weights_by_part(state.edge_statistics, weights, len(parts))),
            beside={name: as_tensor(vector) for name, vector in beside.items()},
            weight=weight,
            num_clients=experiment.population.num_clients,
        )
        server = {name: as_tensor(vector) for name, vector in state.server.items()}
        vector, kept = experiment.strategy.server_step(aggregate, server)
        if (optimizer := experiment.server.optimizer) is not None:
            step, moments = optimizer.step(vector - base, server)
            vector, kept = base + step, kept | moments
        if not math.isfinite(float(vector.sum())):
            raise RunFailedError(_not_finite(state.round, experiment.topology, models, weights))
        return vector, kept

    def _prune(self, state: RunState) -> RunState:
        """Cuts the cloud's model, and by the same plan everything shaped like it. Every payload is smaller from here on."""
        plan = plan_pruning(self._experiment.spec, state.model, self._experiment.pruning.ratio)
        layout = state.model.layout

        def cut(client: int) -> ClientState:
            return _cut_state(plan, self._backend.get_state(state.client_states[client]), layout)

        return replace(
            state,
            model=plan.cut_payload(state.model),
            ema=None if state.ema is None else plan.cut_payload(state.ema),
            client_states=keep_all(self._backend, state.client_states, cut),
            server=_cut_vectors(plan, state.server, layout),
            plan=plan,
            pruned_round=state.round,
            plan_owed=frozenset(state.client_states),
        )


def _renewed(states: Mapping[int, Handle], new: Mapping[int, Handle]) -> dict[int, Handle]:
    """The states with the new ones at the end."""
    return {client: handle for client, handle in states.items() if client not in new} | dict(new)


def _average(ema: Payload | None, vector: Tensor, decay: float, count: int) -> Payload | None:
    """The moving average of `count` models, of which `vector` is the last: weights 1, decay, decay^2, ... back in time.

    The random network before the first of them has no weight: divided by 1 - decay^count, as Adam does it, the weights sum to 1.
    """
    if ema is None:
        return None
    share = (1 - decay) / (1 - decay**count)
    return replace(ema, vector=as_numpy(torch.lerp(as_tensor(ema.vector), vector, share)))


def _not_finite(round: int, topology: Topology, models: Sequence[Tensor], weights: NDArray[np.float64]) -> str:
    """Whose models, with what weights, made a model that is not finite."""
    edges = [
        f"{topology.aggregator_name(edge)}: weight {weight:g}, its model is "
        + ("finite" if math.isfinite(float(model.sum())) else "not finite")
        for edge, (model, weight) in enumerate(zip(models, weights, strict=True))
    ]
    return f"round {round}: the aggregated model is not finite ({'; '.join(edges)}); lower the learning rates"


def _arrays(vectors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: as_numpy(vector) for name, vector in vectors.items()}


def _cut_vectors(plan: PrunePlan, vectors: Mapping[str, NDArray[np.float32]], layout: Layout) -> dict[str, NDArray[np.float32]]:
    """Whatever is shaped like the model, cut like the model."""
    return {name: as_numpy(plan.cut_vector(as_tensor(vector), layout)[0]) for name, vector in vectors.items()}


def _cut_state(plan: PrunePlan, state: ClientState, layout: Layout) -> ClientState:
    return ClientState(_cut_vectors(plan, state.vectors, layout), state.scalars, plan.version)


def _failures(round: int, name: str, reports: Sequence[ClientReport]) -> list[str]:
    return [
        f"round {round}: {client_name(report.client)} on {name}: {report.failure}; its update was not aggregated"
        for report in reports
        if report.failure
    ]
