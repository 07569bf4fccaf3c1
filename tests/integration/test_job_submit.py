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
NOT_YET = ("No available agent", "Remote end closed connection without response")
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
    """The addresses of a head node of two CPUs on the loopback interface, and of its dashboard; nothing else ends with it.

    On a busy machine Ray may give up a start (it waits half a minute for a server of its own): then there is another.
    """
    for left in reversed(range(5)):
        with ExitStack() as stack:
            head, address, dashboard = _start_head(stack, more)
            if _up(f"{dashboard}/api/version", head):
                yield address, dashboard
                return
            assert left, "the head node ended, again and again"


def _start_head(stack: ExitStack, more: dict[str, str]) -> tuple["subprocess.Popen[bytes]", str, str]:
    """Its process, and the two addresses; ended with the stack."""
    gcs, board, client, agent, agent_grpc, runtime_env, metrics = free_ports(7)
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fp-", ignore_cleanup_errors=True))
    log = stack.enter_context((Path(directory) / "head.log").open("w"))
    command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={board}", f"--ray-client-server-port={client}"]
    # Another Ray on this machine has the usual ports of these, and an agent without its port takes no jobs.
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
    command += [f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}"]
    command += ["--object-store-memory=200000000", f"--temp-dir={directory}", "--disable-usage-stats"]
    head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment(**more), start_new_session=True)
    stack.callback(_end, head)
    return head, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{board}"


def _end(head: "subprocess.Popen[bytes]") -> None:
    head.terminate()
    try:
        head.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def _up(url: str, process: "subprocess.Popen[bytes]") -> bool:
    """Whether somebody answers there, before the process ends."""
    deadline = time.monotonic() + 600
    while process.poll() is None:
        assert time.monotonic() < deadline, "the head node did not come up"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except OSError:
            time.sleep(0.5)
    return False


@pytest.mark.ray
def test_a_node_that_cannot_import_is_named_with_the_file_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "diffusers.py").write_text("nothing = 'that the package has'")
    config = write_config(tmp_path, runtime={"backend": "ray", "hosts": 1, "cpus_per_host": 0.5, "start_timeout_seconds": 600})
    with head_node(PYTHONPATH=str(tmp_path)) as (address, _):
        command = fedphd("run", config, "--out", tmp_path / "run")
        env = environment(RAY_ADDRESS=address)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False, cwd="/")
    assert done.returncode == 2, done.stderr
    assert "error: node " in done.stderr, done.stderr
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
        if not any(words in done.stderr + done.stdout for words in NOT_YET) or time.monotonic() > deadline:
            break
        time.sleep(2)  # the head node answers before it takes jobs
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rounds"] == 3
    assert summary["params_final"] == 396_409
    assert "2 hosts" in summary["placement"]
