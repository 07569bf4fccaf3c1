"""Models of a tier meet at the tier above: the same at every node over other nodes, the cloud included."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.aggregation import fold_by_name, weighted_models, weights_by_part
from fedphd_ray.federation.codecs import Codec
from fedphd_ray.federation.links import Link, Message
from fedphd_ray.federation.protocol import Holdings
from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics, Payload, Transfer
from fedphd_ray.strategies import Strategy
from fedphd_ray.tensors import as_numpy, as_tensor
from fedphd_ray.topology import Topology


@dataclass(frozen=True)
class MergeOrder:
    """What a node is told that merges the models of its children.

    Attributes:
        round: goes into the ledger.
        level: of the children.
        node: index of the node on the level above.
        children: indices of its children, in the order in which their models are added.
        weights: of the children's models [num_children].
        statistics: what each of them has seen since it sent its model last.
        plan_channels: length of the plan by which the network was pruned; 0 before that.
        attempt: how often the node's process has died meanwhile.
    """

    round: int
    level: int
    node: int
    children: tuple[int, ...]
    weights: NDArray[np.float64]
    statistics: tuple[EdgeStatistics, ...]
    plan_channels: int
    attempt: int = 0

    @classmethod
    def of(
        cls,
        topology: Topology,
        strategy: Strategy,
        population: Population,
        statistics: Sequence[EdgeStatistics],
        *,
        round: int,
        level: int,
        node: int,
        plan_channels: int,
    ) -> "MergeOrder":
        """With the method's weights, from what all nodes of the children's level have seen."""
        children = topology.children(level + 1, node)
        seen = tuple(statistics[child] for child in children)
        weights = strategy.edge_weights(seen, population)
        return cls(round, level, node, children, weights, seen, plan_channels)


def send_up(
    order: MergeOrder, payloads: Sequence[Payload], strategy: Strategy, topology: Topology, codec: Codec
) -> tuple[list[Payload], list[Transfer]]:
    """What the children hold, as it reaches the node. In a flat federation that is the cloud's own, and nothing is sent."""
    if topology.flat:
        return list(payloads), []
    arrived, rows = [], []
    for position, payload in enumerate(payloads):
        delivery = _link(order, position, topology, codec).send(_message(order, position, payload, strategy))
        beside = {name: as_numpy(vector) for name, vector in delivery.beside.items()}
        arrived.append(replace(payload, vector=as_numpy(delivery.model), beside=beside))
        rows += delivery.rows
    return arrived, rows


def sent_up_in_vain(
    order: MergeOrder, sized: Payload, attempts: int, strategy: Strategy, topology: Topology, codec: Codec
) -> list[Transfer]:
    """What reached a node's process that then died, so many times; `sized` is like the models that were sent."""
    return [
        row
        for attempt in range(attempts)
        for position in range(len(order.children))
        for row in _link(replace(order, attempt=attempt), position, topology, codec).rows(
            _message(order, position, sized, strategy)
        )
    ]


def _link(order: MergeOrder, position: int, topology: Topology, codec: Codec) -> Link:
    """From one of the children to the node."""
    source, destination = topology.name(order.level, order.children[position]), topology.name(order.level + 1, order.node)
    return Link(order.round, topology.up(order.level), source, destination, codec, order.attempt)


def _message(order: MergeOrder, position: int, payload: Payload, strategy: Strategy) -> Message:
    counts = order.statistics[position].label_counts if strategy.shares_label_statistics else None
    return Holdings.of(payload, strategy, order.plan_channels).to_parent(counts)


def merged(order: MergeOrder, base: Payload, arrived: Sequence[Payload], strategy: Strategy) -> Payload:
    """The weighted mean of the models, and the sums of what came beside them.

    Args:
        order: whose weights they are.
        base: the model that the node's descendants started from.
        arrived: of its children.
        strategy: knows the parts of a model.
    """
    parts = strategy.parts(base.layout)
    weights = weights_by_part(order.statistics, order.weights, len(parts))
    vector = weighted_models(as_tensor(base.vector), [as_tensor(payload.vector) for payload in arrived], parts, weights)
    beside = fold_by_name([payload.beside for payload in arrived], [1] * len(arrived))
    return Payload(as_numpy(vector), base.layout, base.version, beside)
