"""Runs as processes of their own, and what they leave behind."""

import contextlib
import faulthandler
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import yaml
from federations import method

from fedphd_ray import cli

NAME = "fedphd with kept moments"
TESTS = str(Path(__file__).parent)
EVERY_ROUND: dict[str, object] = {"checkpoint": {"every": 1, "keep": 2}}


def environment(**more: str) -> dict[str, str]:
    """Without the settings of the tests' own Ray; workers may take long to start beside other tests."""
    patient = {"RAY_worker_register_timeout_seconds": "600", "RAY_worker_niceness": "0"}
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | patient | more


def on_this_machine(seconds: float) -> float:
    """What so many seconds of an idle machine are on this one now: longer, where other processes take their share of it."""
    wall, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < 0.2:
        pass
    return seconds * max(1.0, (time.monotonic() - wall) / (time.thread_time() - cpu))


def write_config(directory: Path, **sections: object) -> Path:
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(method(NAME, **EVERY_ROUND, **sections).model_dump(mode="json")))
    return path


def fedphd(*arguments: object) -> Sequence[str]:
    return [sys.executable, "-m", "fedphd_ray", *map(str, arguments)]


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


def processes_below(pid: int) -> set[int]:
    """Descendants of a process, without Ray's own agents: those notice a dead driver within about a minute."""
    agent = re.compile("agent|dashboard|process_api", re.IGNORECASE)
    return {child for child in descendants(pid) if not agent.search(command_line(child))}


def descendants(pid: int) -> set[int]:
    """Children, and theirs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def command_line(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """What takes longer ends this process, and says where it was: a library that waits at a pipe hears of no signal."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def require_ended(pids: set[int]) -> None:
    """All gone within seconds."""
    deadline = time.monotonic() + 120
    while alive := {pid: command for pid in pids if (command := command_line(pid))}:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def fedphd_in_process(*arguments: object, code: int = 0, cwd: Path | None = None) -> str:
    """Runs a command as the console script does, in this process (imports take seconds in a new one); what it printed."""
    found, said = fedphd_in_process_code(*arguments, cwd=cwd)
    assert found == code, f"exit code {found}\n{said}"
    return said


def fedphd_in_process_code(*arguments: object, cwd: Path | None = None) -> tuple[int, str]:
    """The same for any exit code, which comes first."""
    said, found = io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(sys, "argv", ["fedphd", *map(str, arguments)]))
        stack.enter_context(contextlib.chdir(cwd or Path.cwd()))
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(said))
        try:
            cli.main()
        except SystemExit as stop:
            found = int(stop.code or 0)
    return found, said.getvalue()
