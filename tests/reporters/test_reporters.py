"""TensorBoard and Weights & Biases are told what metrics.jsonl says; Ray's metrics likewise, without clients."""

from pathlib import Path

import pytest
from federations import Recorder, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedphd_ray.errors import UserError
from fedphd_ray.reporters import ReportingConfig, reporters, require_reporters
from fedphd_ray.reporters.config import WandbConfig
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.driver.ray_metrics import outcomes
from fedphd_ray.runtime.events import Reporters

JUDGED = tiny(evaluation={"every": 2, "num_samples": 12, "steps": 2}, schedule={"rounds": 10}, checkpoint={"every": 1})


def test_tensorboard_has_scalars_pictures_and_participation(tmp_path: Path) -> None:
    recorder = Recorder()
    told = Reporters(recorder, *reporters(ReportingConfig(tensorboard=True), tmp_path, "tiny", {}))
    runs.run(JUDGED.build(), tmp_path, told)
    found = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    losses = {event.step: event.value for event in found.Scalars("train/loss")}
    assert losses == pytest.approx({record.round: record.loss for record in recorder.rounds})
    assert len(found.Scalars("quality/fid")) == 6
    sent = sum(event.value for event in found.Scalars("bytes/client_to_edge"))
    assert sent == sum(record.bytes_by_hop["client_to_edge"] for record in recorder.rounds)
    assert [event.step for event in found.Images("samples")] == [0, 2, 4, 6, 8, 10]
    assert found.Tags()["histograms"] == ["participation"]


def test_weights_and_biases_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    config = ReportingConfig(tensorboard=False, wandb=WandbConfig())
    (reporter,) = reporters(config, tmp_path, "tiny", {"seed": 7})
    runs.run(JUDGED.build(), tmp_path, Reporters(Recorder(), reporter))
    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert written.stat().st_size > 1000
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))) == 6


def test_what_is_not_installed_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedphd_ray.reporters.find_spec", lambda name: None)
    assert reporters(ReportingConfig(), Path(), "x", {}) == []
    with pytest.raises(UserError, match="pip install tensorboard"):
        require_reporters(ReportingConfig(tensorboard=True))
    with pytest.raises(UserError, match="pip install wandb"):
        require_reporters(ReportingConfig(wandb=WandbConfig()))


def test_reporting_decides_no_result_and_may_change_on_resume(tmp_path: Path) -> None:
    one = tiny().settings()
    other = tiny(reporting={"tensorboard": False}).settings()
    from fedphd_ray.runtime.directory.identity import config_sha256  # noqa: PLC0415

    assert config_sha256(one) == config_sha256(other)


def test_outcomes_are_counted_by_edge_never_by_client() -> None:
    recorder = Recorder()
    from federations import federate  # noqa: PLC0415

    federate(tiny(devices={"preset": "mixed", "dropout": {"training": 0.5}}), reporter=recorder)
    for record in recorder.rounds:
        counts = outcomes(record)
        assert sum(number for (_, outcome), number in counts.items() if outcome == "used") == len(record.participants)
        assert sum(number for (edge, _), number in counts.items() if edge == -1) == len(record.unused)
    assert any(record.unused for record in recorder.rounds)
