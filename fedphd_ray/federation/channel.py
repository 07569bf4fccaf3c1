"""The only way across a tier. Sending and accounting are one act: what the receiver gets, and the rows of the ledger for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.update import Update
from fedphd_ray.records import Kind, Transfer
from fedphd_ray.strategies.parts import Part, num_params
from fedphd_ray.topology import Hop

BYTES_PER_PARAM = 4


@dataclass(frozen=True)
class Message:
    """What is known of a message without looking into it: enough for the ledger."""

    kind: Kind
    codec: str
    version: int
    num_params: int
    num_bytes: int

    def rows(self, channel: "Channel", destinations: Sequence[str]) -> list[Transfer]:
        """One transfer per destination."""
        return [
            Transfer(
                channel.round,
                channel.hop,
                channel.source,
                destination,
                self.kind,
                self.codec,
                self.version,
                self.num_params,
                self.num_bytes,
                attempt=channel.attempt,
            )
            for destination in destinations
        ]


def model_message(num_scalars: int, version: int) -> Message:
    """A model, or parts of one, as float32: both ends know names and shapes from the architecture version."""
    return Message(Kind.MODEL, "float32", version, num_scalars, BYTES_PER_PARAM * num_scalars)


def control_message(num_scalars: int, version: int) -> Message:
    """A control variate: as large as the model."""
    return Message(Kind.CONTROL, "float32", version, num_scalars, BYTES_PER_PARAM * num_scalars)


def statistics_message(num_classes: int) -> Message:
    """Label counts as int64, one per class; their sum is the number of samples."""
    return Message(Kind.STATISTICS, "int64", 0, num_classes, 8 * num_classes)


def plan_message(num_channels: int, version: int) -> Message:
    """A pruning plan as one bit per prunable channel, for clients that keep state of the former architecture."""
    return Message(Kind.PLAN, "bitmap", version, num_channels, -(-num_channels // 8))


@dataclass(frozen=True)
class Channel:
    """One link during one round.

    Attributes:
        round: goes into the ledger.
        hop: which link of the hierarchy.
        source: the sending node.
        attempt: 0 for a first sending; more where the receiver's or the sender's process died and its part is done again.
    """

    round: int
    hop: Hop
    source: str
    attempt: int = 0

    def send_model(
        self, vector: Tensor, version: int, parts: Sequence[Part], destinations: Sequence[str]
    ) -> tuple[Tensor, list[Transfer]]:
        """Sends parts of a model or an update [num_params] and returns what arrives: float32 as it was sent, the rest zero."""
        assert vector.dtype == torch.float32
        rows = model_message(num_params(parts), version).rows(self, destinations)
        if num_params(parts) == vector.numel():
            return vector, rows
        arrived = torch.zeros_like(vector)
        for piece in (piece for part in parts for piece in part.slices):
            arrived[piece] = vector[piece]
        return arrived, rows

    def send_update(
        self, update: Update, version: int, parts: Sequence[Part], destinations: Sequence[str]
    ) -> tuple[Update, list[Transfer]]:
        """Sends parts of a whole update and returns what arrives: float32 as it was sent, the rest zero."""
        assert update.trained.dtype == torch.float32
        rows = model_message(num_params(parts), version).rows(self, destinations)
        return update.only(parts), rows

    def send_control(self, vector: Tensor, version: int, destinations: Sequence[str]) -> tuple[Tensor, list[Transfer]]:
        """Sends a vector that travels beside the model [num_params]."""
        assert vector.dtype == torch.float32
        return vector, control_message(vector.numel(), version).rows(self, destinations)

    def send_statistics(
        self, label_counts: NDArray[np.int64], destinations: Sequence[str]
    ) -> tuple[NDArray[np.int64], list[Transfer]]:
        """Sends label counts [num_classes]."""
        return label_counts, statistics_message(len(label_counts)).rows(self, destinations)

    def send_plan(self, num_channels: int, version: int, destinations: Sequence[str]) -> list[Transfer]:
        """Sends which of `num_channels` channels are kept."""
        return plan_message(num_channels, version).rows(self, destinations)
