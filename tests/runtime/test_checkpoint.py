"""Checkpoints hold exactly the run's state, and a resumed run ends in the same bits."""

import json
import shutil
from pathlib import Path

import pytest
from federations import Recorder, tiny

from fedphd_ray.config import Config, load_config
from fedphd_ray.errors import UserError
from fedphd_ray.federation.ledger import read_ledger
from fedphd_ray.runtime import run as runs
from fedphd_ray.runtime.run_directory import Summary

EVERY_ROUND = {"checkpoint": {"every": 1, "keep": 2}}


def start(config: Config, directory: Path) -> Summary:
    return runs.run(config.build(), directory, Recorder(), config_yaml=config.to_yaml())


@pytest.mark.parametrize(
    "config",
    [
        tiny(**EVERY_ROUND, server={"ema_decay": 0.5}),
        tiny(**EVERY_ROUND, local={"optimizer_state": "per_client"}, hierarchy={"cloud_period": 3}),
        tiny(**EVERY_ROUND, strategy={"name": "fedavg"}, pruning={"mode": "at_init"}),
    ],
    ids=["average", "kept moments", "at init"],
)
def test_resumed_is_uninterrupted(config: Config, tmp_path: Path) -> None:
    whole = start(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    # As if the run had died in round 4, after its checkpoint of round 3: later lines and rows were written already.
    shutil.rmtree(tmp_path / "cut/checkpoints/round-000004")
    shutil.rmtree(tmp_path / "cut/model")
    (tmp_path / "cut/summary.json").unlink()
    again = load_config(tmp_path / "cut/config.yaml")
    assert again == config
    lines: list[str] = []
    resumed = runs.resume(again.build(), tmp_path / "cut", Recorder(), lines.append)
    assert lines == ["resumed after round 3"]
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.bytes_by_hop == whole.bytes_by_hop
    assert read_ledger(tmp_path / "cut/ledger").equals(read_ledger(tmp_path / "whole/ledger"))
    rounds = [json.loads(line)["round"] for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert rounds == [1, 2, 3, 4]


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    config = tiny(**EVERY_ROUND)
    whole = start(config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["round-000003", "round-000004"]
    newest = tmp_path / "checkpoints/round-000004/tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    lines: list[str] = []
    assert runs.resume(config.build(), tmp_path, Recorder(), lines.append).model_sha256 == whole.model_sha256
    assert any("round-000004 was passed over" in line and "damaged" in line for line in lines)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match="a whole checkpoint"):
        runs.resume(config.build(), tmp_path, Recorder())


def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    start(tiny(**EVERY_ROUND), tmp_path)
    with pytest.raises(UserError, match="fedphd resume"):
        start(tiny(**EVERY_ROUND), tmp_path)
