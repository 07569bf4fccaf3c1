"""What goes down the tree before clients are trained, and what clients were sent in vain. The rest is where it is worked on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.channel.links import Link
from fedphd_ray.federation.channel.protocol import Holdings, statistics
from fedphd_ray.federation.planning.clock import stamped
from fedphd_ray.federation.planning.workload import Workload, lost_rows
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import Transfer
from fedphd_ray.runtime.driver.merging import residual_name, residual_of
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import Models, RunState
from fedphd_ray.runtime.workers.backend import Backend, EdgeOutcome, Handle
from fedphd_ray.tensors import as_numpy
from fedphd_ray.topology import Topology, client_name


def planned(experiment: Experiment, state: RunState) -> RoundPlan:
    """The plan of the next round, from all that is known before it."""
    needed = experiment.devices is not None or experiment.submodels is not None
    workload = workload_of(experiment, state, state.round + 1) if needed else None
    return experiment.schedule.plan(
        state.round + 1,
        experiment.strategy,
        experiment.population_at(state.round + 1),
        state.edge_statistics,
        state.memory,
        workload,
    )


def workload_of(experiment: Experiment, state: RunState, round: int) -> Workload:
    """What a round, the next one, will ask of clients and links."""
    strategy = experiment.strategy
    none = not any(held is not None for level in state.models for held in level)
    return Workload(
        strategy=strategy,
        topology=experiment.topology,
        codecs=experiment.codecs,
        held=Holdings.of(state.broadcast(strategy.server_sends), strategy, state.plan_channels),
        counts=_shared_counts(experiment, state, 0),
        cost=experiment.costs[state.model.version],
        images=experiment.training_images,
        known=state.client_states,
        owed=state.plan_owed,
        first=not state.syncs and none,
        holding=[[held is not None for held in level] for level in state.models],
        narrowing=experiment.narrowings[state.model.version],
        num_scores=experiment.num_scores(round, state.model.version),
        away=experiment.schedule.away(round),
    )


def timed(experiment: Experiment, plan: RoundPlan, rows: list[Transfer]) -> list[Transfer]:
    """A round's rows with their simulated seconds, where devices are simulated."""
    return rows if experiment.devices is None else stamped(rows, plan, experiment.devices, experiment.topology)


def without(state: RunState, away: frozenset[int], topology: Topology) -> RunState:
    """Edges that are away have lost what they had: their models, what they had seen, and what they kept."""
    if not away:
        return state
    models = tuple(None if edge in away else held for edge, held in enumerate(state.models[0]))
    statistics = tuple(seen.reset() if edge in away else seen for edge, seen in enumerate(state.statistics[0]))
    gone = {topology.name(0, edge) for edge in away}
    return replace(
        state,
        models=(models, *state.models[1:]),
        statistics=(statistics, *state.statistics[1:]),
        residuals={name: own for name, own in state.residuals.items() if name.partition(":")[2] not in gone},
    )


def hand_down(
    experiment: Experiment, backend: Backend, state: RunState, plan: RoundPlan
) -> tuple[Models, dict[str, NDArray[np.float32]], list[Transfer]]:
    """The models of all nodes, those that held none given their parents'; what that has left out; and the rows of the ledger.

    Where nothing is lost on the way all hold one object, whoever reads it. In a flat federation the node is the cloud itself.
    """
    topology, models, rows = experiment.topology, list(state.models), list[Transfer]()
    wanting = [
        [index for index, held in enumerate(own) if held is None and (level or index not in plan.away)]
        for level, own in enumerate(models)
    ]
    residuals = dict(state.residuals)
    if not any(wanting):
        return state.models, residuals, []
    first = not state.syncs and not any(held is not None for level in models for held in level)
    broadcast = state.broadcast(experiment.strategy.server_sends)
    above: tuple[Handle | None, ...] = (backend.put(broadcast) if wanting[-1] else None,)  # elsewhere nobody needs it
    for level in reversed(range(topology.depth)):
        given = list(models[level])
        for index in wanting[level]:
            parent = topology.parent(level, index)
            given[index], left, more = _give(experiment, backend, state, plan.round, (level, index), above[parent], first=first)
            residuals |= left
            rows += more
        above = models[level] = tuple(given)
    return tuple(models), residuals, rows


def _give(
    experiment: Experiment, backend: Backend, state: RunState, round: int, node: tuple[int, int], held: Handle, *, first: bool
) -> tuple[Handle, dict[str, NDArray[np.float32]], list[Transfer]]:
    """What a node holds that is given its parent's model, what its parent's messages have left out so far, where that is kept,
    and the rows. An exact codec is not asked to copy.
    """
    topology, (level, index) = experiment.topology, node
    if topology.flat:
        return held, {}, []
    source = topology.name(level + 1, topology.parent(level, index))
    link = experiment.codecs.link(round, topology.down(level), source, topology.name(level, index))
    sized = state.broadcast(experiment.strategy.server_sends)  # every model of this round is like it
    payload = sized if link.codec.exact else backend.get_payload(held)
    payload = replace(payload, beside={name: payload.beside[name] for name in sized.beside})  # no sums of what clients sent
    message = Holdings.of(payload, experiment.strategy, state.plan_channels).to_child(first=first, owed=bool(state.plan_owed))
    if link.codec.exact:
        return held, {}, link.rows(message)
    arrived = link.send(message, residual_of(experiment, state, link.hop, source))
    beside = {kind: as_numpy(vector) for kind, vector in arrived.beside.items()}
    left = {} if arrived.residual is None else {residual_name(link.hop, source): as_numpy(arrived.residual)}
    return backend.put(replace(payload, vector=as_numpy(arrived.model), beside=beside)), left, arrived.rows


def statistics_to_cohort(experiment: Experiment, state: RunState, plan: RoundPlan) -> list[Transfer]:
    """What every client of a cohort hears of every edge before it chooses one, for methods that share that."""
    topology, away = experiment.topology, experiment.schedule.away
    return [
        row
        for edge in topology.aggregators
        if (counts := _shared_counts(experiment, state, edge)) is not None
        for client, round in plan.asked.items()
        if edge not in away(round)
        for row in Link(plan.round, topology.to_client, topology.aggregator_name(edge), client_name(client)).rows(
            statistics(counts)
        )
    ]


def sent_in_vain(experiment: Experiment, state: RunState, plan: RoundPlan, outcomes: Sequence[EdgeOutcome]) -> list[Transfer]:
    """What clients received whose host died before it could say so; and what went to and fro for nothing in a simulation."""
    topology = experiment.topology
    if experiment.devices is None and not any(outcome.lost for outcome in outcomes):
        return []
    workload = workload_of(experiment, state, plan.round)
    rows = lost_rows(plan, workload)
    for outcome in outcomes:
        source = topology.aggregator_name(outcome.report.edge)
        for client, attempt in outcome.lost:
            link = experiment.codecs.link(plan.round, topology.to_client, source, client_name(client), attempt)
            rows += link.rows(workload.down(client, plan.width(client)))
    return rows


def _shared_counts(experiment: Experiment, state: RunState, edge: int) -> NDArray[np.int64] | None:
    return state.edge_statistics[edge].label_counts if experiment.strategy.shares_label_statistics else None
