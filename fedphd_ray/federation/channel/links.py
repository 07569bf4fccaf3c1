"""The only way across a tier. Sending and accounting are one act: what the receiver holds, and the rows of the ledger for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.federation.channel.codecs import FLOAT32, Codec, Noise
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
    def whole(cls, values: Tensor | Update, version: int) -> "Parameters":
        """All entries."""
        num_params = values.trained.numel() if isinstance(values, Update) else values.numel()
        return cls(values, (slice(0, num_params),), version)

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


@dataclass(frozen=True)
class Weights:
    """A vector that the receiver makes itself, from `num_values` weights that travel as float64: of each slice of a network.

    Attributes:
        vector: [num_params].
        num_values: numbers that travel.
    """

    vector: Tensor
    num_values: int

    version = 0


@dataclass(frozen=True)
class Scores:
    """Numbers float32 [num_values] that are no parameters: no codec touches them."""

    vector: Tensor
    version: int

    @property
    def num_values(self) -> int:
        """How many."""
        return self.vector.numel()


Content = Parameters | Counts | Marks | Weights | Scores
Message = Mapping[Kind, Content]
"""What goes over a link at once: contents by their names."""


def model_bytes(num_parameters: int, codec: Codec = FLOAT32) -> int:
    """What one model is on a wire, in bytes."""
    return codec.num_bytes(num_parameters)


@dataclass(frozen=True)
class Delivery:
    """What a receiver holds after a message, and the rows of the ledger for it.

    `residual` is the sender's, where it keeps one: what its messages have left out so far [num_params].
    """

    contents: Message
    rows: list[Transfer]
    residual: Tensor | None = None

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
        """The vectors that came beside the model, by their names: [num_params], or [num_values] for scores."""
        return {
            kind: content.vector
            for kind, content in self.contents.items()
            if kind != Kind.MODEL and isinstance(content, Parameters | Weights | Scores)
        }


def unkeyed(stream: int) -> torch.Generator:
    """For links whose codecs draw nothing."""
    return torch.Generator().manual_seed(stream)


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
        noise: of its messages, for codecs that draw.
    """

    round: int
    hop: Hop
    source: str
    destination: str
    codec: Codec = FLOAT32
    attempt: int = 0
    noise: Noise = unkeyed

    def send(self, message: Message, residual: Tensor | None = None) -> Delivery:
        """Delivers a message. With an exact codec nothing is copied.

        Args:
            message: contents by name.
            residual: what the sender's messages have left out so far [num_params]; None for a sender that keeps none. It is
                added to the model that is sent, and what is left out now is in the delivery (Stich et al. 2018).
        """
        contents: dict[Kind, Content] = {}
        rows = []
        for kind, content in message.items():
            arrived, left, num_bytes = self._arrived(content, residual if kind == Kind.MODEL else None)
            contents[kind] = arrived
            residual = left if kind == Kind.MODEL else residual
            row = self._row(kind, content)
            rows.append(row if num_bytes is None else row._replace(num_bytes=num_bytes))
        return Delivery(contents, rows, residual)

    def rows(self, message: Message) -> list[Transfer]:
        """What sending a message costs, without doing it; the most it can, where that depends on the values."""
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
            case Weights():
                return "float64", 8 * content.num_values
            case Scores():
                return "float32", 4 * content.num_values
            case Marks():
                return "bitmap", -(-content.num_values // 8)

    def _arrived(self, content: Content, residual: Tensor | None) -> tuple[Content, Tensor | None, int | None]:
        """What the receiver holds, what is left out, and how many bytes it was, where a codec wrote them."""
        if not isinstance(content, Parameters) or self.codec.exact:
            return content, residual, None
        values, codec = content.values, self.codec
        start = values.initial if isinstance(values, Update) and codec.of_weights else None
        vector = values.trained.clone() if isinstance(values, Update) and start is not None else content.vector.clone()
        sent = torch.cat([vector[piece] for piece in content.slices])
        if residual is not None:
            sent += torch.cat([residual[piece] for piece in content.slices])
            residual = residual.clone()
        data = codec.encode(sent.cpu(), self.noise)
        most = codec.num_bytes(sent.numel())
        assert data.nbytes == most or (not codec.fixed and data.nbytes < most), "the ledger has the buffer's length"
        arrived = codec.decode(data, sent.numel(), self.noise).to(sent.device)
        lengths = [_length(place) for place in content.slices]
        for place, piece, left in zip(content.slices, arrived.split(lengths), (sent - arrived).split(lengths), strict=True):
            vector[place] = piece
            if residual is not None:
                residual[place] = left
        received = Update(vector, start, values.slices) if isinstance(values, Update) else vector
        return Parameters(received, content.slices, content.version), residual, data.nbytes


def _length(piece: slice) -> int:
    return int(piece.stop - piece.start)
