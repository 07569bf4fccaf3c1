"""What the cloud and the edges send in a round, apart from the clients' uploads (those are sent where clients are trained)."""

from collections.abc import Sequence

from fedphd_ray.federation.channel import Channel
from fedphd_ray.records import RoundPlan, Transfer
from fedphd_ray.runtime.backend import EdgeOutcome
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.state import RunState
from fedphd_ray.strategies.parts import shared
from fedphd_ray.tensors import as_tensor
from fedphd_ray.topology import CLOUD, Hop, client_name


def downloads(experiment: Experiment, state: RunState, plan: RoundPlan) -> list[Transfer]:
    """Models on their way to the edges (at the start of a cycle) and on to the round's clients, and what else they need.

    Private parts travel once: to the edges at the start, to a client when it has nothing of its own yet.
    """
    topology, strategy, model = experiment.topology, experiment.strategy, state.broadcast
    vector, version = as_tensor(model.vector), model.version
    everything = strategy.parts(model.layout)
    kept_channels = 0 if state.plan is None else state.plan.num_channels
    rows: list[Transfer] = []
    if plan.starts_cycle and not topology.flat:
        names = [topology.aggregator_name(edge) for edge in topology.aggregators]
        channel = Channel(plan.round, Hop.CLOUD_TO_EDGE, CLOUD)
        rows += channel.send_model(vector, version, everything if plan.round == 1 else shared(everything), names)[1]
        if state.plan_owed:
            rows += channel.send_plan(kept_channels, version, names)
    everyone = [client_name(client) for client in plan.edge_of]
    for edge in topology.aggregators:
        clients = [client for client, chosen in plan.edge_of.items() if chosen == edge]
        rows += to_clients(experiment, state, plan.round, edge, clients)
        if strategy.shares_label_statistics:  # every client of the cohort weighs every edge
            channel = Channel(plan.round, topology.to_client, topology.aggregator_name(edge))
            rows += channel.send_statistics(state.edge_statistics[edge].label_counts, everyone)[1]
    return rows


def to_clients(
    experiment: Experiment, state: RunState, round: int, edge: int, clients: Sequence[int], attempt: int = 0
) -> list[Transfer]:
    """What clients of an edge are given to train with; once more (`attempt`) if the process that trained them has died."""
    model, everything = state.broadcast, experiment.strategy.parts(state.model.layout)
    vector, version = as_tensor(model.vector), model.version
    channel = Channel(round, experiment.topology.to_client, experiment.topology.aggregator_name(edge), attempt)
    new = [client_name(client) for client in clients if client not in state.client_states]
    known = [client_name(client) for client in clients if client in state.client_states]
    rows = channel.send_model(vector, version, everything, new)[1]
    rows += channel.send_model(vector, version, shared(everything), known)[1]
    if model.control is not None:
        rows += channel.send_control(as_tensor(model.control), version, new + known)[1]
    owed = [client_name(client) for client in clients if client in state.plan_owed]
    kept_channels = 0 if state.plan is None else state.plan.num_channels
    return rows + channel.send_plan(kept_channels, version, owed)


def repeated_downloads(experiment: Experiment, state: RunState, round: int, outcomes: Sequence[EdgeOutcome]) -> list[Transfer]:
    """What clients were given again after the death of the host that trained them."""
    return [
        row
        for outcome in outcomes
        for client, attempt in outcome.repeated
        for row in to_clients(experiment, state, round, outcome.report.edge, [client], attempt)
    ]


def edge_uploads(experiment: Experiment, state: RunState, plan: RoundPlan) -> list[Transfer]:
    """Models and label statistics from all edges to the cloud, at a synchronisation."""
    topology, model = experiment.topology, state.model
    parts = shared(experiment.strategy.parts(model.layout))
    rows: list[Transfer] = []
    for edge in () if topology.flat else topology.aggregators:
        channel = Channel(plan.round, Hop.EDGE_TO_CLOUD, topology.aggregator_name(edge))
        rows += channel.send_model(as_tensor(model.vector), model.version, parts, [CLOUD])[1]
        if experiment.strategy.shares_label_statistics:
            rows += channel.send_statistics(state.edge_statistics[edge].label_counts, [CLOUD])[1]
    return rows
