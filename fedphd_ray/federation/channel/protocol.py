"""What is sent when. The run sends these messages, and `fedphd plan` counts them: there is no second place that knows.

Private parts travel once: to the edges in the first round, to a client when it has nothing of its own yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.channel.links import Content, Counts, Marks, Message, Parameters, Scores, Weights
from fedphd_ray.federation.update import Update
from fedphd_ray.records import Kind, Payload
from fedphd_ray.strategies import Strategy
from fedphd_ray.strategies.parts import Part, shared
from fedphd_ray.tensors import Layout, as_tensor


@dataclass(frozen=True)
class Holdings:
    """What an aggregator has to send to those below it.

    Attributes:
        model: [num_params].
        parts: shares of the model; together all of it.
        version: the architecture.
        beside: more vectors by name, for methods that send some [num_params].
        plan_channels: prunable channels, the length of the plan by which the network was pruned; 0 before that.
        masked: parameters of the network of which `model` has some: a bit for each says which; 0 where it has all.
    """

    model: Tensor
    parts: tuple[Part, ...]
    version: int
    beside: Mapping[Kind, Tensor] = field(default_factory=dict)
    plan_channels: int = 0
    masked: int = 0

    @classmethod
    def sized(cls, layout: Layout, strategy: Strategy, version: int, plan_channels: int) -> "Holdings":
        """What has sizes and no values."""
        model = torch.empty(layout.num_params, device="meta")
        return cls(model, strategy.parts(layout), version, dict.fromkeys(strategy.server_sends, model), plan_channels)

    @classmethod
    def of(cls, payload: Payload, strategy: Strategy, plan_channels: int) -> "Holdings":
        """Of a node that holds a payload."""
        return cls(
            model=as_tensor(payload.vector),
            parts=strategy.parts(payload.layout),
            version=payload.version,
            beside={name: as_tensor(vector) for name, vector in payload.beside.items()},
            plan_channels=plan_channels,
        )

    def to_child(self, *, first: bool, owed: bool) -> Message:
        """From a node to those below it that aggregate too, at the start of a cycle.

        Args:
            first: of the run.
            owed: whether any client still keeps state of the former architecture, and will need the plan.
        """
        return self._model(self.parts if first else shared(self.parts)) | self._plan(owed=owed)

    def to_client(self, *, known: bool, owed: bool) -> Message:
        """To a client that takes part in a round.

        Args:
            known: whether it keeps something of its own.
            owed: whether what it keeps is of the former architecture.
        """
        mask: dict[Kind, Content] = {Kind.MASK: Marks(self.masked, self.version)} if self.masked else {}
        return {**self._model(shared(self.parts) if known else self.parts), **mask, **self._plan(owed=owed)}

    def to_parent(self, label_counts: NDArray[np.int64] | None) -> Message:
        """From a node to its parent, when its period is full; with what it has seen, for methods that share that."""
        return self._model(shared(self.parts)) | statistics(label_counts)

    def _model(self, parts: Sequence[Part]) -> dict[Kind, Content]:
        return {Kind.MODEL: Parameters.of_parts(self.model, parts, self.version)} | whole_vectors(self.beside, self.version)

    def _plan(self, *, owed: bool) -> dict[Kind, Content]:
        return {Kind.PLAN: Marks(self.plan_channels, self.version)} if owed else {}


def upload(
    update: Update | Tensor,
    reported: Sequence[Part],
    version: int,
    beside: Mapping[Kind, Tensor],
    label_counts: NDArray[np.int64] | None,
) -> Message:
    """From a client that has trained: the parts it reports, and what else its method shares."""
    values = update.only(reported) if isinstance(update, Update) else update
    model: dict[Kind, Content] = {Kind.MODEL: Parameters.of_parts(values, reported, version)}
    return model | whole_vectors(beside, version) | statistics(label_counts)


def whole_vectors(vectors: Mapping[Kind, Tensor], version: int) -> dict[Kind, Content]:
    """Vectors of the model's layout that travel beside it, whole."""
    return {name: Parameters.whole(vector, version) for name, vector in vectors.items()}


def covered(coverage: Tensor, num_slices: int) -> dict[Kind, Content]:
    """How much clients with sub-models have covered of each coordinate [num_params]: a weight for each slice says all of it."""
    return {Kind.COVERAGE: Weights(coverage, num_slices)} if num_slices else {}


def importance(scores: Tensor | None, version: int) -> dict[Kind, Content]:
    """How much each prunable channel matters to those who were asked [num_scores], before the network is pruned by that."""
    return {} if scores is None else {Kind.IMPORTANCE: Scores(scores, version)}


def statistics(label_counts: NDArray[np.int64] | None) -> dict[Kind, Content]:
    """Label counts [num_classes], for methods that share them; every client of a cohort hears those of every edge."""
    return {} if label_counts is None else {Kind.STATISTICS: Counts(label_counts)}
