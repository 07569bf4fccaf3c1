"""`compare` and `stress` with --at-once: the figures of one run after the other, from processes that go on together."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from federations import TINY
from processes import command_line, descendants, environment, fedphd, on_this_machine, processes_below, require_ended, wait_for

from fedphd_ray.errors import RunFailedError, UserError
from fedphd_ray.experiments import comparison
from fedphd_ray.experiments.contenders import contenders
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.directory.status import Status

QUICK = {"evaluation": {"every": 2, "num_samples": 12, "steps": 2, "chunk_size": 12}, "checkpoint": {"every": 1}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | QUICK))
    return path


def compared(config: Path, out: Path, methods: str, at_once: int) -> tuple[list[comparison.Entry], list[str]]:
    def nobody(*_: object) -> None:
        pytest.fail("a run of its own process reports to nobody here")

    said: list[str] = []
    runs = comparison.planned(config, [], contenders(methods), 1)
    return comparison.compare(runs, out, nobody, said.append, at_once), said


def digests(out: Path, *methods: str) -> list[str]:
    found = [Summary.read(out / name / "seed-7") for name in methods]
    return [summary.model_sha256 for summary in found if summary is not None]


def test_the_figures_are_those_of_one_run_after_the_other(config: Path, tmp_path: Path) -> None:
    entries, said = compared(config, tmp_path / "together", "fedphd,fedavg,scaffold", 2)
    assert "2 runs at once" in said
    first = next(number for number, line in enumerate(said) if "finished, 1 of 3" in line)
    assert [line for line in said[:first] if line.endswith("seed 7")] == ["fedphd, seed 7", "fedavg, seed 7"]
    runs = comparison.planned(config, [], contenders("fedphd,fedavg,scaffold"), 1)
    from fedphd_ray.report.progress import ConsoleProgress  # noqa: PLC0415
    from fedphd_ray.terminal import errors  # noqa: PLC0415

    alone = comparison.compare(runs, tmp_path / "alone", lambda title, _: ConsoleProgress(errors, 4, title), said.append)
    for one, other in zip(entries, alone, strict=True):
        assert (one.label, one.points, one.end.round) == (other.label, other.points, other.end.round)
        assert one.summary.model_sha256 == other.summary.model_sha256
        assert one.summary.bytes_by_hop == other.summary.bytes_by_hop
    again, said = compared(config, tmp_path / "together", "fedphd,fedavg,scaffold", 2)
    assert again == entries
    assert sum("finished before" in line for line in said) == 3


def test_the_first_that_fails_ends_the_others(config: Path, tmp_path: Path) -> None:
    longer = "schedule.rounds=1000:pruning.mode=none"
    fails = "failures={quorum: 1.0, client_retries: 0}:faults=[{kind: nan, round: 20, client: 0}]:schedule.rounds=30"
    everybody = "schedule.clients_per_round=6"
    methods = f"fedavg:{longer},fedprox:{fails}:{everybody}"
    with pytest.raises(RunFailedError, match=r"fedprox.*, seed 7: round 20: .*failures\.quorum"):
        compared(config, tmp_path / "out", methods, 2)
    (stopped,) = (tmp_path / "out").glob("fedavg*/seed-7")
    assert not (stopped / "summary.json").exists()
    assert (status := Status.read(stopped)) is not None
    assert (status.state, status.why) == ("stopped", "stopped by SIGTERM")


@pytest.mark.ray
def test_runs_on_ray_share_a_session(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ray = [f"--set=runtime.{key}" for key in ("backend=ray", "cpus_per_host=0.5")]
    command = fedphd("compare", config, "--strategies", "fedphd,fedavg", "--at-once", 2, "--out", out, *ray)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        servers = set[int]()
        while process.poll() is None:
            servers |= {pid for pid in descendants(process.pid) if "gcs_server" in command_line(pid)}
            time.sleep(0.2)
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert "2 runs at once" in said
    assert len(servers) == 1
    settings = [yaml.safe_load((out / name / "seed-7/config.yaml").read_text())["runtime"] for name in ("fedphd", "fedavg")]
    assert [own["hosts"] for own in settings] == [2, 2]  # a half of the four that two cores have room for
    compared(config, tmp_path / "here", "fedphd,fedavg", 2)
    assert digests(out, "fedphd", "fedavg") == digests(tmp_path / "here", "fedphd", "fedavg")


def test_runs_of_different_runtimes_are_refused(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runtime"):
        compared(config, tmp_path / "out", "fedavg:runtime.hosts=1,fedprox", 2)
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_all_of_them(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    longer = ["--set", "schedule.rounds=5000", "--set", "pruning.round=2500"]
    command = fedphd("compare", config, "--strategies", "fedphd,fedavg", "--at-once", 2, "--out", out, *longer)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for name in ("fedphd", "fedavg"):
            wait_for(out / name / "seed-7/metrics.jsonl", process)
        children = processes_below(process.pid)
        assert len(children) >= 2
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=on_this_machine(20))
    assert process.returncode == 143
    assert "stopped by SIGTERM; the same command goes on where it was" in said
    require_ended(children)
