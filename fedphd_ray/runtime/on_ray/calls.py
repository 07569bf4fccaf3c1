"""Calls to actors that may die, or never answer. Every wait has a deadline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import ray

from fedphd_ray.errors import FedPhDError, RunFailedError, StateLostError
from fedphd_ray.runtime.on_ray.actor_pool import Actor, Answer, Ref

TICK_SECONDS = 5.0  # how often deadlines are looked at while nothing arrives


@dataclass(frozen=True)
class Wires:
    """How answers are waited for. Ray's own are `RAY`; tests have some behind which nothing runs.

    Attributes:
        wait: those of the first receipts that are there, or failed, within so many seconds.
        get: a receipt; raises what happened instead.
        now: seconds on a clock that only goes forward.
    """

    wait: Callable[[Sequence[Ref], float], Sequence[Ref]]
    get: Callable[[Ref], Answer]
    now: Callable[[], float]


RAY = Wires(
    wait=lambda refs, seconds: ray.wait(list(refs), timeout=seconds, fetch_local=False)[0], get=ray.get, now=time.monotonic
)


class Actors(Protocol):
    """What a round needs of `ActorPool`."""

    hosts: list[Actor]
    servers: list[Actor]

    def replace(self, actor: Actor, why: str) -> None:
        """Puts another in the place of a dead one."""

    def require_replacements(self) -> None:
        """Looks whether replacements are up in time."""

    def overdue(self, round: int, client: int) -> bool:
        """Whether a host has ended itself because of this client."""


@dataclass(eq=False)
class Call:
    """A running call.

    Attributes:
        actor: who does it.
        who: its name, and what it does.
        refs: what it returns; the first is a small receipt, which the driver reads.
        done: called with the receipt.
        lost: called when the actor has died, and another is in its place.
        died: whether the actor's process is known to have died; else it was only out of reach, which says nothing of its work.
    """

    actor: Actor
    who: str
    refs: list[Ref]
    done: Callable[["Call", Answer], None]
    lost: Callable[["Call"], None]
    died: bool = False


class Calls:
    """The running calls of one round.

    Args:
        pool: whose actors are called; dead ones are replaced in it.
        deadline: of everything, on the clock of the wires.
        wires: how answers are waited for.
    """

    def __init__(self, pool: Actors, deadline: float, wires: Wires = RAY) -> None:
        self._pool = pool
        self._deadline = deadline
        self._wires = wires
        self._running: dict[Ref, Call] = {}

    def start(self, call: Call) -> None:
        """Takes a call that was just made."""
        self._running[call.refs[0]] = call

    def finish(self, more: Callable[[], None]) -> None:
        """Until no call is running; `more` may start some, and is asked after each that has ended.

        Raises:
            RunFailedError: something failed that cannot be done again, or the deadline is over.
            StateLostError: what a call needs is gone with a node.
        """
        more()
        while self._running:
            done = self._wires.wait(list(self._running), self._patience())
            self._pool.require_replacements()
            if done:
                self._end(self._running.pop(done[0]))
                more()
            else:
                self._require_time()

    def _patience(self) -> float:
        return max(0.0, min(self._deadline - self._wires.now(), TICK_SECONDS))

    def _end(self, call: Call) -> None:
        try:
            receipt = self._wires.get(call.refs[0])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FedPhDError):
                raise error.cause from None
            if isinstance(error.cause, ray.exceptions.ObjectLostError):
                raise StateLostError(f"{call.who}: {error.cause}") from error
            raise RunFailedError(f"{call.who} failed:\n{error}") from error
        except ray.exceptions.ObjectLostError as error:
            raise StateLostError(f"{call.who}: {error}") from error
        except ray.exceptions.RayActorError as error:
            call.died = not isinstance(error, ray.exceptions.ActorUnavailableError)
            self._pool.replace(call.actor, f"{call.who}: {_first_line(error)}")
            call.lost(call)
        else:
            call.done(call, receipt)

    def _require_time(self) -> None:
        if self._wires.now() >= self._deadline:
            late = ", ".join(sorted(call.who for call in self._running.values()))
            raise RunFailedError(f"no answer within runtime.round_timeout_seconds from {late}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
