"""A real job on a real cluster: a head node, `ray job submit`, `fedphd submit`, a run directory."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from processes import fedphd, write_config
from ray_heads import RAY, ROOT, environment, free_ports, head_node, job

SHORT = (
    "schedule.rounds=3",
    "pruning.round=2",
    "local.epochs=1",
    "local.batch_size=64",
    "evaluation.every=0",
    "checkpoint.every=1",
)


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
        by_ray, by_us = tmp_path / "ray", tmp_path / "us"
        options = [option for override in SHORT for option in ("--set", override)]
        done = job(
            RAY,
            "job",
            "submit",
            f"--address={dashboard}",
            f"--working-dir={ROOT}",
            "--",
            "python",
            "-m",
            "fedphd_ray",
            "run",
            "examples/digits.yaml",
            "--out",
            by_ray,
            *options,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        summary = json.loads((by_ray / "summary.json").read_text())
        assert (summary["rounds"], summary["params_final"]) == (3, 396_409)
        assert "2 hosts" in summary["placement"]

        # Ours without hosts of their own: the same bits, in less time.
        options += ["--set", "runtime={backend: local}"]
        submit = fedphd("submit", ROOT / "examples/digits.yaml", "--address", dashboard, "--out", by_us, "--with-code", *options)
        done = job(*submit)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert "round 3/3" in done.stdout
        assert json.loads((by_us / "summary.json").read_text())["model_sha256"] == summary["model_sha256"]
        done = job(*submit, "--set", "seed=1")  # another run in its place: the job's own exit code
        assert done.returncode == 2, done.stdout
        assert "seed: 1 instead of 2025" in done.stdout


def test_nobody_at_the_address_is_one_message(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    submit = fedphd("submit", ROOT / "examples/digits.yaml", "--address", f"http://127.0.0.1:{port}", "--out", tmp_path / "run")
    done = job(*submit)
    assert done.returncode == 2, done.stderr
    assert "the dashboard of a Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_too_large_for_a_job_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(101 * 2**20))
    (tmp_path / "small").write_bytes(b"x")
    options = ("--with", tmp_path / "large", "--with", tmp_path / "small", "--address", "http://127.0.0.1:1", "--out", "x")
    done = job(*fedphd("submit", ROOT / "examples/digits.yaml", *options))
    assert done.returncode == 2
    assert "at most 100 MiB" in done.stderr
    assert "large (101 MiB)" in done.stderr
