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
from federations import Recorder, federate, first_sendings, method
from processes import EVERY_ROUND, NAME, command_line, environment, fedphd, processes_below, wait_for, write_config

from fedphd_ray.config import load_config
from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.federation.channel.ledger import read_ledger
from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.topology import Hop

pytestmark = pytest.mark.soak
LONGER: dict[str, object] = {"schedule": {"rounds": 24}, "pruning": {"round": 10}}
DEVICES: dict[str, object] = {
    "schedule": {"rounds": 24, "clients_per_round": 3, "policy": {"name": "buffered", "size": 2}},
    "pruning": {"round": 10},
    "devices": {
        "classes": [
            {"name": "quick", "macs_per_second": 1e9, "download_mbit": 50, "upload_mbit": 10},
            {"name": "slow", "share": 0.5, "macs_per_second": 1e8, "download_mbit": 5, "upload_mbit": 1, "latency_ms": 100},
        ],
        "edges": {"client_mbit": 20},
        "availability": {"name": "markov", "leave": 0.3, "join": 0.6},
        "dropout": {"training": 0.1, "upload": 0.15},
    },
}
"""Updates of old versions are on their way at any moment: a round ends in mid-buffer."""
RAY: dict[str, object] = {"runtime": {"backend": "ray", "placement": "pooled", "hosts": 2, "cpus_per_host": 0.5}}


@pytest.mark.parametrize(("longer", "kills"), [(LONGER, 30), (DEVICES, 15)], ids=["plain", "devices"])
def test_a_driver_killed_at_random_moments_always_goes_on_to_the_same_bits(
    longer: dict[str, object], kills: int, tmp_path: Path
) -> None:
    """At the start now and then, else in one of 24 rounds."""
    whole = runs.run(method(NAME, **EVERY_ROUND, **longer).build(), tmp_path / "whole", Recorder())
    books = read_ledger(tmp_path / "whole/ledger")
    moments, children, seen = random.Random(2025), set[int](), list[int]()
    for kill in range(kills):
        directory = tmp_path / f"{kill}"
        directory.mkdir()
        config = write_config(directory, **RAY, **longer)
        command = fedphd("run", config, "--out", directory / "run")
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        ) as process:
            if kill % 6:
                wait_for(directory / "run/config.yaml", process)
            deadline = time.monotonic() + moments.uniform(0.0, 4.0)
            while time.monotonic() < deadline and process.poll() is None:
                children |= processes_below(process.pid)
                time.sleep(0.05)
            process.kill()
        metrics = directory / "run/metrics.jsonl"
        seen.append(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
        print(f"kill {kill + 1}: {seen[-1]} of 24 rounds written", flush=True)
        if not (directory / "run/run.json").exists():  # killed before there was a run
            continue
        chosen = load_config(directory / "run/config.yaml", ["runtime.backend=local"])
        without = not list((directory / "run/checkpoints").glob("round-*/state.json"))
        resumed = runs.resume(chosen.build(), directory / "run", Recorder(), restart=without)
        assert resumed.model_sha256 == whole.model_sha256
        assert resumed.bytes_by_hop == whole.bytes_by_hop
        assert resumed.sim_seconds == whole.sim_seconds
        assert read_ledger(directory / "run/ledger").drop_columns("attempt") == books.drop_columns("attempt")
        assert [json.loads(line)["round"] for line in metrics.read_text().splitlines()] == list(range(1, 25))
    assert len({rounds for rounds in seen if 0 < rounds < 24}) > kills // 6, "the moments were not spread over the run"
    deadline = time.monotonic() + 600
    while alive := {pid: line for pid in children if (line := command_line(pid))}:
        assert time.monotonic() < deadline, alive
        time.sleep(1)


@pytest.mark.ray
def test_hosts_and_edges_killed_at_random_for_a_whole_run_change_no_bit(ray_cluster: None) -> None:
    sections: dict[str, object] = {
        "schedule": {"rounds": 200},
        "pruning": {"round": 100},
        "failures": {"client_retries": 20},
        "runtime": {"cpus_per_host": 0.5, "placement": "pooled", "hosts": 2, "max_replacements": 1000},
    }
    config = method(NAME, **sections)
    expected = federate(config)
    from fedphd_ray.runtime.on_ray.backend import RayBackend  # noqa: PLC0415
    from fedphd_ray.runtime.policy.placement import Placement  # noqa: PLC0415

    class Spoken(Recorder):
        def on_round(self, record: RoundRecord, quality: QualityReport | None) -> None:
            super().on_round(record, quality)
            if record.round % 20 == 0:
                print(f"round {record.round} of 200, {len(killed)} kills", flush=True)

    chance, stopped, killed, recorder = random.Random(2025), threading.Event(), list[str](), Spoken()
    with ActorPool(config.runtime) as pool:
        backend = RayBackend(config.build().host_setup(), Placement(2, False, ""), config.runtime, pool)

        def kill_now_and_then() -> None:
            """Again after 0 to 19 rounds, and anywhere in one: a clock would kill a slow machine's actors as they start."""
            due = 0
            while not stopped.wait(chance.uniform(0.0, 0.3)):
                if len(recorder.rounds) < due:
                    continue
                due = len(recorder.rounds) + chance.randrange(20)
                kind, number = chance.choice(["hosts", "servers"]), chance.randrange(2)
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
            outcome = federate(config, backend, reporter=recorder)
        finally:
            stopped.set()
            killer.join()
    print(f"{len(killed)} kills: {', '.join(killed)}; {len(pool.replacements)} noticed", flush=True)
    assert len(killed) >= 10
    assert outcome.sha256 == expected.sha256
    assert first_sendings(outcome.transfers) == first_sendings(expected.transfers)
    again = [row for row in outcome.transfers if row.attempt and row.hop == Hop("edge_to_client")]
    print(f"{len(again)} rows of second downloads", flush=True)
    assert again
    assert not outcome.state.failures
