"""Clients at work in simulated time: they receive, train and send; those of one edge share its rate max-min fairly.

A fluid model: a message of b bytes takes latency + 8 b / rate, where the rate changes whenever another one begins or ends on the
same edge in the same direction. Time is a number here, and nothing waits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.plans import Flight

_until = attrgetter("until")
TIE = 1e-12  # relative: events closer than that are simultaneous


@dataclass(eq=False)
class Job:
    """One client on its way. Sizes in bytes, work and times in seconds.

    Attributes:
        client: who.
        edge: where it sends to.
        version: the round whose model it starts from.
        starts: when it is asked.
        latency: of both messages.
        download: size, and the highest rate in bit/s.
        work: seconds of training.
        upload: size, and the highest rate in bit/s.
        age: how often its edge had aggregated when it was asked.
        chance: the probability with which its edge was drawn.
        leaves: while `training` or in the `upload`, after which share of it; None for one that stays.
    """

    client: int
    edge: int
    version: int
    starts: float
    latency: float
    download: tuple[float, float]
    work: float
    upload: tuple[float, float]
    leaves: tuple[str, float] | None = None
    age: int = 0
    chance: float = 1.0
    phase: int = -1
    since: float = 0.0
    until: float = math.inf
    marks: list[float] = field(default_factory=list)
    received: float = 0.0
    sent: float = 0.0
    gone: bool = False

    def flight(self, fate: str = "") -> Flight:
        """What came of it."""
        downloaded, trained, arrived = (self.marks + [math.nan] * 3)[:3]
        return Flight(
            client=self.client,
            edge=self.edge,
            version=self.version,
            started=self.starts,
            downloaded=downloaded,
            trained=trained,
            arrived=arrived,
            ended=self.since,
            received=self.received / self.download[0] if self.download[0] else 1.0,
            sent=self.sent / self.upload[0] if self.upload[0] else 1.0,
            fate=fate,
        )


WAITS_DOWN, DOWNLOAD, WORK, WAITS_UP, UPLOAD, DONE = range(6)


class _Shared:
    """An edge's rate in one direction, among those who use it now."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self._at = 0.0
        self._jobs: list[Job] = []
        self._left: list[float] = []
        self._rates: list[float] = []
        self._caps: list[float] = []

    def move(self, now: float) -> None:
        """Brings everybody to a time."""
        passed = now - self._at
        if passed > 0:
            self._left = [left - passed * rate for left, rate in zip(self._left, self._rates, strict=True)]
        self._at = now

    def join(self, job: Job, num_bytes: float, cap: float, now: float) -> None:
        """One more."""
        self.move(now)
        self._jobs.append(job)
        self._left.append(8 * num_bytes)
        self._caps.append(cap)
        self._rates = max_min_fair(self._caps, self.capacity)
        self._tell()

    def left(self, job: Job, now: float) -> float:
        """Bytes that it has still to move."""
        self.move(now)
        return max(0.0, self._left[self._jobs.index(job)]) / 8

    def leave(self, job: Job, now: float) -> float:
        """One less; the bytes that it had not moved."""
        self.move(now)
        place = self._jobs.index(job)
        left = self._left.pop(place)
        del self._jobs[place], self._caps[place]
        self._rates = max_min_fair(self._caps, self.capacity)
        self._tell()
        return max(0.0, left) / 8

    def _tell(self) -> None:
        for job, left, rate in zip(self._jobs, self._left, self._rates, strict=True):
            job.until = self._at + left / rate


def max_min_fair(caps: Sequence[float], capacity: float) -> list[float]:
    """Rates that sum to at most the capacity: nobody above its own cap, and nobody can gain but from one with no more."""
    rates, left = [0.0] * len(caps), capacity
    order = sorted(range(len(caps)), key=lambda place: caps[place])
    for served, place in enumerate(order):
        rates[place] = min(caps[place], left / (len(caps) - served))
        left -= rates[place]
    return rates


