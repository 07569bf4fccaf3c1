"""Shares of a model that travel and are averaged separately."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from fedphd_ray.tensors import Layout


@dataclass(frozen=True)
class Part:
    """Some of the parameters, as slices of the flat vector. A private part never leaves the client after its first download."""

    name: str
    slices: tuple[slice, ...]
    private: bool = False

    @property
    def num_params(self) -> int:
        """Number of scalars."""
        return sum(piece.stop - piece.start for piece in self.slices)


def whole(layout: Layout) -> tuple[Part, ...]:
    """One part that is everything."""
    return (Part("model", (slice(0, layout.num_params),)),)


def parts_by_name(layout: Layout, part_of: Callable[[str], str], private: Sequence[str] = ()) -> tuple[Part, ...]:
    """Parts from parameter names, in the order of their first parameter; neighbours in the vector become one slice.

    Args:
        layout: of the model.
        part_of: parameter name -> part name.
        private: names of the parts that stay with the client.
    """
    slices: dict[str, list[slice]] = {}
    for name, (start, stop) in zip(layout.names, pairwise(layout.offsets), strict=True):
        own = slices.setdefault(part_of(name), [])
        if own and own[-1].stop == start:
            own[-1] = slice(own[-1].start, stop)
        else:
            own.append(slice(start, stop))
    return tuple(Part(name, tuple(pieces), name in private) for name, pieces in slices.items())


def shared(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts that travel."""
    return tuple(part for part in parts if not part.private)


def named(parts: Sequence[Part], names: Sequence[str] | None) -> tuple[Part, ...]:
    """The shared parts of these names; all of them for None."""
    return tuple(part for part in shared(parts) if names is None or part.name in names)


def num_params(parts: Sequence[Part]) -> int:
    """Scalars in all of them."""
    return sum(part.num_params for part in parts)


def with_private_parts(vector: Tensor, kept: Tensor, parts: Sequence[Part]) -> Tensor:
    """A copy of `vector` [num_params] with the private ones of `parts` taken from `kept`."""
    mixed = vector.clone()
    for part in parts:
        for piece in part.slices if part.private else ():
            mixed[piece] = kept[piece]
    return mixed
