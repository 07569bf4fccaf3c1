"""Runs as jobs of a cluster: what they need is packed and sent, their output followed, their exit code handed on."""

import asyncio
import contextlib
import io
import logging
import os
import secrets
import shlex
import shutil
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from fedphd_ray.errors import ResourceError, RunFailedError, Stopped, UserError
from fedphd_ray.system.files import MIB
from fedphd_ray.system.saying import Say
from fedphd_ray.system.stopping import STOPPING, Hint

MOST_BYTES = 100 * MIB
"""What a dashboard takes: beyond it the upload ends with status 413, whatever Ray's own check says."""
CONFIG = "experiment.yaml"
NAMED = 5
POLL_SECONDS = 1.0
END_SECONDS = 60.0
PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """A run on a cluster.

    Attributes:
        address: of the dashboard.
        out: run directory, as the cluster sees it.
        python: the cluster's.
        name: the submission id; empty before there is one.
    """

    address: str
    out: str
    python: str = "python"
    name: str = ""

    @property
    def command(self) -> str:
        """What the job executes: begins a run, or goes on with it."""
        return f"{self.python} -m fedphd_ray run {CONFIG} --out {shlex.quote(self.out)} --resume-if-exists"

    def submitted(self, folder: Path, name: str) -> Self:
        """Sends a folder and starts the job.

        Raises:
            ResourceError: nobody answers there, or one who does not let us in.
        """
        job = f"fedphd-{name}-{secrets.token_hex(4)}"
        with _answering(self.address):
            _client(self.address).submit_job(
                entrypoint=self.command,
                submission_id=job,
                runtime_env={"working_dir": str(folder)},
                metadata={"name": name, "run_directory": self.out},
            )
        return replace(self, name=job)


@contextlib.contextmanager
def packed(config_yaml: str, files: Sequence[Path], *, with_code: bool) -> Iterator[Path]:
    """A folder with what a job needs and nothing else: the configuration, files that were named, and this package if asked for.

    Raises:
        UserError: a file is not there, or all of them are too large.
    """
    with tempfile.TemporaryDirectory(prefix="fedphd-job-") as temporary:
        folder = Path(temporary)
        (folder / CONFIG).write_text(config_yaml)
        for path in files:
            if not path.exists():
                raise UserError(f"--with {path}", expected="a file or folder", found="nothing there")
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, folder / path.resolve().name)
        if with_code:
            shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        _require_size(folder)
        yield folder


def follow(job: Job, say: Say, stop_too: Callable[[str], bool]) -> int:
    """Says what a job says, until it is over; its exit code.

    Args:
        job: that was submitted.
        say: told line by line.
        stop_too: asked at Ctrl-C whether the job shall stop as well.

    Raises:
        RunFailedError: the job was stopped, or its driver never ran.
    """
    hint = Hint(f"`ray job logs --follow --address {job.address} {job.name}` shows its output, `ray job stop` ends it")
    with STOPPING.prepared(hint), STOPPING.interruptible():
        try:
            with _answering(job.address):
                asyncio.run(_tail(job, say))
                return _exit_code(job)
        except KeyboardInterrupt:
            if os.isatty(0) and stop_too(job.name):
                _client(job.address).stop_job(job.name)
            raise Stopped("SIGINT", signal.SIGINT) from None


async def _tail(job: Job, say: Say) -> None:
    rest = ""
    async for piece in _client(job.address).tail_job_logs(job.name):
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            say(line)
    if rest:
        say(rest)


def _exit_code(job: Job) -> int:
    """After its output has ended; a job that was stopped, or whose node has died, has none."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        info = _client(job.address).get_job_info(job.name)
        if info.status.is_terminal():
            break
        if time.monotonic() > deadline:
            raise RunFailedError(f"job {job.name}: its output has ended, and it is still {info.status}")
        time.sleep(POLL_SECONDS)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status == "SUCCEEDED":
        return 0
    raise RunFailedError(f"job {job.name}: {info.status}: {(info.message or 'no reason given').strip().splitlines()[-1]}")


def _client(address: str) -> Any:  # ray's class, which is imported late: it takes seconds
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    return JobSubmissionClient(address)


@contextlib.contextmanager
def _answering(address: str) -> Iterator[None]:
    """Whatever is wrong between us and the dashboard, as one message."""
    try:
        yield
    except (ConnectionError, RuntimeError, OSError) as error:
        text = " ".join(str(error).split())
        denied = any(sign in text for sign in ("401", "403", "nauthorized", "uthentication"))
        raise ResourceError(
            address,
            expected="the dashboard of a Ray cluster, which takes jobs",
            found=text[:300] or type(error).__name__,
            remedy="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, as the cluster has them"
            if denied
            else "the address is that of the dashboard (port 8265), reached by a tunnel if need be",
        ) from error


def _require_size(folder: Path) -> None:
    """As it would be sent: zipped."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)
    counted = _Counted()
    with zipfile.ZipFile(counted, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
            if counted.num_bytes > MOST_BYTES:
                largest = ", ".join(f"{one.relative_to(folder)} ({one.stat().st_size / MIB:.0f} MiB)" for one in files[:NAMED])
                raise UserError(
                    "--with",
                    expected=f"at most {MOST_BYTES // MIB} MiB, zipped: no dashboard takes more",
                    found=f"more; the largest are {largest}",
                    remedy="put data where the cluster finds it: a volume, or s3://",
                )


class _Counted(io.RawIOBase):
    """Takes bytes and only counts them."""

    num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        size = len(memoryview(data))  # type: ignore[arg-type]  # bytes of some kind
        self.num_bytes += size
        return size
