"""TensorBoard, MLflow and Weights & Biases are told what metrics.jsonl says; Ray's metrics likewise, without clients."""

from pathlib import Path

import pytest
from federations import Recorder, tiny
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fedphd_ray
from fedphd_ray.errors import UserError
from fedphd_ray.reporters import Guarded, ReportingConfig, reporters, require_reporters
from fedphd_ray.reporters.config import MlflowConfig, WandbConfig
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.driver.ray_metrics import outcomes
from fedphd_ray.runtime.events import Event, Reporters, RoundDone, Started

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


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # of MLflow's own tables
def test_mlflow_has_settings_scalars_and_pictures(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = ReportingConfig(tensorboard=False, mlflow=MlflowConfig(experiment="tiny ones", tracking_uri=uri))
    client = MlflowClient(uri)
    client.create_experiment("tiny ones", artifact_location=(tmp_path / "artifacts").as_uri())
    (reporter,) = reporters(config, tmp_path, "tiny", {"seed": 7, "data": {"name": "digits", "more": {}}})
    recorder = Recorder()
    runs.run(JUDGED.build(), tmp_path, Reporters(recorder, reporter))
    experiment = client.get_experiment_by_name("tiny ones")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "tiny"
    assert found.data.params == {"seed": "7", "data.name": "digits", "data.more": "{}"}
    losses = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, "train/loss")}
    assert losses == pytest.approx({record.round: record.loss for record in recorder.rounds})
    assert len(client.get_metric_history(found.info.run_id, "quality/fid")) == 6
    assert len(list((tmp_path / "artifacts").rglob("round-*.png"))) == 6


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "sqlite:////dev/null/mlflow.db", "gopher://here"])
def test_an_mlflow_that_does_not_answer_is_refused_before_anything_runs(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = ReportingConfig(tensorboard=False, mlflow=MlflowConfig(tracking_uri=uri))
    with pytest.raises(UserError, match="a tracking server or data base"):
        reporters(config, tmp_path, "tiny", {})


def test_a_tool_that_fails_is_said_once_and_ends_no_run(tmp_path: Path) -> None:
    class Full:
        asked = 0

        def on_event(self, event: Event) -> None:
            self.asked += 1
            if isinstance(event, RoundDone):
                raise OSError("no space left\non device")

    tool, recorder, said = Full(), Recorder(), list[str]()
    runs.run(JUDGED.build(), tmp_path, Reporters(Guarded(tool, "Tool", said.append), recorder))
    assert said == ["warning: Tool is told no more of this run, it failed: OSError: no space left"]
    assert len(recorder.rounds) == 10
    told = tool.asked
    Guarded(tool, "Tool").on_event(Started(0, {}))
    assert tool.asked == told + 1 < 20


@pytest.mark.parametrize("at_once", [1, 2])
def test_comparisons_tell_the_configured_tools_side_by_side_or_not(at_once: int, tmp_path: Path) -> None:
    config = tiny(schedule={"rounds": 3}, evaluation={"every": 0}, reporting={"tensorboard": True})
    (tmp_path / "tiny.yaml").write_text(config.to_yaml())
    fedphd_ray.compare(tmp_path / "tiny.yaml", ["fedavg", "hierfavg"], tmp_path / "out", at_once=at_once)
    assert len(list((tmp_path / "out").glob("*/seed-*/tensorboard/events*"))) == 2


def test_python_tells_the_configured_tools_when_it_runs_and_resumes(tmp_path: Path) -> None:
    one = tiny(schedule={"rounds": 3}, checkpoint={"every": 1}, reporting={"tensorboard": True}).settings()
    fedphd_ray.run(one, tmp_path / "run")
    before = set((tmp_path / "run/tensorboard").iterdir())
    assert before
    (tmp_path / "run/summary.json").unlink()
    fedphd_ray.resume(tmp_path / "run")
    assert set((tmp_path / "run/tensorboard").iterdir()) > before


def test_a_comparison_is_refused_where_a_tool_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedphd_ray.reporters.find_spec", lambda name: None)
    (tmp_path / "tiny.yaml").write_text(tiny().to_yaml())
    with pytest.raises(UserError, match="pip install mlflow-skinny"):
        fedphd_ray.compare(tmp_path / "tiny.yaml", ["fedavg", "hierfavg:reporting.mlflow={}"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_installed_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedphd_ray.reporters.find_spec", lambda name: None)
    assert reporters(ReportingConfig(), Path(), "x", {}) == []
    with pytest.raises(UserError, match="pip install tensorboard"):
        require_reporters(ReportingConfig(tensorboard=True))
    with pytest.raises(UserError, match="pip install mlflow-skinny"):
        require_reporters(ReportingConfig(mlflow=MlflowConfig()))
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
