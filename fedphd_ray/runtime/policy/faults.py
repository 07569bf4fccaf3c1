"""Faults on demand: a script in the configuration, to rehearse what a run does about them. Off by default; deterministic."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator

from fedphd_ray.errors import ConfigError
from fedphd_ray.settings.sections import Section


class InjectedFaultError(RuntimeError):
    """What a client with the fault `exception` raises."""


class Fault(Section):
    """Something that goes wrong, once, in one round.

    Attributes:
        round: in which round.
        client: whose training goes wrong; or
        host: which host process dies as soon as it has trained something in that round; or
        edge: which edge server dies before it aggregates; or
        node: which server of a tier above the edges dies before it merges (`region/0`).
        kind: of a client: `exception` is raised; `nan` makes its update not a number; `wrong_shape` makes it too short; `slow`
            waits between two steps, `hang` for ever; `kill` ends its host's process. Hosts and edges can be killed only.
        times: that a client's fault strikes, when its training is tried again in the same round.
    """

    round: PositiveInt
    client: NonNegativeInt | None = None
    host: NonNegativeInt | None = None
    edge: NonNegativeInt | None = None
    node: str | None = None
    kind: Literal["exception", "nan", "wrong_shape", "slow", "hang", "kill"]
    times: PositiveInt = 1

    @model_validator(mode="after")
    def _strikes_one_thing(self) -> Self:
        named = [name for name in ("client", "host", "edge", "node") if getattr(self, name) is not None]
        if len(named) != 1:
            found = " and ".join(named) or "none"
            raise ConfigError("faults", expected="one of client, host, edge and node in every fault", found=found)
        if named != ["client"] and self.kind != "kill":
            raise ConfigError("faults", expected=f"kind: kill for a fault of a {named[0]}", found=self.kind)
        return self


@dataclass(frozen=True)
class FaultScript:
    """All faults of a run. Asking changes nothing: whether one strikes depends on round, place and attempt alone."""

    faults: tuple[Fault, ...] = ()

    def kills_host(self, round: int, host: int) -> bool:
        """Whether a host dies in this round."""
        return any(fault.round == round and fault.host == host for fault in self.faults)

    def kills_edge(self, round: int, edge: int) -> bool:
        """Whether an edge server dies in this round."""
        return any(fault.round == round and fault.edge == edge for fault in self.faults)

    def kills_node(self, round: int, name: str) -> bool:
        """Whether a server above the edges dies in this round."""
        return any(fault.round == round and fault.node == name for fault in self.faults)

    def of_client(self, round: int, client: int, attempt: int) -> str:
        """The kind of fault that strikes this training; empty for none."""
        for fault in self.faults:
            if fault.round == round and fault.client == client and attempt < fault.times:
                return fault.kind
        return ""


def strike_before_training(kind: str) -> None:
    """Does what some faults of a client do before its first step."""
    if kind == "exception":
        raise InjectedFaultError("a fault of the script (kind: exception)")
    if kind == "kill":
        kill_this_process()
    if kind == "hang":
        time.sleep(1e6)


def kill_this_process(*_: object) -> None:
    """As the kernel does it when memory runs out: no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def spoiled(kind: str, trained: torch.Tensor) -> torch.Tensor:
    """Trained parameters [num_params] as some faults of a client leave them."""
    if kind == "nan":
        return torch.full_like(trained, torch.nan)
    return trained[:-1] if kind == "wrong_shape" else trained
