"""The precision that a machine is left to choose: decided once, and kept."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from federations import Recorder, tiny

from fedphd_ray.config import Config
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import precision
from fedphd_ray.runtime.driver import run as runs


def with_precision(name: str) -> Config:
    return tiny(local={"precision": name}, checkpoint={"every": 1, "keep": 2})


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A processor with bfloat16 on which steps in it take so much of float32's time."""
    ratio = [0.5]
    monkeypatch.setattr(precision, "supports_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "_time_ratio", lambda *key: ratio[0])
    return ratio


def start(name: str, directory: Path, said: list[str]) -> Summary:
    return runs.run(with_precision(name).build(), directory, Recorder(), said.append)


def test_the_faster_one_is_taken_and_said(trial: list[float], tmp_path: Path) -> None:
    said: list[str] = []
    mixed = start("auto", tmp_path / "mixed", said)
    assert said[0].startswith("local.precision: auto is bfloat16: a step in bfloat16 takes 0.50")
    trial[0] = 0.9
    plain = start("auto", tmp_path / "plain", said)
    assert (mixed.precision, plain.precision) == ("bfloat16", "float32")
    assert mixed.model_sha256 == start("bfloat16", tmp_path / "asked", said).model_sha256
    assert plain.model_sha256 == start("float32", tmp_path / "reference", said).model_sha256 != mixed.model_sha256


def test_a_run_keeps_what_was_decided(trial: list[float], tmp_path: Path) -> None:
    whole = start("auto", tmp_path / "run", [])
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == "bfloat16"
    shutil.rmtree(tmp_path / "run/checkpoints/round-000004")
    (tmp_path / "run/summary.json").unlink()
    trial[0] = 9.0  # another machine, or a busy moment
    assert runs.resume(with_precision("auto").build(), tmp_path / "run", Recorder()).model_sha256 == whole.model_sha256


def test_a_processor_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "supports_bfloat16", lambda device: False)
    said: list[str] = []
    assert precision.decide_precision(with_precision("auto").build(), said.append) == "float32"
    assert precision.decide_precision(with_precision("bfloat16").build(), said.append) == "bfloat16"
    assert ["no bfloat16" in said[0], "several times as long" in said[1]] == [True, True]


def test_the_trial_touches_nothing() -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    assert precision._time_ratio(tiny().build().spec, 2, "cpu") > 0
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
