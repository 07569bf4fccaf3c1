"""Checkpoints on a real S3 server, over HTTP: a run, a kill, a resume to the same bits."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from federations import tiny
from processes import environment, fedphd
from ray_heads import free_ports

from fedphd_ray.runtime.directory.run_directory import Summary

KEYS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def server() -> Iterator[int]:
    """Its port."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(**KEYS)) as process:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/runs", method="PUT"), timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield port
        process.terminate()


def test_a_run_is_killed_and_goes_on_from_s3(server: int, tmp_path: Path) -> None:
    place = f"s3://runs/first/checkpoints?endpoint_override=127.0.0.1:{server}&scheme=http"
    sections = {"schedule": {"rounds": 14}, "checkpoint": {"every": 1, "keep": 2}, "local": {"optimizer_state": "per_client"}}
    config = tiny(**sections | {"checkpoint": {"every": 1, "keep": 2, "path": place}})
    path = tmp_path / "s3.yaml"
    path.write_text(config.to_yaml())
    env = environment(**KEYS)
    with subprocess.Popen(fedphd("run", path, "--out", tmp_path / "s3"), env=env, stdout=subprocess.DEVNULL) as run:
        metrics, deadline = tmp_path / "s3/metrics.jsonl", time.monotonic() + 600
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGKILL)
    assert not (tmp_path / "s3/checkpoints").exists()
    done = subprocess.run(fedphd("resume", tmp_path / "s3"), env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "resumed after round" in done.stdout
    here = tmp_path / "here.yaml"
    here.write_text(tiny(**sections).to_yaml())
    subprocess.run(fedphd("run", here, "--out", tmp_path / "here"), env=env, capture_output=True, check=True, timeout=600)
    summaries = [Summary.read(tmp_path / name) for name in ("s3", "here")]
    assert summaries[0] is not None
    assert summaries[1] is not None
    assert summaries[0].model_sha256 == summaries[1].model_sha256


def test_a_run_directory_on_s3_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(tiny().to_yaml())
    done = subprocess.run(
        fedphd("run", path, "--out", "s3://runs/first"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "checkpoint.path takes s3://" in done.stderr
    assert not (tmp_path / "s3:").exists()
