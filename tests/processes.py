"""Runs as processes of their own, and what they leave behind."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from federations import method

NAME = "fedphd with kept moments"
TESTS = str(Path(__file__).parent)
EVERY_ROUND: dict[str, object] = {"checkpoint": {"every": 1, "keep": 2}}


def environment(**more: str) -> dict[str, str]:
    """Without the settings of the tests' own Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | more


def write_config(directory: Path, **sections: object) -> Path:
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(method(NAME, **EVERY_ROUND, **sections).model_dump(mode="json")))
    return path


def fedphd(*arguments: object) -> Sequence[str]:
    return [sys.executable, "-m", "fedphd_ray", *map(str, arguments)]


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


def processes_below(pid: int) -> set[int]:
    """Descendants of a process, without Ray's own agents: those notice a dead driver within about a minute."""
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
    return {child for child in found if not re.search("agent|dashboard|process_api", command_line(child), re.IGNORECASE)}


def command_line(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def require_ended(pids: set[int]) -> None:
    """All gone within seconds."""
    deadline = time.monotonic() + 30
    while alive := {pid: command for pid in pids if (command := command_line(pid))}:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)
