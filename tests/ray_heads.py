"""A head node of Ray for tests that need a cluster and not a session, and jobs on it."""

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

ROOT = Path(__file__).parents[1]
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
def head_node(metrics_port: int = 0, **more: str) -> Iterator[tuple[str, str]]:
    """The addresses of a head node of two CPUs on the loopback interface, and of its dashboard; nothing else ends with it.

    On a busy machine Ray may give up a start (it waits half a minute for a server of its own): then there is another.
    """
    for left in reversed(range(5)):
        with ExitStack() as stack:
            head, address, dashboard = _start_head(stack, metrics_port, more)
            if _up(f"{dashboard}/api/version", head):
                yield address, dashboard
                return
            assert left, "the head node ended, again and again"


def _start_head(stack: ExitStack, metrics_port: int, more: dict[str, str]) -> tuple["subprocess.Popen[bytes]", str, str]:
    """Its process, and the two addresses; ended with the stack."""
    gcs, board, client, agent, agent_grpc, runtime_env, metrics = free_ports(7)
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fp-", ignore_cleanup_errors=True))
    log = stack.enter_context((Path(directory) / "head.log").open("w"))
    command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={board}", f"--ray-client-server-port={client}"]
    # Another Ray on this machine has the usual ports of these, and an agent without its port takes no jobs.
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
    command += [f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics_port or metrics}"]
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


def job(*command: object) -> "subprocess.CompletedProcess[str]":
    """A command that submits a job, again while the head node answers and takes none yet."""
    deadline = time.monotonic() + 600
    while True:
        done = subprocess.run([*map(str, command)], env=environment(), capture_output=True, text=True, timeout=600, check=False)
        if not any(words in done.stderr + done.stdout for words in NOT_YET) or time.monotonic() > deadline:
            return done
        time.sleep(2)
