"""How the values of a message are written for a link. Sizes follow from the number of values alone, so they can be planned."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """Parameters as a link carries them, and what was left out of them.

    Attributes:
        data: whatever the codec's `decode` understands.
        residual: what the sender adds to its next message [num_values]; None where nothing is lost.
    """

    data: object
    residual: Tensor | None = None


class Codec(Protocol):
    """Writes float32 parameters. It keeps nothing: what it needs to know comes with each call, so that any process can do it."""

    @property
    def name(self) -> str:
        """As the ledger has it."""
        ...

    @property
    def exact(self) -> bool:
        """Whether what arrives is what was sent, bit by bit. It is then handed over as it is."""
        ...

    def num_bytes(self, num_values: int) -> int:
        """What a wire would carry for so many parameters."""
        ...

    def encode(self, values: Tensor, reference: Tensor | None, residual: Tensor | None) -> Encoded:
        """Writes parameters.

        Args:
            values: to send [num_values].
            reference: what both ends know the receiver to hold [num_values], where they do.
            residual: what the sender's last message left out [num_values].
        """
        ...

    def decode(self, encoded: Encoded, reference: Tensor | None) -> Tensor:
        """What the receiver makes of it [num_values], with the same reference."""
        ...


class Float32:
    """Four bytes a parameter: both ends know names and shapes from the architecture."""

    name = "float32"
    exact = True

    def num_bytes(self, num_values: int) -> int:
        """Four for each."""
        return 4 * num_values

    def encode(self, values: Tensor, reference: Tensor | None, residual: Tensor | None) -> Encoded:
        """The values themselves."""
        return Encoded(values)

    def decode(self, encoded: Encoded, reference: Tensor | None) -> Tensor:
        """The values themselves."""
        assert isinstance(encoded.data, Tensor)
        return encoded.data


FLOAT32 = Float32()
