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
from fedphd_ray.federation.sums.merge import MergeOrder, merged, send_up
from fedphd_ray.plans import Aggregation, RoundPlan
from fedphd_ray.records import ClientReport, EdgeStatistics, Kind, LocalOrder, Payload, Transfer
from fedphd_ray.runtime.driver.exchange import hand_down, planned, sent_in_vain, statistics_to_cohort, timed, without
from fedphd_ray.runtime.driver.merging import merge, order_for, ready, residuals_of, sent_up, with_residuals
from fedphd_ray.runtime.driver.observer import Observer, RoundTrace
from fedphd_ray.runtime.driver.prune import prune
from fedphd_ray.runtime.driver.stopwatch import Stopwatch
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.policy.failures import require_quorum
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend, EdgeOutcome, EdgeTask, Handle
from fedphd_ray.strategies.base import Aggregate
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
        nothing_seen = EdgeStatistics.empty(experiment.population.num_classes)
        run = RunState(
            round=0,
            model=model,
            ema=model if experiment.server.ema_decay else None,
            models=tuple((None,) * nodes for nodes in experiment.topology.sizes),
            statistics=tuple((nothing_seen,) * nodes for nodes in experiment.topology.sizes),
            server=_arrays(experiment.strategy.initial_server(layout.num_params)),
        )
        if experiment.pruning.at_start:
            run = self._prune(run)
        self._observer.observe(run, None)
        return run

    def run(self, state: RunState) -> RunState:
        """All rounds that are left. Clients train at their edges; every r_g rounds the cloud aggregates; once, it prunes.

        Between edges and cloud there may be more tiers, each with a period of its own.
        """
        experiment = self._experiment
        while state.round < experiment.schedule.rounds:
            with self._watch("round"):
                state = without(state, experiment.schedule.away(state.round + 1), experiment.topology)
                plan = planned(experiment, state)
                state, sent = self._hand_down(state, plan)
                outcomes = self._backend.run_edges(self._tasks(state, plan))
                sent += sent_in_vain(experiment, state, plan, outcomes)
                sent += [row for outcome in outcomes for row in outcome.report.transfers]
                state = self._collect(state, plan, outcomes)
                seen = state.edge_statistics
                for level in range(1, experiment.topology.depth + 1):
                    state, rows = self._aggregate(state, plan, level, outcomes)
                    sent += rows
                if plan.prunes:
                    state = self._prune(state)
            reports = tuple(outcome.report for outcome in outcomes)
            self._observer.observe(state, RoundTrace(plan, reports, seen, timed(experiment, plan, sent), self._watch.lap()))
        return state

    def _hand_down(self, state: RunState, plan: RoundPlan) -> tuple[RunState, list[Transfer]]:
        """Those who have sent their models up are given what came of it, as soon as somebody is going to train from it."""
        experiment = self._experiment
        if not plan.asked:
            return state, []
        sent = statistics_to_cohort(experiment, state, plan)
        with self._watch("transfer"):
            models, residuals, rows = hand_down(experiment, self._backend, state, plan)
        oldest = experiment.schedule.oldest_version
        past = {version: former for version, former in state.past.items() if version >= oldest(plan.round, state.memory)}
        if oldest(plan.round + 1, plan.memory) <= plan.round:
            past[plan.round] = (*models, (self._backend.put(state.model),))
        return replace(state, models=models, residuals=residuals, past=past), rows + sent

    def _tasks(self, state: RunState, plan: RoundPlan) -> list[EdgeTask]:
        """One task per edge that somebody chose."""
        experiment = self._experiment
        scale = experiment.local.learning_rate_scale(plan.round - state.pruned_round)
        sparsity = experiment.pruning.sparsity_at(state.model.version)
        tasks = []
        for edge in experiment.topology.aggregators:
            blocks = plan.blocks(edge)
            clients = [client for block in blocks for client in block.clients]
            weighed = {client: own for block in blocks for client, own in zip(block.clients, block.factors, strict=True)}
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
                    factors={client: factor for client, factor in weighed.items() if factor != 1.0},
                    work={client: plan.steps[client] for client in clients if client in plan.steps},
                    slices={client: plan.slices[client] for client in clients if client in plan.slices},
                    asks_divergence=experiment.schedule.participation.needs_reports,
                    asks_importance=experiment.num_scores(plan.round, state.model.version) > 0,
                )
                past = {block.version: state.past[block.version][0][edge] for block in blocks if block.version is not None}
                fresh = state.edge_statistics[edge].weight == 0
                tasks.append(EdgeTask(edge, state.models[0][edge], blocks, order, experiment.strategy, states, past, fresh))
        return tasks

    def _collect(self, state: RunState, plan: RoundPlan, outcomes: Sequence[EdgeOutcome]) -> RunState:
        """The state after the edges' aggregation. An edge nobody chose keeps its model."""
        topology = self._experiment.topology
        reports = [report for outcome in outcomes for report in outcome.report.reports]
        require_quorum(self._experiment.failures, state.round + 1, reports)
        models, statistics = list(state.models[0]), list(state.edge_statistics)
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
        return replace(
            state,
            round=state.round + 1,
            models=(tuple(models), *state.models[1:]),
            statistics=(tuple(statistics), *state.statistics[1:]),
            client_states=self._backend.keep_states(_renewed(state.client_states, new_states)),
            state_rounds=state.state_rounds | dict.fromkeys(new_states, state.round + 1),
            plan_owed=state.plan_owed - took_part,
            failures=tuple(failures),
            memory=self._experiment.schedule.remember(plan, state.memory, reports, self._experiment.population_at(plan.round)),
        )

    def _aggregate(
        self, state: RunState, plan: RoundPlan, level: int, outcomes: Sequence[EdgeOutcome]
    ) -> tuple[RunState, list[Transfer]]:
        """What the plan wants of a level over nodes; a node that nobody has anything for is left alone."""
        aggregations = ready(state, plan, level)
        if level < self._experiment.topology.depth:
            with self._watch("aggregate"):
                return merge(self._experiment, self._backend, state, aggregations)
        if not aggregations:
            return state, []
        return self._synchronise(state, aggregations[0], sum(outcome.report.weight for outcome in outcomes))

    def _synchronise(self, state: RunState, aggregation: Aggregation, weight: float) -> tuple[RunState, list[Transfer]]:
        """Aggregates the highest tier at the cloud, and lets the server step."""
        experiment = self._experiment
        with self._watch("transfer"):
            bases, order = order_for(experiment, state, aggregation)
            held = [self._backend.get_payload(state.models[order.level][child]) for child in order.children]
            kept = residuals_of(experiment, state, order)
            sent = send_up(order, held, experiment.strategy, experiment.topology, experiment.codecs, kept)
        with self._watch("aggregate"):
            vector, server, mean = self._server_step(state, order, bases, sent.payloads, weight)
            ema = _average(state.ema, vector, experiment.server.ema_decay, state.syncs + 1)
        new = replace(
            sent_up(state, order),
            syncs=state.syncs + 1,
            model=replace(state.model, vector=as_numpy(vector)),
            ema=ema,
            server=_arrays(server),
            residuals=with_residuals(experiment, state, order, sent.residuals),
            importance=mean.beside.get(Kind.IMPORTANCE),
        )
        return new, sent.rows

    def _server_step(
        self, state: RunState, order: MergeOrder, bases: Sequence[Handle], arrived: Sequence[Payload], weight: float
    ) -> tuple[Tensor, dict[str, Tensor], Payload]:
        """The cloud's next model [num_params] from its children's, what it keeps beside it, and their mean."""
        experiment = self._experiment
        started = [state.model, *(self._backend.get_payload(former) for former in bases[1:])]
        mean = merged(order, started, arrived, experiment.strategy)
        base = as_tensor(state.model.vector)
        aggregate = Aggregate(
            base=base,
            mean=as_tensor(mean.vector),
            beside={name: as_tensor(vector) for name, vector in mean.beside.items()},
            weight=weight,
            num_clients=experiment.population.num_clients,
        )
        server = {name: as_tensor(vector) for name, vector in state.server.items()}
        vector, kept = experiment.strategy.server_step(aggregate, server)
        if (optimizer := experiment.server.optimizer) is not None:
            step, moments = optimizer.step(vector - base, server)
            vector, kept = base + step, kept | moments
        if not math.isfinite(float(vector.sum())):
            raise RunFailedError(_not_finite(experiment.topology, order, arrived))
        return vector, kept, mean

    def _prune(self, state: RunState) -> RunState:
        """Everything is smaller from here on."""
        return prune(self._experiment, self._backend, state)


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


def _not_finite(topology: Topology, order: MergeOrder, arrived: Sequence[Payload]) -> str:
    """Whose models, with what weights, made a model that is not finite."""
    senders = [
        f"{topology.name(order.level, child)}: weight {weight:g}, its model is "
        + ("finite" if math.isfinite(float(as_tensor(payload.vector).sum())) else "not finite")
        for child, payload, weight in zip(order.children, arrived, order.weights, strict=True)
    ]
    return f"round {order.round}: the aggregated model is not finite ({'; '.join(senders)}); lower the learning rates"


def _arrays(vectors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: as_numpy(vector) for name, vector in vectors.items()}


def _failures(round: int, name: str, reports: Sequence[ClientReport]) -> list[str]:
    return [
        f"round {round}: {client_name(report.client)} on {name}: {report.failure}; its update was not aggregated"
        for report in reports
        if report.failure
    ]
