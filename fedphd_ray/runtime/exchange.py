"""What goes down the tree before clients are trained, and what clients were sent in vain. The rest is where it is worked on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.links import Link
from fedphd_ray.federation.protocol import Holdings, statistics
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import Payload, Transfer
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import Models, RunState
from fedphd_ray.runtime.workers.backend import Backend, EdgeOutcome, Handle
from fedphd_ray.tensors import as_numpy
from fedphd_ray.topology import client_name


def hand_down(experiment: Experiment, backend: Backend, state: RunState, round: int) -> tuple[Models, list[Transfer]]:
    """The models of all nodes, those that held none given their parents', and the rows of the ledger for that.

    Where nothing is lost on the way all hold one object, whoever reads it. In a flat federation the node is the cloud itself.
    """
    topology, models, rows = experiment.topology, list(state.models), list[Transfer]()
    if all(held is not None for level in models for held in level):
        return state.models, []
    first = not state.syncs and not any(held is not None for level in models for held in level)
    waiting = None in models[-1]  # elsewhere nobody needs the cloud's model
    above: tuple[Handle | None, ...] = (backend.put(state.broadcast(experiment.strategy.server_sends)) if waiting else None,)
    for level in reversed(range(topology.depth)):
        given = list(models[level])
        for index in range(len(given)):
            if given[index] is None:
                parent = topology.parent(level, index)
                given[index], more = _give(experiment, backend, state, round, (level, index), above[parent], first=first)
                rows += more
        above = models[level] = tuple(given)
    return tuple(models), rows


def _give(
    experiment: Experiment, backend: Backend, state: RunState, round: int, node: tuple[int, int], held: Handle, *, first: bool
) -> tuple[Handle, list[Transfer]]:
    """What a node holds that is given its parent's model, and the rows for it. An exact codec is not asked to copy."""
    topology, codec, (level, index) = experiment.topology, experiment.codec, node
    if topology.flat:
        return held, []
    source = topology.name(level + 1, topology.parent(level, index))
    link = Link(round, topology.down(level), source, topology.name(level, index), codec)
    sized = state.broadcast(experiment.strategy.server_sends)  # every model of this round is like it
    payload = sized if codec.exact else backend.get_payload(held)
    message = Holdings.of(payload, experiment.strategy, state.plan_channels).to_child(first=first, owed=bool(state.plan_owed))
    if codec.exact:
        return held, link.rows(message)
    arrived = link.send(message)
    beside = {name: as_numpy(vector) for name, vector in arrived.beside.items()}
    return backend.put(replace(payload, vector=as_numpy(arrived.model), beside=beside)), arrived.rows


def statistics_to_cohort(experiment: Experiment, state: RunState, plan: RoundPlan) -> list[Transfer]:
    """What every client of a cohort hears of every edge before it chooses one, for methods that share that."""
    topology = experiment.topology
    return [
        row
        for edge in topology.aggregators
        if (counts := _shared_counts(experiment, state, edge)) is not None
        for client in plan.edge_of
        for row in Link(plan.round, topology.to_client, topology.aggregator_name(edge), client_name(client)).rows(
            statistics(counts)
        )
    ]


def sent_in_vain(experiment: Experiment, state: RunState, round: int, outcomes: Sequence[EdgeOutcome]) -> list[Transfer]:
    """What clients received whose host died before it could say so."""
    model: Payload = state.broadcast(experiment.strategy.server_sends)
    held = Holdings.of(model, experiment.strategy, state.plan_channels)
    topology = experiment.topology
    rows = []
    for outcome in outcomes:
        source = topology.aggregator_name(outcome.report.edge)
        for client, attempt in outcome.lost:
            link = Link(round, topology.to_client, source, client_name(client), experiment.codec, attempt)
            rows += link.rows(held.to_client(known=client in state.client_states, owed=client in state.plan_owed))
    return rows


def _shared_counts(experiment: Experiment, state: RunState, edge: int) -> NDArray[np.int64] | None:
    return state.edge_statistics[edge].label_counts if experiment.strategy.shares_label_statistics else None
