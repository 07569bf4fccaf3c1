"""Runs at the same time, each in a process of its own: torch's generators and threads belong to a process."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedphd_ray.config import Config
from fedphd_ray.errors import RunFailedError
from fedphd_ray.report.text import duration
from fedphd_ray.runtime.driver.start import Needs, shared_session
from fedphd_ray.system.saying import Say

LOOK_SECONDS = 0.2
END_SECONDS = 10.0  # for a run that is asked to stop


@dataclass(frozen=True)
class Job:
    """A run: what it is called, its configuration, its directory, in which it may have begun before, and what it needs of Ray."""

    title: str
    config: Config
    directory: Path
    needs: Needs


def run_side_by_side(jobs: Sequence[Job], at_once: int, say: Say) -> None:
    """Runs all of them; on Ray in one session, where each has hosts of its own.

    No result depends on where a run takes place, so none depends on what goes on beside it.

    Args:
        jobs: in the order in which they begin.
        at_once: at most so many; fewer where the cluster has no room for them.
        say: told what begins and ends, and how long the rest may take.

    Raises:
        RunFailedError: one has failed; the others are stopped, and can be resumed.
        UserError: their `runtime` sections differ.
    """
    with shared_session([job.needs for job in jobs], at_once) as session:
        hosts, environment = jobs[0].config.runtime.hosts, dict[str, str]()
        if session is not None:
            largest = max(jobs, key=lambda job: job.needs.store_bytes)
            at_once, hosts = session.shares(largest.config.build(say), at_once)
            environment = session.environment
        say(f"{min(at_once, len(jobs))} runs at once")
        with tempfile.TemporaryDirectory() as folder, _running() as running:
            waiting, began, done = deque(enumerate(jobs)), time.monotonic(), 0
            while waiting or running:
                while waiting and len(running) < at_once:
                    number, job = waiting.popleft()
                    say(job.title)
                    running.append(_Process.start(job, Path(folder) / str(number), hosts, environment))
                time.sleep(LOOK_SECONDS)
                for process in [one for one in running if one.ended]:
                    running.remove(process)
                    process.require_success()
                    done += 1
                    left = (time.monotonic() - began) / done * (len(jobs) - done)
                    say(f"{process.job.title}: finished, {done} of {len(jobs)}" + f", about {duration(left)} left" * (left > 0))


@dataclass(frozen=True)
class _Process:
    """A run that is under way, and the file with what it says."""

    job: Job
    process: "subprocess.Popen[bytes]"
    log: Path

    @classmethod
    def start(cls, job: Job, folder: Path, hosts: object, environment: Mapping[str, str]) -> "_Process":
        """Begins a run, or goes on with it; `folder` is made for its configuration and what it says."""
        folder.mkdir()
        config, log = folder / "config.yaml", folder / "said"
        config.write_text(job.config.to_yaml())
        command = [sys.executable, "-m", "fedphd_ray", "run", config, "--set", f"runtime.hosts={hosts}", "--quiet"]
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [*map(str, command), "--out", str(job.directory), "--resume-if-exists"],
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        return cls(job, process, log)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.process.poll() is not None

    def require_success(self) -> None:
        """Raises a `RunFailedError` with the run's own words if it did not end well."""
        if code := self.process.returncode:
            before, found, reason = self.log.read_text(errors="replace").rpartition("error: ")
            told = reason if found else f"exit code {code}\n{before[-2000:]}"
            raise RunFailedError(f"{self.job.title}: {told.strip()}")


@contextlib.contextmanager
def _running() -> Iterator[list[_Process]]:
    """A list of processes; those that are in it at the end are stopped."""
    running: list[_Process] = []
    try:
        yield running
    finally:
        for one in running:
            one.process.terminate()
        deadline = time.monotonic() + END_SECONDS
        for one in running:
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
