"""Every process, killed in every phase of a round: the run ends in the bits of a run that nothing happened to.

`make reliability` makes the table of docs/reliability.md of these cases.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import ray
from federations import Recorder, method
from phases import ON_RAY, PHASES, at_first_entry, record
from processes import command_line

from fedphd_ray.config import load_config
from fedphd_ray.federation.channel.ledger import read_ledger
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool

ROUND = 2
SECTIONS: dict[str, object] = {
    "evaluation": {"every": 2, "num_samples": 20, "steps": 2},
    "checkpoint": {"every": 1, "keep": 2},
    "runtime": {"backend": "local", "placement": "pooled", "hosts": 2, "cpus_per_host": 0.1, "gpus_per_host": 0.1},
}
CONFIG = method("fedphd with kept moments", **SECTIONS)


@cache
def undisturbed() -> tuple[Summary, float]:
    """The run that nothing happens to, in one process, and its seconds."""
    import tempfile  # noqa: PLC0415

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        return runs.run(CONFIG.build(), Path(directory) / "run", Recorder()), time.monotonic() - began


def require_same(summary: Summary, directory: Path) -> None:
    """The model, the bytes of first sendings, and the rows and lines behind them; what was sent again is marked as such."""
    assert summary.model_sha256 == undisturbed()[0].model_sha256
    assert summary.failures == []
    rows = read_ledger(directory / "ledger").to_pylist()
    assert sum(row["num_bytes"] for row in rows) == sum(summary.bytes_by_hop.values())
    again = [row for row in rows if row["attempt"] > 0]
    once = [row["destination"] if row["destination"].startswith("client/") else row["source"] for row in again]
    assert all(name.startswith("client/") for name in once)
    # A client's second download comes beside its first; its upload comes once, whichever training it is of.
    downloads = sum(row["num_bytes"] for row in again if row["destination"].startswith("client/"))
    assert sum(summary.bytes_by_hop.values()) - downloads == sum(undisturbed()[0].bytes_by_hop.values())


@pytest.mark.ray
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", ["host", "edge"])
def test_an_actor_killed_in_any_phase_changes_no_bit(
    victim: str, phase: str, actor_pool: ActorPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = actor_pool.hosts if victim == "host" else actor_pool.servers
    pid = int(ray.get(actors[0].__ray_call__.remote(lambda _: os.getpid()), timeout=600))
    config = CONFIG.model_copy(update={"runtime": CONFIG.runtime.model_copy(update={"backend": "ray"})})

    def replaced_seconds(run: Callable[[], Summary]) -> tuple[Summary, float]:
        began = time.monotonic()
        return run(), time.monotonic() - began

    owner, name = ON_RAY[phase]
    strike = at_first_entry(monkeypatch.setattr, owner, name, ROUND, lambda: os.kill(pid, signal.SIGKILL))
    summary, seconds = replaced_seconds(lambda: runs.run(config.build(), tmp_path / "run", Recorder(), pool=actor_pool))
    assert strike["done"], "the fault never struck"
    assert not command_line(pid), "the process that was to die is alive"
    assert summary.replacements, "nobody noticed that it died"
    require_same(summary, tmp_path / "run")
    record(f"{victim} killed", phase, f"replaced ({summary.replacements[0].partition(':')[0]})", seconds, same=True)
    _make_whole(actor_pool)


def _make_whole(pool: ActorPool) -> None:
    """What died unnoticed is replaced for the tests that follow."""
    for actor in [*pool.hosts[:2], *pool.servers[:2]]:
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=600)
        except ray.exceptions.RayActorError:
            pool.replace(actor, "found dead after a test")


DRIVER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from federations import Recorder
from phases import IN_ONE_PROCESS, at_first_entry
from fedphd_ray.config import load_config
from fedphd_ray.runtime.driver import run as runs
owner, name = IN_ONE_PROCESS[sys.argv[2]]
at_first_entry(setattr, owner, name, int(sys.argv[4]), lambda: os.kill(os.getpid(), signal.SIGKILL))
config = load_config(Path(sys.argv[1]) / "config.yaml")
runs.run(config.build(), Path(sys.argv[1]) / "run", Recorder(), config_yaml=config.to_yaml())
"""


@pytest.mark.parametrize("phase", PHASES)
def test_a_driver_killed_in_any_phase_goes_on_to_the_same_bits(phase: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.to_yaml())
    tests = str(Path(__file__).parent.parent)
    arguments = [str(tmp_path), phase, tests, str(ROUND)]
    done = subprocess.run([sys.executable, "-c", DRIVER, *arguments], check=False, timeout=600, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    directory, lines = tmp_path / "run", list[str]()
    began = time.monotonic()
    summary = runs.resume(load_config(directory / "config.yaml").build(), directory, Recorder(), lines.append)
    require_same(summary, directory)
    rounds = [json.loads(line)["round"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rounds == [1, 2, 3, 4]
    record("driver killed", phase, f"`fedphd resume`: {lines[-1]}", time.monotonic() - began, same=True)
