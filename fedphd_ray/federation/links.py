"""The only way across a tier. Sending and accounting are one act: what the receiver holds, and the rows of the ledger for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.codecs import FLOAT32, Codec
from fedphd_ray.federation.update import Update
from fedphd_ray.records import Kind, Transfer
from fedphd_ray.strategies.parts import Part
from fedphd_ray.topology import Hop


@dataclass(frozen=True)
class Parameters:
    """Some entries of a vector of the model's layout, for the link's codec.

    Attributes:
        values: [num_params], or the update that a client trained; where only sizes are asked for it may lie on torch's device
            "meta", which holds no values.
        slices: the entries that travel. The others are the sender's: the receiver has its own, and looks at those.
        version: the architecture.
    """

    values: Tensor | Update
    slices: tuple[slice, ...]
    version: int

    @classmethod
    def whole(cls, values: Tensor, version: int) -> "Parameters":
        """All entries."""
        return cls(values, (slice(0, values.numel()),), version)

    @classmethod
    def of_parts(cls, values: Tensor | Update, parts: Sequence[Part], version: int) -> "Parameters":
        """Some parts of a model."""
        return cls(values, tuple(piece for part in parts for piece in part.slices), version)

    @property
    def vector(self) -> Tensor:
        """The values as one vector [num_params]."""
        return self.values.vector if isinstance(self.values, Update) else self.values

    @property
    def num_values(self) -> int:
        """Entries that travel."""
        return sum(map(_length, self.slices))


@dataclass(frozen=True)
class Counts:
    """Whole numbers [num_values], written as int64: label counts."""

    values: NDArray[np.int64]

    version = 0

    @property
    def num_values(self) -> int:
        """How many."""
        return len(self.values)


@dataclass(frozen=True)
class Marks:
    """Yes or no for each of `num_values`, written as one bit each: the channels that a pruning plan keeps."""

    num_values: int
    version: int


Content = Parameters | Counts | Marks
Message = Mapping[Kind, Content]
"""What goes over a link at once: contents by their names."""


def model_bytes(num_parameters: int, codec: Codec = FLOAT32) -> int:
    """What one model is on a wire, in bytes."""
    return codec.num_bytes(num_parameters)


@dataclass(frozen=True)
class Delivery:
    """What a receiver holds after a message, and the rows of the ledger for it."""

    contents: Message
    rows: list[Transfer]

    @property
    def version(self) -> int:
        """The architecture of its model."""
        return self.contents[Kind.MODEL].version

    @property
    def model(self) -> Tensor:
        """The model [num_params]; entries that did not travel are the sender's."""
        content = self.contents[Kind.MODEL]
        assert isinstance(content, Parameters)
        return content.vector

    @property
    def update(self) -> Update:
        """What a client trained."""
        content = self.contents[Kind.MODEL]
        assert isinstance(content, Parameters)
        assert isinstance(content.values, Update)
        return content.values

    @property
    def beside(self) -> dict[Kind, Tensor]:
        """The vectors [num_params] that came beside the model, by their names."""
        return {
            kind: content.vector
            for kind, content in self.contents.items()
            if kind != Kind.MODEL and isinstance(content, Parameters)
        }


@dataclass(frozen=True)
class Link:
    """One direction between two nodes during one round.

    Attributes:
        round: goes into the ledger.
        hop: which link of the hierarchy.
        source: the sending node.
        destination: the receiving node.
        codec: how parameters are written.
        attempt: 0 for a first sending; more where the receiver's or the sender's process died and its part is done again.
    """

    round: int
    hop: Hop
    source: str
    destination: str
    codec: Codec = FLOAT32
    attempt: int = 0

    def send(self, message: Message) -> Delivery:
        """Delivers a message. With an exact codec nothing is copied."""
        return Delivery({kind: self._arrived(content) for kind, content in message.items()}, self.rows(message))

    def rows(self, message: Message) -> list[Transfer]:
        """What sending a message costs, without doing it."""
        return [self._row(kind, content) for kind, content in message.items()]

    def _row(self, kind: Kind, content: Content) -> Transfer:
        codec, num_bytes = self._size(content)
        return Transfer(
            round=self.round,
            hop=self.hop,
            source=self.source,
            destination=self.destination,
            kind=kind,
            codec=codec,
            version=content.version,
            num_params=content.num_values,
            num_bytes=num_bytes,
            attempt=self.attempt,
        )

    def _size(self, content: Content) -> tuple[str, int]:
        match content:
            case Parameters():
                return self.codec.name, self.codec.num_bytes(content.num_values)
            case Counts():
                return "int64", 8 * content.num_values
            case Marks():
                return "bitmap", -(-content.num_values // 8)

    def _arrived(self, content: Content) -> Content:
        if not isinstance(content, Parameters) or self.codec.exact:
            return content
        values, vector = content.values, content.vector.clone()
        sent = torch.cat([vector[piece] for piece in content.slices])
        arrived = self.codec.decode(self.codec.encode(sent, None, None), None)
        for place, piece in zip(content.slices, arrived.split([_length(place) for place in content.slices]), strict=True):
            vector[place] = piece
        received = Update(vector, None, values.slices) if isinstance(values, Update) else vector
        return Parameters(received, content.slices, content.version)


def _length(piece: slice) -> int:
    return int(piece.stop - piece.start)
