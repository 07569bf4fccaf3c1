"""A real job on a real cluster: a head node, `ray job submit`, a run directory."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from processes import fedphd, write_config

ROOT = Path(__file__).parent.parent.parent
RAY = str(Path(sys.executable).parent / "ray")


def free_ports(num: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(**more: str) -> dict[str, str]:
    """As on a cluster's node: this interpreter is the `python` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}  # the tests' own settings
    patient = {"RAY_worker_register_timeout_seconds": "600", "RAY_worker_niceness": "0"}  # beside other tests
    return inherited | patient | {"PATH": path, "RAY_AUTH_MODE": "disabled"} | more


@contextmanager
def head_node(**more: str) -> Iterator[tuple[str, str]]:
    """The addresses of a head node of two CPUs on the loopback interface, and of its dashboard; nothing else ends with it."""
    gcs, board, client, agent, agent_grpc, runtime_env, metrics = free_ports(7)
    with tempfile.TemporaryDirectory(prefix="fp-") as directory, (Path(directory) / "head.log").open("w") as log:
        command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={board}", f"--ray-client-server-port={client}"]
        # Another Ray on this machine has the usual ports of these, and an agent without its port takes no jobs.
        command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
        command += [f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}"]
        command += ["--object-store-memory=200000000", f"--temp-dir={directory}", "--disable-usage-stats"]
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment(**more), start_new_session=True)
        address = f"http://127.0.0.1:{board}"
        try:
            _wait_for(f"{address}/api/version", head)
            yield f"127.0.0.1:{gcs}", address
        finally:
            head.terminate()
            try:
                head.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 600
    while True:
        assert process.poll() is None, "the head node ended"
        assert time.monotonic() < deadline, "the head node did not come up"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)


@pytest.mark.ray
def test_a_node_that_cannot_import_is_named_with_the_file_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "diffusers.py").write_text("nothing = 'that the package has'")
    config = write_config(tmp_path, runtime={"backend": "ray", "hosts": 1, "cpus_per_host": 0.5})
    with head_node(PYTHONPATH=str(tmp_path)) as (address, _):
        command = fedphd("run", config, "--out", tmp_path / "run")
        env = environment(RAY_ADDRESS=address)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False, cwd="/")
    assert done.returncode == 2, done.stderr
    _, _, message = done.stderr.partition("error: node ")
    assert f"{tmp_path / 'diffusers.py'} takes the place of the package 'diffusers'" in message
    assert "rename a file" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.ray
def test_the_example_runs_as_a_job(tmp_path: Path) -> None:
    with head_node() as (_, dashboard):
        _submit_the_example(dashboard, tmp_path / "run")


def _submit_the_example(dashboard: str, out: Path) -> None:
    command = [RAY, "job", "submit", f"--address={dashboard}", f"--working-dir={ROOT}", "--"]
    command += ["python", "-m", "fedphd_ray", "run", "examples/digits.yaml", "--out", str(out)]
    for override in ("schedule.rounds=3", "pruning.round=2", "local.epochs=1", "local.batch_size=64", "evaluation.every=0"):
        command += ["--set", override]
    deadline = time.monotonic() + 600
    while True:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, check=False)
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
            break
        time.sleep(2)  # the head node answers before it takes jobs
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rounds"] == 3
    assert summary["params_final"] == 396_409
    assert "2 hosts" in summary["placement"]
