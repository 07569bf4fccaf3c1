"""Whose updates a round takes, where clients are not equally fast. Pure: from simulated times to who is in, and when it ends.

A synchronous policy says how many clients are asked and, once it is known when each would be done, when each edge's round ends
and whose updates are used. Clients that are not done by then are told to stop.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from fedphd_ray.devices.simulation import Job
from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.settings.sections import Section

Seconds = Annotated[float, Field(gt=0, le=1e12)]
Times = NDArray[np.float64]


@dataclass(frozen=True)
class Settled:
    """Clients whose updates are used, and when each edge's round ends."""

    used: frozenset[int]
    ends: Mapping[int, float]


class Rule(Section):
    """What all policies have in common."""

    @property
    def normalises(self) -> bool:
        """Whether it makes updates of different lengths, and wants them made comparable."""
        return False


class Wait(Rule):
    """For everybody who was asked: the slowest decides how long a round takes."""

    name: Literal["wait"] = "wait"

    def describe(self) -> str:
        """In a few words."""
        return "rounds wait for everybody"

    def asks(self, wanted: int) -> int:
        """How many clients are asked where so many are wanted."""
        return wanted

    def shares(self, cohort: Sequence[int], times: Callable[[], tuple[Times, Times]]) -> dict[int, float]:
        """Client -> share of its local steps that it takes; who is not in it takes all.

        Args:
            cohort: who is asked.
            times: gives the seconds that each registered client takes to receive and send [num_clients], and to train.
        """
        return {}

    def settle(self, jobs: Sequence[Job], begins: Mapping[int, float], wanted: int) -> Settled:
        """Who is in, and when it ends.

        Args:
            jobs: of everybody asked, done or gone.
            begins: when each edge's round began.
            wanted: updates, over all edges.
        """
        return Settled(
            frozenset(job.client for job in jobs if not job.gone),
            {edge: max(job.since for job in own) for edge, own in _by_edge(jobs).items()},
        )


class ScaleWork(Wait):
    """For everybody, but slow clients take fewer steps: as many as they have time for until the median client is done.

    Attributes:
        least: share of its steps that every client takes.
        normalise: updates of different lengths are made comparable as FedNova does it, with any method; else they are taken as
            they are.
    """

    name: Literal["scale_work"]  # type: ignore[assignment]  # another policy by another name
    least: Annotated[float, Field(gt=0, le=1)] = 0.1
    normalise: bool = True

    @property
    def normalises(self) -> bool:
        """See `Rule`."""
        return self.normalise

    def describe(self) -> str:
        """In a few words."""
        return "slow clients take fewer steps"

    def shares(self, cohort: Sequence[int], times: Callable[[], tuple[Times, Times]]) -> dict[int, float]:
        """See `Wait`."""
        links, training = times()
        due = float(np.median(links[cohort] + training[cohort]))
        shares = {client: max(self.least, (due - links[client]) / max(training[client], 1e-12)) for client in cohort}
        return {client: float(share) for client, share in shares.items() if share < 1}


class Deadline(Wait):
    """For so many seconds at every edge, or until it has its least number of updates; or until nobody is left to wait for.

    Attributes:
        seconds: simulated, from when an edge's round begins.
        least_updates: an edge waits longer until it has as many.
    """

    name: Literal["deadline"]  # type: ignore[assignment]  # another policy by another name
    seconds: Seconds
    least_updates: NonNegativeInt = 0

    def describe(self) -> str:
        """In a few words."""
        return f"rounds end after {self.seconds:g} s"

    def settle(self, jobs: Sequence[Job], begins: Mapping[int, float], wanted: int) -> Settled:
        """See `Wait`."""
        used: set[int] = set()
        ends: dict[int, float] = {}
        for edge, own in _by_edge(jobs).items():
            arrivals = sorted(job.since for job in own if not job.gone)
            last, due = max(job.since for job in own), begins[edge] + self.seconds
            if len([seconds for seconds in arrivals if seconds <= due]) < self.least_updates:
                due = arrivals[self.least_updates - 1] if len(arrivals) >= self.least_updates else last
            ends[edge] = min(last, due)
            used |= {job.client for job in own if not job.gone and job.since <= ends[edge]}
        return Settled(frozenset(used), ends)


class OverSelect(Wait):
    """Asks `extra` clients more than are wanted, and takes those who are done first, over all edges (Bonawitz et al. 2019)."""

    name: Literal["over_select"]  # type: ignore[assignment]  # another policy by another name
    extra: PositiveInt

    def describe(self) -> str:
        """In a few words."""
        return f"{self.extra} more are asked than are waited for"

    def asks(self, wanted: int) -> int:
        """See `Wait`."""
        return wanted + self.extra

    def settle(self, jobs: Sequence[Job], begins: Mapping[int, float], wanted: int) -> Settled:
        """See `Wait`. Of those who are done at the same moment the ones with lower numbers are taken."""
        first = sorted((job.since, job.client) for job in jobs if not job.gone)[:wanted]
        used = frozenset(client for _, client in first)
        over = first[-1][0] if len(first) == wanted else max(job.since for job in jobs)
        return Settled(used, {edge: min(over, max(job.since for job in own)) for edge, own in _by_edge(jobs).items()})


class Buffered(Rule):
    """Nobody waits for anybody: an edge aggregates when it has `size` updates, whichever model they started from.

    Nguyen et al.: "Federated Learning with Buffered Asynchronous Aggregation", 2022 (FedBuff), with edges as servers. A round is
    one aggregation at one edge. `clients_per_round` clients are at work all the time: who is done is followed by another at once.

    Attributes:
        size: updates in a buffer, K_b.
        staleness_exponent: an update that began s aggregations of its edge ago counts 1 / (1 + s)^a.
        most_stale: one that began earlier is not used.
    """

    name: Literal["buffered"]
    size: PositiveInt
    staleness_exponent: Annotated[float, Field(ge=0, le=100)] = 0.5
    most_stale: Annotated[int, Field(ge=0, le=1000)] = 20

    def describe(self) -> str:
        """In a few words."""
        return f"edges aggregate whenever they have {self.size} updates"

    def factor(self, staleness: int) -> float:
        """On the weight of an update."""
        return float((1 + staleness) ** -self.staleness_exponent)


Synchronous = Wait | Deadline | OverSelect | ScaleWork
Policy = Annotated[Wait | Deadline | OverSelect | ScaleWork | Buffered, Field(discriminator="name"), OrOwn(Wait)]


def _by_edge(jobs: Sequence[Job]) -> dict[int, list[Job]]:
    found = defaultdict(list)
    for job in jobs:
        found[job.edge].append(job)
    return found
