"""What happens in a run, as typed events: everything that looks at one is told of all of them, in their order.

Told in the driver, between rounds, perhaps by a thread beside the main loop. Who is told changes nothing, and is cheap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import Outcome

if TYPE_CHECKING:
    from fedphd_ray.runtime.directory.progress import RoundRecord


@dataclass(frozen=True)
class Started:
    """The run begins after `round` (0 for a new one), when so many bytes have been sent. Again after each rollback."""

    round: int
    bytes_by_hop: Mapping[str, int]


@dataclass(frozen=True)
class Planned:
    """It is decided who takes part in a round. Known when the round is over, as all else."""

    plan: RoundPlan


@dataclass(frozen=True)
class LeftOut:
    """A client has no part in a round that it was asked to take part in."""

    round: int
    client: int
    edge: int
    outcome: Outcome
    why: str


@dataclass(frozen=True)
class Replaced:
    """A process died, and another is in its place."""

    round: int
    why: str


@dataclass(frozen=True)
class Pruned:
    """The network is another one from here on."""

    round: int
    version: int
    num_params: int


@dataclass(frozen=True)
class Sampled:
    """So many of the samples by which the model after a round is judged; of each model, where there are several."""

    round: int
    num: int
    of: int


@dataclass(frozen=True)
class Judged:
    """The model after a round was judged; round 0 is before training."""

    round: int
    quality: QualityReport


@dataclass(frozen=True)
class RoundDone:
    """A round is over; with the model's quality, where it was judged."""

    record: "RoundRecord"
    quality: QualityReport | None


@dataclass(frozen=True)
class Saved:
    """A checkpoint of the state after a round is whole."""

    round: int


@dataclass(frozen=True)
class Ended:
    """The last round is over, and everything of it is written."""

    round: int


Event = Started | Planned | LeftOut | Replaced | Pruned | Sampled | Judged | RoundDone | Saved | Ended


class Reporter(Protocol):
    """Told of events."""

    def on_event(self, event: Event) -> None:
        """Something has happened."""


class Reporters:
    """Several reporters as one."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def on_event(self, event: Event) -> None:
        """Tells all, in their order."""
        for reporter in self._reporters:
            reporter.on_event(event)
