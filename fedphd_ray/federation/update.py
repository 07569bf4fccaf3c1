"""A change of a model that has not been taken yet: two vectors, and where they count."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedphd_ray.strategies.parts import Part


@dataclass(frozen=True)
class Update:
    """Trained minus initial parameters [num_params], where `slices` say so, and zero elsewhere.

    The difference is taken piece by piece where it is added up (`aggregation.VectorSum`): a vector of its own would go through
    memory twice more. Both vectors may be overwritten by the next training. Without `initial`, `trained` is the difference.
    """

    trained: Tensor
    initial: Tensor | None
    slices: tuple[slice, ...]

    @classmethod
    def whole(cls, trained: Tensor, initial: Tensor) -> "Update":
        """Of all parameters."""
        return cls(trained, initial, (slice(0, trained.numel()),))

    def only(self, parts: Sequence[Part]) -> "Update":
        """What of a whole update is in some parts of the model."""
        return replace(self, slices=tuple(piece for part in parts for piece in part.slices))

    def times(self, coverage: Tensor) -> "Update":
        """Each coordinate times what a vector [num_params] says of it, as a difference in new memory."""
        return Update(self.vector * coverage, None, self.slices)

    @property
    def divergence(self) -> float:
        """Its length relative to that of the initial parameters; 0 for an update of zeros alone."""
        assert self.initial is not None
        moved, had = (float(torch.linalg.vector_norm(each)) for each in (self.vector, self.initial))
        return moved / had if had > 0 else moved

    @property
    def vectors(self) -> tuple[Tensor, ...]:
        """Trained, and initial if there is one."""
        return (self.trained,) if self.initial is None else (self.trained, self.initial)

    @property
    def is_whole(self) -> bool:
        """Whether every parameter is in it."""
        return bool(sum(piece.stop - piece.start for piece in self.slices) == self.trained.numel())

    @property
    def vector(self) -> Tensor:
        """All of it [num_params], in new memory."""
        vector = torch.zeros_like(self.trained)
        for piece in self.slices:
            vector[piece] = self.trained[piece] if self.initial is None else self.trained[piece] - self.initial[piece]
        return vector
