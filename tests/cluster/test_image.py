"""The Dockerfile's steps without a Docker engine: an installation of the wheel that works in an empty environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster/Dockerfile"


def steps() -> list[str]:
    """Instructions of the first stage, lines joined."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text())
    stages = re.split(r"^FROM .*$", text, flags=re.MULTILINE)
    return [line for line in stages[1].splitlines() if line and not line.startswith("#")]


def test_every_file_that_is_copied_is_in_the_context() -> None:
    ignored = (ROOT / "cluster/Dockerfile.dockerignore").read_text().splitlines()
    for step in steps():
        if step.startswith("COPY"):
            for name in step.split()[1:-1]:
                assert (ROOT / name).exists()
                assert f"!{name}" in ignored


@pytest.mark.image
def test_the_steps_of_the_image_give_a_working_command(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"TORCH_INDEX": ""}
    for step in steps():
        kind, _, rest = step.partition(" ")
        if kind == "COPY":
            *names, place = rest.split()
            for name in names:
                destination = source / (name if place == "./" else place)
                subprocess.run(["cp", "-r", ROOT / name, destination], check=True)
        elif kind == "RUN":
            command = rest.replace("/opt/fedphd", str(target)).replace("python -m venv", f"{sys.executable} -m venv")
            done = subprocess.run(["bash", "-c", command], cwd=source, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    fedphd = target / "bin/fedphd"

    def run(*arguments: object) -> str:
        done = subprocess.run([fedphd, *map(str, arguments)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert '"fedphd-ray": "0.2.0"' in run("--version")
    run("init", tmp_path / "new", "--data", "digits")  # the examples came with the wheel
    short = (
        "--set",
        "schedule.rounds=2",
        "--set",
        "pruning.round=1",
        "--set",
        "evaluation.every=0",
        "--set",
        "runtime.backend=local",
    )
    run("run", tmp_path / "new/digits.yaml", "--out", tmp_path / "run", *short)
    run("report", tmp_path / "run")  # and so did the template of the page
    assert (tmp_path / "run/report.html").stat().st_size > 500_000
