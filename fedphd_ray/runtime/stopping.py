"""Being asked to stop, and two runs in one place."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from fedphd_ray.errors import StoppedError, UserError

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise a `StoppedError` within, once: after it nothing interrupts what ends the run.

    Ray sets handlers of its own when it starts, so this comes after it too. Only a main thread can be asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(signal.Signals(number).name, number)

    before = {each: signal.signal(each, stop) for each in SIGNALS}
    try:
        yield
    except StoppedError:
        raise  # the process ends: handlers stay as they are
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
