"""Being asked to stop: once, within seconds, whatever the process is doing."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from fedphd_ray.errors import Stopped, UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HEAR_SECONDS = 0.2  # for the thread that hears of signals to have its turn
ABORTS = "torch"  # if something is raised within
GRACE_SECONDS = 1.0  # `ray job stop` kills after three, and a busy machine takes its time
SHOW_CURSOR = "\x1b[?25h"


class Hint(NamedTuple):
    """How to go on after a stop, as data: a process beside this one may have to say it."""

    text: str
    file: str = ""
    """Where one is named, `text` holds once that file is there."""
    otherwise: str = ""
    """Said before."""

    def __str__(self) -> str:
        return self.text if not self.file or Path(self.file).exists() else self.otherwise


class Stopping:
    """What happens at a signal: the main thread is interrupted, and where that does not end the process, it is ended.

    An exception that is raised while foreign code runs (an extension, a callback, a finaliser) may be swallowed or wrapped there,
    and code that does not return to Python is not interrupted at all. So a thread hears of signals too, through a pipe; it waits
    for a while and then ends the process, with the same message and the same exit code. Within torch nothing is raised: it calls
    Python from C++ functions that no exception may leave, and the process would abort.
    """

    def __init__(self) -> None:
        self._asked: Stopped | None = None
        self._heard = threading.Event()
        self._ending = threading.Lock()
        self._writer = -1
        self._hints: list[Hint] = []
        self._clean_ups: list[Callable[[], None]] = []

    @property
    def asked(self) -> Stopped | None:
        """Set from the moment that somebody asked."""
        return self._asked

    def heard(self) -> Stopped | None:
        """The same, for whoever has caught an error: while Ray starts, handlers of its own raise something else at a signal."""
        self._heard.wait(HEAR_SECONDS)
        return self._asked

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP raise a `Stopped` within. Only a main thread can be asked."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        former = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._hear, args=(reader,), name="stop", daemon=True).start()
        self.listen()
        others = sys.unraisablehook

        def swallowed(what: "sys.UnraisableHookArgs") -> None:
            """Where nothing can be raised (a finaliser, a hook of fork) Python prints a traceback; a stop is heard without it."""
            if not isinstance(what.exc_value, Stopped):
                others(what)

        sys.unraisablehook = swallowed
        try:
            yield
        finally:
            sys.unraisablehook = others
            if self._asked is None:
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(former)
                os.close(self._writer)  # ends the thread
                self._writer = -1

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C is Python's own within, for a command that asks what it was meant for."""
        if self._writer < 0 or threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self.listen()

    def listen(self) -> None:
        """Takes the signals again, within `signals`: Ray sets handlers of its own when it starts."""
        if self._writer >= 0 and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._interrupt)

    @property
    def hint(self) -> Hint:
        """The innermost hint; empty words where there is none."""
        return self._hints[-1] if self._hints else Hint("")

    @contextlib.contextmanager
    def prepared(self, hint: Hint | None = None, clean_up: Callable[[], None] | None = None) -> Iterator[None]:
        """What to say, and what to clean up, if the process is asked to stop within."""
        hints, clean_ups = [hint] if hint else [], [clean_up] if clean_up else []
        self._hints += hints
        self._clean_ups += clean_ups
        try:
            yield
        except BaseException as error:
            asked = self._asked if isinstance(error, UserError) else self.heard()  # a refusal does not wait
            if asked is not None:
                raise  # whoever is stopped inside still has to be told, and everything cleaned up
            self._forget(hints, clean_ups)
            raise
        self._forget(hints, clean_ups)

    def _forget(self, hints: Sequence[Hint], clean_ups: Sequence[Callable[[], None]]) -> None:
        for hint in hints:
            self._hints.remove(hint)
        for clean_up in clean_ups:
            self._clean_ups.remove(clean_up)

    def finish(self, what: str, exit_code: int) -> None:
        """Ends the process: one message, everything that it started ended, nothing left. From any thread; never returns."""
        if not self._ending.acquire(blocking=False):
            time.sleep(10 * GRACE_SECONDS)  # another thread is at it
        hint = str(self.hint)
        cursor = SHOW_CURSOR if os.isatty(2) else ""
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            sys.stdout.flush()
            os.write(2, f"{cursor}\n{what}{'; ' * bool(hint)}{hint}\n".encode("ascii", "backslashreplace"))
        for clean_up in reversed(self._clean_ups):
            with contextlib.suppress(Exception):
                clean_up()
        os._exit(exit_code)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread; asked a second time the process ends at once."""
        if self._asked is not None and frame is not None and self._asked.raised:
            self.finish(str(self._asked), self._asked.exit_code)
        asked = self._ask(number)
        if any(own.f_globals.get("__name__", "").partition(".")[0] == ABORTS for own in _stack(frame)):
            return  # the thread ends it
        asked.raised = True
        raise asked

    def _hear(self, reader: int) -> None:
        number = 0
        while number not in SIGNALS:
            if not (heard := os.read(reader, 1)):  # nobody listens any more
                os.close(reader)
                return
            number = heard[0]
        asked = self._ask(number)
        time.sleep(GRACE_SECONDS)
        self.finish(str(asked), asked.exit_code)

    def _ask(self, number: int) -> Stopped:
        """The first time counts."""
        self._asked = self._asked or Stopped(signal.Signals(number).name, number)
        self._heard.set()
        return self._asked


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


STOPPING = Stopping()
"""Signals are a process's own, and so is this."""


def kill_descendants(spare: Collection[int] = ()) -> None:
    """Ends every process that this one has started, and theirs (where there is a /proc), but for some."""
    for pid in descendants() - set(spare):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def descendants() -> set[int]:
    """Every process that this one has started, and theirs."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}
