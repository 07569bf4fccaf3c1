"""What goes down the tree before clients are trained, and what clients were sent in vain. The rest is where it is worked on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.links import Link
from fedphd_ray.federation.protocol import Holdings, statistics
from fedphd_ray.records import Payload, RoundPlan, Transfer
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend, EdgeOutcome, Handle
from fedphd_ray.tensors import as_numpy
from fedphd_ray.topology import client_name


def hand_down(
    experiment: Experiment, backend: Backend, state: RunState, round: int
) -> tuple[tuple[tuple[Handle, ...], ...], list[Transfer]]:
    """The models of all nodes, those that held none given their parents', and the rows of the ledger for that.

    Where nothing is lost on the way all hold one object, whoever reads it. In a flat federation the node is the cloud itself.
    """
    topology, models, rows = experiment.topology, list(state.models), []
    sized = state.broadcast(experiment.strategy.server_sends)  # every model of this round is like it
    message = Holdings.of(sized, experiment.strategy, state.plan_channels).to_child(first=round == 1, owed=bool(state.plan_owed))
    for level in reversed(range(topology.depth)):
        if models[level]:
            continue
        above = models[level + 1] if level + 1 < topology.depth else (backend.put(sized),)
        given = []
        for index in range(topology.sizes[level]):
            held = above[topology.parent(level, index)]
            if not topology.flat:
                source = topology.name(level + 1, topology.parent(level, index))
                link = Link(round, topology.down(level), source, topology.name(level, index), experiment.codec)
                rows += link.rows(message)
                held = held if experiment.codec.exact else _sent(experiment, backend, state, link, held, first=round == 1)
            given.append(held)
        models[level] = tuple(given)
    return tuple(models), rows


def _sent(experiment: Experiment, backend: Backend, state: RunState, link: Link, held: Handle, *, first: bool) -> Handle:
    """What of a model arrives over a link."""
    payload = backend.get_payload(held)
    holdings = Holdings.of(payload, experiment.strategy, state.plan_channels)
    arrived = link.send(holdings.to_child(first=first, owed=bool(state.plan_owed)))
    beside = {name: as_numpy(vector) for name, vector in arrived.beside.items()}
    return backend.put(replace(payload, vector=as_numpy(arrived.model), beside=beside))


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
