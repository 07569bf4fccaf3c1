"""Who trains which width of a network: fixed shares, what devices can hold, or what meets a deadline over a radio channel."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedphd_ray.devices.profiles import MBIT, Devices
from fedphd_ray.devices.quantities import Quantity, draw
from fedphd_ray.devices.wireless import Radio, allocate, rate
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.costs import Cost
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.settings.sections import Section

Figures = NDArray[np.float64]


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


@dataclass(frozen=True)
class Crowd:
    """Clients that one edge asks in a round. Columns are widths, the widest first.

    Attributes:
        clients: who.
        widest: the widest that each can train at all [num_clients].
        compute: seconds of training [num_clients, num_widths].
        bits: to be sent after it [num_clients, num_widths].
        fixed: seconds that a round takes besides, whatever the width: the most there can be [num_clients].
        weight: how much each counts [num_clients].
    """

    clients: NDArray[np.int64]
    widest: Figures
    compute: Figures
    bits: Figures
    fixed: Figures
    weight: Figures


class Assignment(Section):
    """Who trains which width.

    Attributes:
        needs_devices: it goes by what devices can do, which only simulated ones say.
        every_round: anew among the clients of each edge and round (`share`), within the widths that `assign` gives once.
    """

    needs_devices: ClassVar[bool] = False
    every_round: ClassVar[bool] = False

    name: str

    def require_fit(self, num_widths: int) -> None:
        """Sees that it can choose from so many widths; `ConfigError` if not."""

    def assign(self, candidates: Candidates) -> NDArray[np.float64]:
        """Width of each client [num_clients]; 0 for a client that can train none, and is not asked."""
        raise NotImplementedError

    def share(self, crowd: Crowd, candidates: Candidates) -> tuple[Figures, Figures]:
        """Width and upload rate in bit/s of each client of an edge and round; width 0 for one that is not asked after all."""
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


class Wireless(ByMemory):
    """As wide as meets a deadline, where an edge's clients share a radio channel (arXiv 2305.09042, see `devices/wireless.py`).

    Ratios and bandwidths are solved for together; a client then trains the widest network that is done in time over the bandwidth
    it has. Whoever would have to be pruned by more than `most_pruned`, or beyond the narrowest width, is not asked.

    Attributes:
        deadline_seconds: T_max, from being asked to the end of the upload.
        bandwidth_mhz: that the clients of an edge share.
        channel_mhz: a = p h / N0 of each client, a number or a distribution: with much bandwidth its rate is 1.44 a.
        most_pruned: rho_max.
    """

    every_round: ClassVar[bool] = True

    name: Literal["wireless"]  # type: ignore[assignment]  # another rule by another name
    deadline_seconds: Annotated[float, Field(gt=0, le=1e12)]
    bandwidth_mhz: Annotated[float, Field(gt=0, le=1e9)] = 20.0
    channel_mhz: Quantity = 50.0
    most_pruned: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def share(self, crowd: Crowd, candidates: Candidates) -> tuple[Figures, Figures]:
        """Rates are those of the bandwidths."""
        rng = numpy_rng(candidates.seed, Purpose.SUBMODELS)
        channel = MBIT * draw(self.channel_mhz, rng, len(candidates.images))[crowd.clients]
        left = self.deadline_seconds - crowd.fixed
        radio = Radio(crowd.compute[:, 0], crowd.bits[:, 0], channel, left, crowd.weight / crowd.weight.sum())
        allocation = allocate(radio, MBIT * self.bandwidth_mhz, self.most_pruned)
        rates = rate(allocation.bandwidth, channel)
        with np.errstate(divide="ignore"):
            seconds = crowd.compute + crowd.bits / rates[:, None]
        widths = np.array(candidates.widths)
        in_time = (seconds <= left[:, None] * (1 + 1e-9)) & (widths <= crowd.widest[:, None]) & allocation.feasible[:, None]
        return np.where(in_time.any(axis=1), widths[in_time.argmax(axis=1)], 0.0), rates
