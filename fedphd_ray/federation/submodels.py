"""Clients that train a narrower network than the server's: which widths there are, and who has which.

HeteroFL (Diao, Ding, Tarokh, ICLR 2021): nested, every client of a width has the first channels of each layer. FedRolex (Alam,
Liu, Yan, Zhang, NeurIPS 2022): rolling, the window moves by a channel every round, so that all are trained equally often. Here a
window lies within each group of a GroupNorm (each attention head): every group keeps as many channels, as when a network is
pruned, and a norm has as many groups at every width. `slices.py` cuts, and puts together what comes back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedphd_ray.devices.profiles import Devices
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.costs import Cost
from fedphd_ray.records import Slice
from fedphd_ray.sections import Section
from fedphd_ray.seeds import Purpose, numpy_rng

Width = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Candidates:
    """What is known when widths are assigned.

    Attributes:
        widths: to choose from, the widest first.
        costs: of the network at each of them.
        images: that the local training of each client takes [num_clients].
        devices: of the clients, where they are simulated.
        seed: of the run.
    """

    widths: tuple[float, ...]
    costs: tuple[Cost, ...]
    images: NDArray[np.int64]
    devices: Devices | None
    seed: int


class Assignment(Section):
    """Who trains which width.

    Attributes:
        needs_devices: it goes by what devices can do, which only simulated ones say.
    """

    needs_devices: ClassVar[bool] = False

    name: str

    def require_fit(self, num_widths: int) -> None:
        """Sees that it can choose from so many widths; `ConfigError` if not."""

    def assign(self, candidates: Candidates) -> NDArray[np.float64]:
        """Width of each client [num_clients]; 0 for a client that can train none, and is not asked."""
        raise NotImplementedError


class ByShare(Assignment):
    """Fixed for each client, drawn once.

    Attributes:
        shares: of the clients, for each width; divided by their sum. null is the same share of each.
    """

    name: Literal["shares"] = "shares"
    shares: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] | None = None

    def require_fit(self, num_widths: int) -> None:
        """A share for each width."""
        if self.shares is not None and (len(self.shares) != num_widths or not any(self.shares)):
            raise ConfigError(
                "submodels.assignment.shares",
                expected=f"a share of the clients for each of the {num_widths} widths, one of them above 0",
                found=", ".join(f"{share:g}" for share in self.shares),
            )

    def assign(self, candidates: Candidates) -> NDArray[np.float64]:
        """By the seed of the run."""
        shares = np.ones(len(candidates.widths)) if self.shares is None else np.array(self.shares)
        rng = numpy_rng(candidates.seed, Purpose.SUBMODELS)
        return rng.choice(np.array(candidates.widths), len(candidates.images), p=shares / shares.sum())


class ByMemory(Assignment):
    """The widest that a client's device can hold while it trains."""

    needs_devices: ClassVar[bool] = True

    name: Literal["memory"]

    def assign(self, candidates: Candidates) -> NDArray[np.float64]:
        """After a pruning everything is smaller, and clients may get a wider one."""
        assert candidates.devices is not None
        needed = np.array([cost.memory_bytes for cost in candidates.costs])
        fits = candidates.devices.memory_bytes[:, None] >= needed
        return np.where(fits.any(axis=1), np.array(candidates.widths)[fits.argmax(axis=1)], 0.0)


class SubModels(Section):
    """Sub-models of several widths.

    Attributes:
        scheme: `nested` (HeteroFL): the first channels of each norm group; `rolling` (FedRolex): a window that moves by one every
            round.
        widths: share of the channels that a client's network keeps, from the widest; rounded down to whole channels of each norm
            group and attention head.
        assignment: who trains which.
    """

    scheme: Literal["nested", "rolling"] = "nested"
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)]
    assignment: Annotated[ByShare | ByMemory, Field(discriminator="name")] = ByShare()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not all(wider > narrower for wider, narrower in pairwise(self.widths)):
            found = ", ".join(f"{width:g}" for width in self.widths)
            raise ConfigError("submodels.widths", expected="widths that differ, the widest first", found=found)
        self.assignment.require_fit(len(self.widths))
        return self

    def describe(self) -> str:
        """In a few words."""
        return f"{self.scheme} sub-models of widths {', '.join(f'{width:g}' for width in self.widths)}"

    @property
    def narrows(self) -> bool:
        """Whether anybody may train less than all: coordinates are then counted one by one."""
        return self.widths[-1] < 1

    def slices(self, widths: NDArray[np.float64], clients: Sequence[int], round: int) -> dict[int, Slice]:
        """What each of some clients trains in a round; a client not in it trains the whole network."""
        shift = round - 1 if self.scheme == "rolling" else 0
        return {client: Slice(float(widths[client]), shift) for client in clients if widths[client] < 1}
