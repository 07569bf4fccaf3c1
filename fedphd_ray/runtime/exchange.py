"""What goes between the cloud and its edges, and what clients were sent in vain. The rest is where clients are trained."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.links import Link
from fedphd_ray.federation.protocol import Holdings, statistics
from fedphd_ray.records import Payload, RoundPlan, Transfer
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import EdgeOutcome
from fedphd_ray.tensors import as_numpy, as_tensor
from fedphd_ray.topology import CLOUD, Hop, client_name


def down_to_edges(experiment: Experiment, state: RunState, round: int) -> tuple[list[Payload], list[Transfer]]:
    """What each aggregator holds at the start of a cycle. In a flat federation that is the cloud, and nothing is sent."""
    topology, model = experiment.topology, state.broadcast(experiment.strategy.server_sends)
    if topology.flat:
        return [model], []
    held = _holdings(experiment, state, model)
    message = held.to_edge(first=round == 1, owed=bool(state.plan_owed))
    payloads, rows = [], []
    for edge in topology.aggregators:
        link = Link(round, Hop.CLOUD_TO_EDGE, CLOUD, topology.aggregator_name(edge), experiment.codec)
        arrived = link.send(message)
        same = arrived.model is held.model
        beside = {name: as_numpy(vector) for name, vector in arrived.beside.items()}
        payloads.append(model if same else replace(model, vector=as_numpy(arrived.model), beside=beside))
        rows += arrived.rows
    return payloads, rows


def up_from_edges(
    experiment: Experiment, state: RunState, round: int, payloads: Sequence[Payload]
) -> tuple[list[Payload], list[Transfer]]:
    """What the edges hold, as it reaches the cloud at a synchronisation."""
    topology = experiment.topology
    if topology.flat:
        return list(payloads), []
    arrived, rows = [], []
    for edge, payload in zip(topology.aggregators, payloads, strict=True):
        link = Link(round, Hop.EDGE_TO_CLOUD, topology.aggregator_name(edge), CLOUD, experiment.codec)
        message = _holdings(experiment, state, payload).to_cloud(_shared_counts(experiment, state, edge))
        delivery = link.send(message)
        beside = {name: as_numpy(vector) for name, vector in delivery.beside.items()}
        arrived.append(replace(payload, vector=as_numpy(delivery.model), beside=beside))
        rows += delivery.rows
    return arrived, rows


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
    held = _holdings(experiment, state, state.broadcast(experiment.strategy.server_sends))
    topology = experiment.topology
    rows = []
    for outcome in outcomes:
        source = topology.aggregator_name(outcome.report.edge)
        for client, attempt in outcome.lost:
            link = Link(round, topology.to_client, source, client_name(client), experiment.codec, attempt)
            rows += link.rows(held.to_client(known=client in state.client_states, owed=client in state.plan_owed))
    return rows


def _holdings(experiment: Experiment, state: RunState, payload: Payload) -> Holdings:
    """Of a node that holds a payload."""
    return Holdings(
        model=as_tensor(payload.vector),
        parts=experiment.strategy.parts(payload.layout),
        version=payload.version,
        beside={name: as_tensor(vector) for name, vector in payload.beside.items()},
        plan_channels=state.plan_channels,
    )


def _shared_counts(experiment: Experiment, state: RunState, edge: int) -> NDArray[np.int64] | None:
    return state.edge_statistics[edge].label_counts if experiment.strategy.shares_label_statistics else None
