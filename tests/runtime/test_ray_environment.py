"""What Ray finds in its environment, each in a process of its own because Ray reads some of it while it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def outcome(program: str, **environment: str) -> str:
    """What a program prints that is run with nothing said about authentication but what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=clean | environment, timeout=600
    )
    return done.stdout.strip()


PREPARE = "import os; from fedphd_ray.runtime.on_ray.environment import prepare_environment as p; p(); e = os.environ; "


def test_a_session_of_its_own_has_a_token_that_is_never_the_same() -> None:
    program = PREPARE + "print(e['RAY_AUTH_MODE'], e['RAY_AUTH_TOKEN'])"
    first, second = outcome(program).split(), outcome(program).split()
    assert first[0] == second[0] == "token"
    assert len(first[1]) == 64
    assert first[1] != second[1]


def test_what_the_user_says_is_kept() -> None:
    assert outcome(PREPARE + "print(e['RAY_AUTH_MODE'], 'RAY_AUTH_TOKEN' in e)", RAY_AUTH_MODE="disabled") == "disabled False"


def test_a_cluster_that_says_nothing_has_no_token() -> None:
    assert outcome(PREPARE + "print(e['RAY_AUTH_MODE'])", RAY_ADDRESS="127.0.0.1:6379") == "disabled"


SOCKETS = """
import os, sys, time
if sys.argv[1] == "before":
    import ray
from pathlib import Path
from fedphd_ray.runtime.on_ray.environment import prepare_environment
prepare_environment()
from fedphd_ray.runtime.on_ray.session import ray_session
with ray_session("sockets", 0):
    import ray
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=600) == 1
    time.sleep(3)  # agents come late
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    inodes = set()
    for pid in found:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(link).removeprefix("socket:[").rstrip("]"))
            except OSError:
                pass
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                print("listens", fields[1].partition(":")[0])
    print("mode", os.environ["RAY_AUTH_MODE"])
    print("folder", oct(Path(ray._private.worker._global_node.get_session_dir_path()).parent.stat().st_mode & 0o777))
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables of sockets")
@pytest.mark.parametrize(("order", "mode"), [("after", "token"), ("before", "disabled")])
def test_a_session_of_its_own_is_reached_from_this_machine_only(order: str, mode: str) -> None:
    """Every port of every process; also where Ray was imported first, which then knows of no token."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", SOCKETS, order]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean, timeout=600)
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    listening = [address for word, address in words if word == "listens"]
    assert len(listening) > 5
    assert all(address.endswith("0100007F") for address in listening), listening  # 127.0.0.1, little-endian
    assert ["mode", mode] in words
    assert ["folder", "0o700"] in words
