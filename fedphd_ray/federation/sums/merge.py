"""Models of a tier meet at the tier above: the same at every node over other nodes, the cloud included."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.channel.communication import Codecs
from fedphd_ray.federation.channel.links import Link, Message
from fedphd_ray.federation.channel.protocol import Holdings, covered, importance
from fedphd_ray.federation.sums.aggregation import covered_models, fold_by_name, weighted_models, weights_by_part
from fedphd_ray.plans import Aggregation
from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics, Kind, Payload, Transfer
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.normalisation import edge_weights
from fedphd_ray.tensors import as_numpy, as_tensor
from fedphd_ray.topology import Topology


@dataclass(frozen=True)
class MergeOrder:
    """What a node is told that merges the models of its children.

    Attributes:
        round: goes into the ledger.
        level: of the children.
        node: index of the node on the level above.
        children: indices of those that send, in the order in which their models are added.
        weights: of the children's models [num_children].
        bases: for each child, the position of the model that it started from among those that the node is given.
        statistics: what each of them has seen since it sent its model last.
        plan_channels: length of the plan by which the network was pruned; 0 before that.
        fresh: the node has merged nothing since it was given its model.
        attempt: how often the node's process has died meanwhile.
        num_slices: of the network, where some clients train less than all of it; else 0.
        num_scores: channels that clients have scored in this round; 0 where they were not asked.
    """

    round: int
    level: int
    node: int
    children: tuple[int, ...]
    weights: NDArray[np.float64]
    bases: tuple[int, ...]
    statistics: tuple[EdgeStatistics, ...]
    plan_channels: int
    fresh: bool = True
    attempt: int = 0
    num_slices: int = 0
    num_scores: int = 0


def order_of(
    aggregation: Aggregation,
    strategy: Strategy,
    population: Population,
    statistics: Sequence[EdgeStatistics],
    *,
    round: int,
    bases: Sequence[int],
    plan_channels: int,
    fresh: bool,
    num_slices: int = 0,
    num_scores: int = 0,
) -> MergeOrder:
    """An aggregation with the method's weights, times the plan's factors and scaled to the sum that they had.

    Args:
        aggregation: of a node over nodes.
        strategy: weighs them.
        population: the registered clients.
        statistics: what all nodes of the children's level have seen.
        round: goes into the ledger.
        bases: see `MergeOrder`.
        plan_channels: see `MergeOrder`.
        fresh: see `MergeOrder`.
        num_slices: see `MergeOrder`.
        num_scores: see `MergeOrder`.
    """
    children = tuple(each.sender for each in aggregation.contributions)
    seen = tuple(statistics[child] for child in children)
    weights = edge_weights(strategy, seen, population)
    factors = np.array([each.factor for each in aggregation.contributions])
    if np.any(factors != 1.0):
        scaled = weights * factors
        weights = scaled * (weights.sum() / scaled.sum())
    return MergeOrder(
        round=round,
        level=aggregation.level - 1,
        node=aggregation.node,
        children=children,
        weights=weights,
        bases=tuple(bases),
        statistics=seen,
        plan_channels=plan_channels,
        fresh=fresh,
        num_slices=num_slices,
        num_scores=num_scores,
    )


def held_by(models: Sequence[object | None], aggregation: Aggregation) -> Aggregation:
    """Without the contributions of those who hold nothing: nobody has trained below them since they sent last."""
    holding = tuple(each for each in aggregation.contributions if models[each.sender] is not None)
    return replace(aggregation, contributions=holding)


class SentUp(NamedTuple):
    """What reached a node of its children, the rows of the ledger, and what the children's messages have left out so far."""

    payloads: list[Payload]
    rows: list[Transfer]
    residuals: list[Tensor | None]


def send_up(
    order: MergeOrder,
    payloads: Sequence[Payload],
    strategy: Strategy,
    topology: Topology,
    codecs: Codecs,
    residuals: Sequence[Tensor | None] = (),
) -> SentUp:
    """What the children hold, as it reaches the node. In a flat federation that is the cloud's own, and nothing is sent.

    Args:
        order: whose models they are.
        payloads: of the children.
        strategy: may send something else than a model.
        topology: of the federation.
        codecs: of its links.
        residuals: what the messages of each child have left out so far, where they keep that; none for none.
    """
    payloads = [_to_send(order, payload, strategy) for payload in payloads]
    before = list(residuals) or [None] * len(payloads)
    if topology.flat:
        return SentUp(payloads, [], before)
    arrived, rows, after = [], [], []
    for position, (payload, kept) in enumerate(zip(payloads, before, strict=True)):
        delivery = _link(order, position, topology, codecs).send(_message(order, position, payload, strategy), kept)
        beside = {name: as_numpy(vector) for name, vector in delivery.beside.items()}
        arrived.append(replace(payload, vector=as_numpy(delivery.model), beside=beside))
        rows += delivery.rows
        after.append(delivery.residual)
    return SentUp(arrived, rows, after)


