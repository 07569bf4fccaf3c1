"""Run directories from strangers, or damaged: every command gives the right bits, or one message; soon, and in little memory."""

import os
import resource
import shutil
import time
from pathlib import Path

import pytest
from federations import Recorder, method
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from processes import fedphd_in_process_code, within

from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs

NAME = "fedphd with kept moments"
SECTIONS: dict[str, object] = {
    "checkpoint": {"every": 1, "keep": 2},
    "evaluation": {"every": 4, "num_samples": 4, "steps": 2},
    "schedule": {"rounds": 2, "clients_per_round": 2},
    "pruning": {"round": 1},
}
KINDS = ["cut", "flip", "garbage", "missing", "swapped", "renamed", "pipe", "folder", "link", "other", "huge"]
COMMANDS = ["resume", "resume", "resume", "sample", "evaluate", "compare", "report", "list"]
EXAMPLES = 500 if os.environ.get("HYPOTHESIS_PROFILE") == "searching" else 30


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A finished run laid out as a comparison has it, one of another seed, and the digest of the first."""
    found = []
    for seed in (7, 8):
        out = tmp_path_factory.mktemp("compared") / "fedphd/seed-7"
        config = method(NAME, seed=seed, **SECTIONS)
        found.append((out, runs.run(config.build(), out, Recorder(), config_yaml=config.to_yaml())))
    (out, summary), (other, _) = found
    return out, other, summary.model_sha256


def damage(data: st.DataObject, run: Path, other: Path) -> str:
    """Does something to one file of a run directory; what it was."""
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    name = data.draw(st.sampled_from(files))
    path, kind = run / name, data.draw(st.sampled_from(KINDS))
    content = path.read_bytes()
    position = data.draw(st.integers(0, max(0, min(len(content), 3000) - 1)))
    path.unlink()
    if kind == "cut":
        path.write_bytes(content[:position])
    elif kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :] if content else b"")
    elif kind == "garbage":
        path.write_bytes(content[:position] + data.draw(st.binary(max_size=40)) + content[position:])
    elif kind == "swapped":
        another = run / data.draw(st.sampled_from(files))
        path.write_bytes(content if another == path else another.read_bytes())
    elif kind == "renamed":
        path.with_stem("round-x").write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(run.parent.parent / "precious")
    elif kind == "other" and (other / name).exists():
        shutil.copy(other / name, path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(10 * 2**30)
    return f"{kind} {name}"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_run_directory_gives_the_right_bits_or_one_message(
    data: st.DataObject, directories: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, other, digest = directories
    place = tmp_path_factory.mktemp("fuzz")
    run = place / "fedphd/seed-7"
    shutil.copytree(whole, run)
    (place / "precious").write_text("precious")
    config = place / "config.yaml"
    config.write_text(method(NAME, **SECTIONS).to_yaml())
    command = data.draw(st.sampled_from(COMMANDS))
    if data.draw(st.booleans()):  # stopped in its last round
        (run / "summary.json").unlink()
        shutil.rmtree(run / "checkpoints/round-000002")
    what = damage(data, run, other)
    arguments = {
        "resume": ["resume", run],
        "sample": ["sample", run, "--num", 2, "--steps", 2, "--out", place / "x.png"],
        "evaluate": ["evaluate", run, "--num-samples", 2, "--steps", 2],
        "compare": ["compare", config, "--strategies", "fedphd", "--out", place],
        "report": ["report", run, "--out", place / "x.html"],
        "list": ["list", place],
    }[command]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with within(120):
        code, said = fedphd_in_process_code(*arguments)
    event(f"{command}: {'done' if code == 0 else 'refused'}")
    assert time.monotonic() - began < 30, what
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20, what  # KiB
    assert "Traceback" not in said, (what, said)
    assert (place / "precious").read_text() == "precious", what
    if code:
        assert code in (1, 2), (what, said)
        assert said.count("error: ") == 1, (what, said)
    elif command in ("resume", "compare"):
        summary = Summary.read(run)
        assert summary is not None, what
        assert summary.model_sha256 == digest or "summary.json" in what, (what, said)
    shutil.rmtree(place)
