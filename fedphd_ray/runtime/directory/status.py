"""`status.json`: who works in a run directory, since when, and how that ended; and with what a run was made."""

import contextlib
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedphd_ray.errors import FedPhDError, Stopped, UserError
from fedphd_ray.system.files import MIB, read_regular, read_text, write_whole
from fedphd_ray.system.stopping import STOPPING

FILE = "status.json"
State = Literal["running", "finished", "stopped", "failed"]


class Status(BaseModel):
    """What a process says of a run directory in which it works.

    Attributes:
        state: `running` until the process says something else; one that was killed cannot.
        host: its machine.
        process: its number there.
        since: when it began, in UTC.
        why: how it ended, where that was not planned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State
    host: str
    process: int
    since: str
    why: str = ""

    @classmethod
    def read(cls, directory: Path) -> "Status | None":
        """That of a run directory; None where nobody has said anything that can be read."""
        try:
            return cls.model_validate_json(read_text(directory / FILE, MIB), strict=True)
        except (OSError, ValidationError):
            return None

    @property
    def alive(self) -> bool:
        """Whether the process may still be at work: of those on another machine nobody here knows better."""
        if self.state != "running":
            return False
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@contextlib.contextmanager
def at_work_in(directory: Path) -> Iterator[None]:
    """Says in a run directory that this process works in it, and afterwards how that ended; nothing where it was refused."""
    status = Status(state="running", host=socket.gethostname(), process=os.getpid(), since=utc_now())

    def write(state: State, why: str = "") -> None:
        text = status.model_copy(update={"state": state, "why": why}).model_dump_json(indent=1)
        with contextlib.suppress(OSError):  # a full disk has a message of its own
            write_whole(directory / FILE, text.encode())

    def ended() -> None:
        """By a thread, while this one was somewhere else."""
        asked = STOPPING.asked
        write("stopped" if asked else "failed", str(asked or "its process was ended"))

    path = directory / FILE
    try:
        former = read_regular(path, MIB)
    except OSError:  # none, or none of ours
        former = b""
    write("running")
    try:
        with STOPPING.prepared(clean_up=ended):
            yield
    except UserError:  # refused: nothing has happened here
        with contextlib.suppress(OSError):  # a folder in its place stays
            write_whole(path, former) if former else path.unlink(missing_ok=True)
        raise
    except (Stopped, KeyboardInterrupt) as stopped:
        write("stopped", str(stopped))
        raise
    except BaseException as error:
        write("failed", str(error) if isinstance(error, FedPhDError) else f"{type(error).__name__}: {error}")
        raise
    write("finished")


def utc_now() -> str:
    """To the second, with its zone."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """What this process was started with, as it can be typed again."""
    program, *arguments = sys.argv or ["python"]
    return shlex.join([Path(program).name, *arguments])


def machine() -> str:
    """Where this process runs, without names."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
