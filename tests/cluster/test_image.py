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


def of_users() -> dict[str, str]:
    """An environment that knows nothing of this checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"TORCH_INDEX": ""}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the image's steps have installed the package: its virtual environment."""
    place, env = tmp_path_factory.mktemp("image"), of_users()
    source, target = place / "src", place / "opt"
    source.mkdir()
    for step in steps():
        kind, _, rest = step.partition(" ")
        if kind == "COPY":
            *names, folder = rest.split()
            for name in names:
                destination = source / (name if folder == "./" else folder)
                subprocess.run(["cp", "-r", ROOT / name, destination], check=True)
        elif kind == "RUN":
            command = rest.replace("/opt/fedphd", str(target)).replace("python -m venv", f"{sys.executable} -m venv")
            done = subprocess.run(["bash", "-c", command], cwd=source, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return target


@pytest.mark.image
def test_the_steps_of_the_image_give_a_working_command(installed: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        command = [installed / "bin/fedphd", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=of_users(), capture_output=True, text=True, check=False)
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


@pytest.mark.image
def test_the_quick_start_works_as_it_stands(installed: Path, tmp_path: Path) -> None:
    """Every command of the page from `fedphd init` on, in its order, with nothing but the installed wheel."""
    page = (ROOT / "docs/quickstart.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", page[page.index("## From a wheel") :], re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    commands = list(dict.fromkeys(line for line in lines if line.startswith("fedphd ")))
    assert len(commands) == 5
    env = of_users() | {"PATH": f"{installed / 'bin'}:{os.environ['PATH']}"}
    for command in commands:
        (run_directory,) = tmp_path.glob("runs/*") if "RUN_DIR" in command else ("",)
        told = command.replace("RUN_DIR", str(run_directory))
        done = subprocess.run(["bash", "-c", told], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{told}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert list(tmp_path.glob("runs/*/report.html"))
