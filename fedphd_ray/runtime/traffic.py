"""What the cloud and the edges send in a round, apart from the clients' uploads (those are sent where clients are trained)."""

from fedphd_ray.federation.channel import Channel
from fedphd_ray.records import CLOUD, Hop, RoundPlan, Transfer, client_name
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.state import RunState
from fedphd_ray.tensors import as_tensor


def downloads(experiment: Experiment, state: RunState, plan: RoundPlan) -> list[Transfer]:
    """Models on their way to the edges (at the start of a cycle) and on to the round's clients, and what else they need."""
    topology, version = experiment.topology, state.model.version
    vector = as_tensor(state.model.vector)
    kept_channels = 0 if state.plan is None else state.plan.num_channels
    rows: list[Transfer] = []
    if plan.starts_cycle and not topology.flat:
        names = [topology.aggregator_name(edge) for edge in topology.aggregators]
        channel = Channel(plan.round, Hop.CLOUD_TO_EDGE, CLOUD)
        rows += channel.send_model(vector, version, names)[1]
        if state.plan_owed:
            rows += channel.send_plan(kept_channels, version, names)
    everyone = [client_name(client) for client in plan.edge_of]
    for edge in topology.aggregators:
        channel = Channel(plan.round, topology.to_client, topology.aggregator_name(edge))
        clients = [client for client, chosen in plan.edge_of.items() if chosen == edge]
        rows += channel.send_model(vector, version, [client_name(client) for client in clients])[1]
        owed = [client_name(client) for client in clients if client in state.plan_owed]
        rows += channel.send_plan(kept_channels, version, owed)
        if experiment.strategy.shares_label_statistics:  # every client of the cohort weighs every edge
            rows += channel.send_statistics(state.edge_statistics[edge].label_counts, everyone)[1]
    return rows


def edge_uploads(experiment: Experiment, state: RunState, plan: RoundPlan) -> list[Transfer]:
    """Models and label statistics from all edges to the cloud, at a synchronisation."""
    topology = experiment.topology
    rows: list[Transfer] = []
    for edge in () if topology.flat else topology.aggregators:
        channel = Channel(plan.round, Hop.EDGE_TO_CLOUD, topology.aggregator_name(edge))
        rows += channel.send_model(as_tensor(state.model.vector), state.model.version, [CLOUD])[1]
        if experiment.strategy.shares_label_statistics:
            rows += channel.send_statistics(state.edge_statistics[edge].label_counts, [CLOUD])[1]
    return rows
