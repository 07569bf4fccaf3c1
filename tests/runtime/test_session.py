"""Starts of Ray that do not succeed: tried again where the machine is busy, told in words elsewhere."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedphd_ray.errors import ResourceError
from fedphd_ray.runtime.on_ray import session

BUSY = "The current node timed out during startup. This could happen because some of the raylet failed to startup"
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


class Starts:
    """Ray that starts a server each time, and gives up some times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error = failures, error
        self.servers: list[subprocess.Popen[bytes]] = []

    def init(self, **_: object) -> None:
        self.servers.append(subprocess.Popen(SLEEPER))
        if len(self.servers) <= self.failures:
            raise self.error


def test_a_start_that_took_too_long_is_tried_again_without_its_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Starts(2, Exception(BUSY))
    monkeypatch.setattr(session.ray, "init", ray.init)
    other = subprocess.Popen(SLEEPER)
    try:
        session._start_servers("name", 1, str(tmp_path))
        assert len(ray.servers) == 3
        assert [server.wait(60) for server in ray.servers[:2]] == [-9, -9]
        assert other.poll() is None
        assert ray.servers[2].poll() is None
    finally:
        for process in (other, *ray.servers):
            process.kill()
            process.wait()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("failures", "error", "tried"), [(9, Exception(BUSY), 3), (9, RuntimeError("no memory"), 1)])
def test_a_start_that_fails_is_told_in_words(
    failures: int, error: Exception, tried: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Starts(failures, error)
    monkeypatch.setattr(session.ray, "init", ray.init)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        with (
            pytest.raises(ResourceError, match="a local start"),
            session._connected(lambda: session._start_servers("name", 1, str(tmp_path)), str(tmp_path)),
        ):
            pytest.fail("it has not started")
        assert len(ray.servers) == tried
    finally:
        for process in ray.servers:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["m" * 60, "å"])
def test_ray_is_given_a_short_place_whatever_the_temporary_directory_is_called(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual one of a Mac is already too long for the sockets that Ray puts below it."""
    with tempfile.TemporaryDirectory(prefix=name, dir="/tmp") as place:
        monkeypatch.setattr(session.tempfile, "tempdir", place)
        directory = Path(session._short_directory())
        directory.rmdir()
        assert str(directory.parent) == "/tmp"
        monkeypatch.setattr(session.os, "access", lambda *_: False)
        with pytest.raises(ResourceError) as refused:
            session._short_directory()
        assert f"{session.LONGEST_PLACE} ASCII letters" in str(refused.value)
        assert place in str(refused.value)
