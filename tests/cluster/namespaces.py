"""Several hosts on one machine: network namespaces on a bridge, each with an address of its own and a Ray node in it."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IP = shutil.which("ip") or "/usr/sbin/ip"
RAY = str(Path(sys.executable).parent / "ray")
SUBNET = "10.213.7"
TRIES = 5


def ip(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """The command of that name."""
    return subprocess.run([IP, *words], check=check, capture_output=True, text=True)


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if not Path(IP).exists():
        return "no ip command (iproute2)"
    name = f"fp{secrets.token_hex(3)}"
    made = ip("netns", "add", name, check=False)
    if made.returncode:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    joined = ip("link", "add", f"{name}b", "type", "bridge", check=False)
    ip("link", "delete", f"{name}b", check=False)
    ip("netns", "delete", name, check=False)
    return f"bridges cannot be made: {joined.stderr.strip()}" if joined.returncode else ""


@dataclass
class Host:
    """One of them."""

    name: str
    namespace: str
    address: str
    temporary: Path
    processes: list["subprocess.Popen[Any]"] = field(default_factory=list)

    def command(self, *words: object) -> list[str]:
        """What runs a command on it."""
        return [IP, "netns", "exec", self.namespace, *map(str, words)]

    def run(self, *words: object, env: Mapping[str, str], timeout: float = 600) -> "subprocess.CompletedProcess[str]":
        """Runs a command on it to its end."""
        return subprocess.run(self.command(*words), env=env, capture_output=True, text=True, check=False, timeout=timeout)

    def start(self, *words: object, env: Mapping[str, str]) -> "subprocess.Popen[str]":
        """Starts a command on it."""
        process = subprocess.Popen(self.command(*words), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        return process

    def cut_off(self) -> None:
        """Nobody reaches it any more, and it reaches nobody."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")

    def num_bytes(self) -> tuple[int, int]:
        """That have come in and gone out."""
        folder = "/sys/class/net/eth0/statistics"
        counts = subprocess.run(
            self.command("cat", f"{folder}/rx_bytes", f"{folder}/tx_bytes"), check=True, capture_output=True, text=True
        )
        received, sent = map(int, counts.stdout.split())
        return received, sent


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    """So many hosts that see each other and nobody else."""
    tag = secrets.token_hex(2)
    bridge, made = f"fp{tag}", dict[str, Host]()
    with tempfile.TemporaryDirectory(prefix="fp-", ignore_cleanup_errors=True) as directory, contextlib.ExitStack() as stack:
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "delete", bridge, check=False)
        ip("link", "set", bridge, "up")
        for number, name in enumerate(names, start=1):
            own, link = f"fp{tag}{name}", f"fp{tag}{number}"
            ip("netns", "add", own)
            stack.callback(ip, "netns", "delete", own, check=False)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", own)
            ip("link", "set", link, "master", bridge, "up")
            ip("-n", own, "address", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
            ip("-n", own, "link", "set", "eth0", "up")
            ip("-n", own, "link", "set", "lo", "up")
            temporary = Path(directory) / name
            temporary.mkdir()
            made[name] = Host(name, own, f"{SUBNET}.{number}", temporary)
        try:
            yield made
        finally:
            for host in made.values():
                _end(host)


def bring_up(host: Host, head: Host, number: int, *arguments: str, env: Mapping[str, str]) -> None:
    """A Ray node on a host, which ends with it; returns when so many nodes are up.

    On a busy machine Ray may give up a start (it waits half a minute for a server of its own): then there is another.
    """
    command = [RAY, "start", "--block", f"--node-ip-address={host.address}", f"--temp-dir={host.temporary}", *arguments]
    command += ["--object-store-memory=200000000", "--disable-usage-stats"]
    for left in reversed(range(TRIES)):
        with (host.temporary / "node.log").open("w") as log:
            node = subprocess.Popen(host.command(*command), env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        host.processes.append(node)
        deadline = time.monotonic() + 600
        while node.poll() is None:
            if _nodes(head, env) >= number:
                return
            assert time.monotonic() < deadline, f"{host.name} has not joined"
            time.sleep(0.5)
        assert left, f"{host.name} ended, again and again: {(host.temporary / 'node.log').read_text()[-2000:]}"


def _nodes(head: Host, env: Mapping[str, str]) -> int:
    try:
        return head.run(RAY, "status", f"--address={head.address}:6379", env=env, timeout=60).stdout.count(" node_")
    except subprocess.TimeoutExpired:
        return 0


def _end(host: Host) -> None:
    for process in host.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
    pids = ip("netns", "pids", host.namespace, check=False).stdout.split()  # Ray's servers have sessions of their own
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def wait_until(what: str, seconds: float, done: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Until something is so, while a process goes on.

    Raises:
        AssertionError: it is not, in time.
    """
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)
