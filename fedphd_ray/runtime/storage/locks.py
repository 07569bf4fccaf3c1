"""Two runs in one place, or in one process."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fedphd_ray.errors import UserError

_process = threading.Lock()


@contextlib.contextmanager
def one_run_per_process() -> Iterator[None]:
    """Keeps this process to one run: torch's generators and threads, and Ray's session, are the process's own.

    Raises:
        UserError: another thread runs one.
    """
    if not _process.acquire(blocking=False):
        raise UserError(
            "this process",
            expected="one run at a time: torch's generators and threads belong to a process, and so does a Ray session",
            found="another thread that is in a run",
            remedy="start a process for each run, or one after the other",
        )
    try:
        yield
    finally:
        _process.release()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps a run directory to this process, as long as it lives.

    Raises:
        UserError: another process has it.
    """
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            str(directory),
            expected="a run directory that nobody works in",
            found="another process that runs or resumes it",
            remedy="wait until it ends, or stop it; --out starts a run elsewhere",
        ) from None
    try:
        yield
    finally:
        lock.release()
