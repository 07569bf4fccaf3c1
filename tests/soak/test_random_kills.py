"""Killed at random, for minutes: `make soak`. The moments come from a seed, so that a failure can be looked at again."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import ray
from federations import Recorder, federate, method, reference
from processes import EVERY_ROUND, NAME, command_line, environment, fedphd, processes_below, write_config

from fedphd_ray.config import load_config
from fedphd_ray.federation.ledger import read_ledger
from fedphd_ray.runtime import run as runs
from fedphd_ray.runtime.actor_pool import ActorPool

pytestmark = pytest.mark.soak
KILLS = 30
RAY: dict[str, object] = {"runtime": {"backend": "ray", "placement": "pooled", "hosts": 2, "cpus_per_host": 0.5}}


def test_a_driver_killed_at_random_moments_always_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = runs.run(method(NAME, **EVERY_ROUND).build(), tmp_path / "whole", Recorder())
    rows = read_ledger(tmp_path / "whole/ledger").num_rows
    moments, children = random.Random(2025), set[int]()
    for kill in range(KILLS):
        directory = tmp_path / f"{kill}"
        directory.mkdir()
        config = write_config(directory, **RAY)
        seconds = moments.uniform(1.0, 14.0)
        command = fedphd("run", config, "--out", directory / "run")
        with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and process.poll() is None:
                children |= processes_below(process.pid)
                time.sleep(0.1)
            process.kill()
        rounds = (
            len((directory / "run/metrics.jsonl").read_text().splitlines()) if (directory / "run/metrics.jsonl").exists() else 0
        )
        print(f"kill {kill + 1} after {seconds:.1f} s, {rounds} rounds written", flush=True)
        if not (directory / "run/config.yaml").exists():  # killed before there was a run
            continue
        chosen = load_config(directory / "run/config.yaml", ["runtime.backend=local"])
        resumed = runs.resume(chosen.build(), directory / "run", Recorder())
        assert resumed.model_sha256 == whole.model_sha256 == reference(NAME)
        assert resumed.bytes_by_hop == whole.bytes_by_hop
        assert read_ledger(directory / "run/ledger").num_rows == rows
        lines = (directory / "run/metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["round"] for line in lines] == [1, 2, 3, 4]
    deadline = time.monotonic() + 120
    while alive := {pid: line for pid in children if (line := command_line(pid))}:
        assert time.monotonic() < deadline, alive
        time.sleep(1)


@pytest.mark.ray
def test_hosts_and_edges_killed_at_random_for_a_whole_run_change_no_bit(ray_cluster: None) -> None:
    sections: dict[str, object] = {
        "schedule": {"rounds": 40},
        "pruning": {"round": 20},
        "failures": {"client_retries": 20},
        "runtime": {"cpus_per_host": 0.5, "placement": "pooled", "hosts": 2, "max_replacements": 1000},
    }
    config = method(NAME, **sections)
    expected = federate(config)
    from fedphd_ray.runtime.placement import Placement  # noqa: PLC0415
    from fedphd_ray.runtime.ray_backend import RayBackend  # noqa: PLC0415

    chance, stopped, killed = random.Random(2025), threading.Event(), list[str]()
    with ActorPool(config.runtime) as pool:
        backend = RayBackend(config.build().host_setup(), Placement(2, False, ""), config.runtime, pool)

        def kill_now_and_then() -> None:
            while not stopped.wait(chance.uniform(0.5, 3.0)):
                kind, number = chance.choice(["hosts", "edges"]), chance.randrange(2)
                try:
                    actor = getattr(pool, kind)[number]
                    pid = int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=20))
                    os.kill(pid, signal.SIGKILL)
                    killed.append(f"{kind}[{number}]")
                except (ray.exceptions.RayError, ProcessLookupError):
                    continue  # it is dead already

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            outcome = federate(config, backend)
        finally:
            stopped.set()
            killer.join()
    print(f"{len(killed)} kills: {', '.join(killed)}; {len(pool.replacements)} noticed", flush=True)
    assert len(killed) >= 10
    assert outcome.sha256 == expected.sha256
    assert outcome.transfers == expected.transfers
    assert not outcome.state.failures
