"""A server of the tree: folds the updates of its clients into its model, or merges the models of its children. A plain class.

It keeps nothing between rounds: its model and statistics are arguments and results, and the cloud's driver holds references to
them. So a lost edge can be replaced without losing anything.
"""

import math
import time
from collections.abc import Sequence

import torch

from fedphd_ray.federation.channel.communication import Codecs
from fedphd_ray.federation.sums.aggregation import apply_update, fold_by_name, fold_partials
from fedphd_ray.federation.sums.merge import MergeOrder, merged, send_up
from fedphd_ray.records import EdgeReport, Kind, PartialUpdate, Payload, Transfer
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.normalisation import step_scale
from fedphd_ray.system.memory import keep_freed_memory, peak_memory_bytes
from fedphd_ray.tensors import as_numpy, as_tensor
from fedphd_ray.topology import Topology


class EdgeServer:
    """Aggregates one edge's round, or merges what edges hold.

    Args:
        name: its own.
        threads: torch threads of the process.
    """

    def __init__(self, name: str, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def fold(self, block_sizes: Sequence[int], *partials: PartialUpdate) -> tuple[float, PartialUpdate]:
        """The sum of some of the round's first blocks, to be the first block of what follows; and the seconds it took.

        With it an edge of many blocks holds few of them at a time.
        """
        folded = fold_partials(partials, block_sizes)
        return folded.fold_seconds, folded

    def aggregate(
        self, edge: int, payload: Payload, block_sizes: Sequence[int], strategy: Strategy, fresh: bool, *partials: PartialUpdate
    ) -> tuple[EdgeReport, Payload]:
        """Its report, and the edge's model after the round (with the sum of what clients sent beside their updates).

        Args:
            edge: whose round it is.
            payload: the edge's model before the round.
            block_sizes: number of partial updates per reduction block; partials of a block are summed first, then the blocks.
            strategy: says in which parts, and on which scale, updates are averaged.
            fresh: the edge has seen nothing since it was given this model; else what its clients have covered adds up.
            *partials: in the order of the plan.
        """
        began = time.perf_counter()
        folded = fold_partials(partials, block_sizes)
        parts, vector = strategy.parts(payload.layout), payload.vector
        weights = [math.fsum(column) for column in zip(*folded.weights, strict=True)] or [0.0] * len(parts)
        down = [name for name in strategy.server_sends if name in payload.beside and name not in strategy.clients_send]
        beside = {name: payload.beside[name] for name in down} | dict(folded.totals)
        kept = {name: payload.beside[name] for name in strategy.nodes_keep if name in payload.beside}
        total = beside.pop(Kind.MODEL, None)
        if total is not None:
            used = [report for report in folded.reports if not report.failure]
            scale = step_scale(strategy, [report.num_samples for report in used], [report.num_steps for report in used])
            coverage = as_tensor(beside[Kind.COVERAGE]) if Kind.COVERAGE in beside else None
            base, before = as_tensor(vector), {name: as_tensor(own) for name, own in kept.items()}
            mean = apply_update(base, as_tensor(total), parts, weights, scale, coverage)
            model, left = strategy.edge_step(base, mean, before)
            vector, kept = as_numpy(model), {name: as_numpy(own) for name, own in left.items()}
        if not fresh and Kind.COVERAGE in payload.beside:
            beside |= fold_by_name([{Kind.COVERAGE: payload.beside[Kind.COVERAGE]}, beside], [1, 1])
        after = Payload(vector, payload.layout, payload.version, beside | kept)
        own_seconds = time.perf_counter() - began
        report = EdgeReport(
            edge=edge,
            weight=math.fsum(max(row) for row in folded.weights),
            part_weights=tuple(weights),
            label_counts=folded.label_counts,
            reports=folded.reports,
            transfers=folded.transfers,
            train_seconds=folded.train_seconds,
            busy_seconds=folded.busy_seconds,
            fold_seconds=sum(partial.fold_seconds for partial in partials) + own_seconds,
        )
        return report, after

    def merge(
        self, order: MergeOrder, strategy: Strategy, topology: Topology, codecs: Codecs, *models: Payload
    ) -> tuple[list[Transfer], Payload]:
        """The rows of what reached this node, and its model: the mean of its children's.

        Args:
            order: whose models they are, and their weights.
            strategy: see `aggregate`.
            topology: of the federation.
            codecs: of its links.
            *models: what its children started from (the node's own model first), and then what they hold now.
        """
        num_bases = len(models) - len(order.children)
        sent = send_up(order, models[num_bases:], strategy, topology, codecs)
        return sent.rows, merged(order, models[:num_bases], sent.payloads, strategy)

    def peak_memory_bytes(self) -> int:
        """Largest resident size of this process so far, in bytes."""
        return peak_memory_bytes()
