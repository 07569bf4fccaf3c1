"""Memory settings of a process, each seen in a process of its own."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, torch
from pathlib import Path
from fedphd_ray.system.memory import keep_freed_memory

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
vectors = [torch.ones(2**21) for _ in range(8)]  # 8 MiB each
del vectors
print(resident() - before)
"""


def kept_bytes(setting: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, setting], capture_output=True, text=True, check=True, timeout=600)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_stays_for_the_next_vectors() -> None:
    assert kept_bytes("leave") < 32 * 2**20
    assert kept_bytes("keep") >= 60 * 2**20


def test_an_edge_server_loads_no_diffusers() -> None:
    """Its process holds as little as there is to adding up: half of what a host needs."""
    heavy = "{'diffusers', 'ray'}"
    program = f"import sys, fedphd_ray.runtime.workers.edge_server; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command", [["evaluate", "nowhere"], ["sample", "nowhere", "--out", "x.png"]], ids=lambda words: words[0]
)
def test_threads_are_told_to_sleep_before_torch_reads_how_they_wait(command: list[str]) -> None:
    """Beside a busy process, threads that spin make drawing thirty times slower."""
    program = f"""
import os, sys
from fedphd_ray import cli
assert "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ
sys.argv[1:] = {command!r}
try:
    cli.main()
finally:
    print(os.environ["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout.split()[-1]) == (2, "PASSIVE"), done.stderr