class Simulation:
    """All edges at once.

    Args:
        rates: of each edge in one direction, in bit/s.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = rates
        self._links: dict[tuple[int, int], _Shared] = {}
        self.jobs: list[Job] = []

    def start(self, job: Job) -> None:
        """One more job, from its `starts` on."""
        self.jobs.append(job)
        job.phase, job.since = WAITS_DOWN, job.starts
        job.until = job.starts + job.latency

    def next(self, limit: float = math.inf) -> tuple[float, list[Job]]:
        """The next moment at which somebody is done or gone, and who; at `limit`, nobody, if there is none before.

        Those who are done are no longer in `jobs`.
        """
        latest = limit + 2 * TIE * max(1.0, limit)
        while self.jobs and (now := min(map(_until, self.jobs))) <= latest:
            over, tied = [], now + TIE * max(1.0, now)
            for job in [job for job in self.jobs if job.until <= tied]:
                self._step(job, now)
                if job.phase == DONE:
                    over.append(job)
            if over:
                self.jobs = [job for job in self.jobs if job.phase != DONE]
                return now, sorted(over, key=lambda job: job.client)
        return limit, []

    def stop(self, job: Job, now: float) -> None:
        """Ends a job where it is: what it has received and sent by then stays counted."""
        self.jobs = [other for other in self.jobs if other is not job]
        if job.phase == DOWNLOAD:
            job.received = job.download[0] - self._leave(job, now)
        if job.phase == UPLOAD:
            job.sent = self._goal(job) - self._leave(job, now)
        job.phase, job.since = DONE, now

    def as_table(self, now: float, done: Sequence[Job] = ()) -> NDArray[np.float64]:
        """All jobs as they are, one row each, and some that are over: `of_table` goes on from there."""
        return np.array([_row(job, self._left(job, now)) for job in [*self.jobs, *done]]).reshape(-1, NUM_COLUMNS)

    @classmethod
    def of_table(cls, rates: Sequence[float], table: NDArray[np.float64], now: float) -> tuple[Self, list[Job]]:
        """A simulation as it was at a time, and the jobs that were over."""
        simulation, done = cls(rates), []
        for row in table:
            job, left = _job(row)
            if job.phase == DONE:
                done.append(job)
                continue
            simulation.jobs.append(job)
            if job.phase in (DOWNLOAD, UPLOAD) and not math.isinf(rates[job.edge]):
                message = job.download if job.phase == DOWNLOAD else job.upload
                simulation._link(job).join(job, left, message[1], now)
        return simulation, done

    def _left(self, job: Job, now: float) -> float:
        """Bytes of its message that are still to come, on a shared link."""
        if job.phase not in (DOWNLOAD, UPLOAD) or math.isinf(self._rates[job.edge]):
            return 0.0
        return self._link(job).left(job, now)

    def _step(self, job: Job, now: float) -> None:
        """From one phase to the next; a phase of no length is passed at once."""
        match job.phase:
            case 0:
                self._enter(job, DOWNLOAD, job.download, now)
            case 1:
                self._leave(job, now)
                job.received = job.download[0]
                job.marks.append(now)
                share = job.leaves[1] if job.leaves is not None and job.leaves[0] == "training" else None
                job.phase, job.since, job.until = WORK, now, now + job.work * (1.0 if share is None else share)
            case 2:
                if job.leaves is not None and job.leaves[0] == "training":
                    job.phase, job.gone, job.since = DONE, True, now
                    return
                job.marks.append(now)
                job.phase, job.since, job.until = WAITS_UP, now, now + job.latency
            case 3:
                self._enter(job, UPLOAD, (self._goal(job), job.upload[1]), now)
            case _:
                self._leave(job, now)
                job.sent, job.gone, job.phase, job.since = self._goal(job), job.leaves is not None, DONE, now
                if not job.gone:
                    job.marks.append(now)

    def _enter(self, job: Job, phase: int, message: tuple[float, float], now: float) -> None:
        job.phase, job.since = phase, now
        if math.isinf(self._rates[job.edge]):
            job.until = now + 8 * message[0] / message[1]
        else:
            self._link(job).join(job, message[0], message[1], now)

    def _leave(self, job: Job, now: float) -> float:
        """Bytes that it had not moved."""
        if math.isinf(self._rates[job.edge]):
            rate = job.download[1] if job.phase == DOWNLOAD else job.upload[1]
            return max(0.0, job.until - now) * rate / 8
        return self._link(job).leave(job, now)

    def _link(self, job: Job) -> _Shared:
        key = job.edge, job.phase
        if key not in self._links:
            self._links[key] = _Shared(self._rates[job.edge])
        return self._links[key]

    @staticmethod
    def _goal(job: Job) -> float:
        """Bytes that it will send."""
        if job.leaves is not None and job.leaves[0] == "upload":
            return job.upload[0] * job.leaves[1]
        return job.upload[0]


NUM_COLUMNS = 22


def _row(job: Job, left: float) -> list[float]:
    kind, share = (0, 0.0) if job.leaves is None else (1 + (job.leaves[0] == "upload"), job.leaves[1])
    marks = (job.marks + [math.nan] * 3)[:3]
    sizes = [*job.download, job.work, *job.upload]
    state = [job.chance, job.phase, job.since, job.until, job.received, job.sent, left]
    return [job.client, job.edge, job.version, job.age, job.starts, job.latency, *sizes, *(kind, share), *state, *marks[:2]]


def _job(row: NDArray[np.float64]) -> tuple[Job, float]:
    client, edge, version, age, starts, latency, *rest = row.tolist()
    down, down_rate, work, up, up_rate, kind, share, chance, phase, since, until, received, sent, left, *marks = rest
    job = Job(
        client=int(client),
        edge=int(edge),
        version=int(version),
        age=int(age),
        chance=chance,
        starts=starts,
        latency=latency,
        download=(down, down_rate),
        work=work,
        upload=(up, up_rate),
        leaves=None if not kind else ("upload" if kind == 2 else "training", share),
        phase=int(phase),
        since=since,
        until=until,
        marks=[mark for mark in marks if not math.isnan(mark)],
        received=received,
        sent=sent,
    )
    if job.phase == DONE:  # only those are kept whose update is there
        job.marks.append(since)
    return job, left