def _to_send(order: MergeOrder, payload: Payload, strategy: Strategy) -> Payload:
    """A child's payload as it leaves the child: an aggregator of clients may send something else than its model."""
    if order.level or not strategy.nodes_keep:
        return payload
    kept = {name: as_tensor(own) for name, own in payload.beside.items() if name in strategy.nodes_keep}
    beside = {name: own for name, own in payload.beside.items() if name not in kept}
    return replace(payload, vector=as_numpy(strategy.edge_sends(as_tensor(payload.vector), kept)), beside=beside)


def sent_up_in_vain(
    order: MergeOrder, sized: Payload, attempts: int, strategy: Strategy, topology: Topology, codecs: Codecs
) -> list[Transfer]:
    """What reached a node's process that then died, so many times; `sized` is like the models that were sent."""
    carried = (*strategy.clients_send, *[Kind.COVERAGE] * bool(order.num_slices))
    sized = replace(sized, beside=dict.fromkeys(carried, sized.vector))
    return [
        row
        for attempt in range(attempts)
        for position in range(len(order.children))
        for row in _link(replace(order, attempt=attempt), position, topology, codecs).rows(
            _message(order, position, sized, strategy)
        )
    ]


def _link(order: MergeOrder, position: int, topology: Topology, codecs: Codecs) -> Link:
    """From one of the children to the node."""
    source, destination = topology.name(order.level, order.children[position]), topology.name(order.level + 1, order.node)
    return codecs.link(order.round, topology.up(order.level), source, destination, order.attempt)


def _message(order: MergeOrder, position: int, payload: Payload, strategy: Strategy) -> Message:
    seen = order.statistics[position]
    counts = seen.label_counts if strategy.shares_label_statistics else None
    beside = {name: vector for name, vector in payload.beside.items() if name in strategy.clients_send and seen.weight > 0}
    coverage = payload.beside.get(Kind.COVERAGE) if seen.weight > 0 and Kind.COVERAGE not in beside else None
    more = {} if coverage is None else covered(as_tensor(coverage), order.num_slices)
    if order.num_scores and seen.weight > 0:  # nobody of this round among them: all of them matter as little
        own = payload.beside.get(Kind.IMPORTANCE)
        more |= importance(torch.zeros(order.num_scores) if own is None else as_tensor(own), payload.version)
    return {**Holdings.of(replace(payload, beside=beside), strategy, order.plan_channels).to_parent(counts), **more}


def merged(order: MergeOrder, bases: Sequence[Payload], arrived: Sequence[Payload], strategy: Strategy) -> Payload:
    """The node's model, moved by the weighted mean of what its children have moved; and the sums of what came beside.

    Args:
        order: whose weights they are.
        bases: the node's model, and former ones of it from which some children started.
        arrived: of its children.
        strategy: knows the parts of a model.
    """
    base, parts = bases[0], strategy.parts(bases[0].layout)
    own, models = as_tensor(base.vector), [as_tensor(payload.vector) for payload in arrived]
    starts = [as_tensor(bases[position].vector) for position in order.bases]
    beside = fold_by_name([payload.beside for payload in arrived], [1] * len(arrived))
    if Kind.COVERAGE in beside:
        shares = [_share(payload, seen) for payload, seen in zip(arrived, order.statistics, strict=True)]
        vector = covered_models(own, models, starts, order.weights, shares)
    else:
        vector = weighted_models(own, models, parts, weights_by_part(order.statistics, order.weights, len(parts)), starts)
    if not order.fresh and Kind.COVERAGE in base.beside:
        beside |= fold_by_name([{Kind.COVERAGE: base.beside[Kind.COVERAGE]}, beside], [1, 1])
    return Payload(as_numpy(vector), base.layout, base.version, beside)


def _share(payload: Payload, seen: EdgeStatistics) -> Tensor:
    """Share of a child's weight that its clients have who cover each coordinate [num_params]; 0 where nobody took part."""
    if Kind.COVERAGE not in payload.beside:
        return torch.zeros(payload.layout.num_params)
    return as_tensor(payload.beside[Kind.COVERAGE]) / seen.weight
