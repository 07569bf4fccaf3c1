"""MLflow: a run of its own on the server, or in the data base, that one has."""

import atexit
import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A run sends nothing but what it was asked to send; and it does not wait for minutes for a server that is away.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from fedphd_ray.errors import UserError
from fedphd_ray.reporters import figures
from fedphd_ray.reporters.config import MlflowConfig
from fedphd_ray.runtime.events import Ended, Event, Judged, RoundDone, Started
from fedphd_ray.runtime.policy.failures import first_line
from fedphd_ray.settings.overrides import leaves

AT_ONCE = 100  # parameters that MLflow takes in one call


class MLflow:
    """Settings as parameters, scalars by round, and grids of samples as artifacts.

    Args:
        config: where to.
        directory: of the run.
        name: of the experiment.
        settings: the resolved configuration.

    Raises:
        UserError: no server or data base answers there.
    """

    def __init__(self, config: MlflowConfig, directory: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._directory, self._name, self._settings = directory, name, settings
        self._run_id = ""
        try:
            self._client = MlflowClient(tracking_uri=config.tracking_uri)
            known = self._client.get_experiment_by_name(config.experiment)
            self._experiment = known.experiment_id if known else self._client.create_experiment(config.experiment)
        except Exception as error:  # each kind of store has its own
            raise UserError(
                "reporting.mlflow",
                expected="a tracking server or data base that answers",
                found=first_line(str(error)) or type(error).__name__,
                remedy="give its address as tracking_uri, or in MLFLOW_TRACKING_URI; data bases need `pip install mlflow`",
            ) from error

    def on_event(self, event: Event) -> None:
        """See `Reporter`."""
        match event:
            case Started() if not self._run_id:
                self._begin()
            case Judged(round, _) if self._run_id:
                self._log(figures.of_quality(event), round)
                if (path := figures.picture(self._directory, round)) is not None:
                    self._client.log_artifact(self._run_id, str(path), "samples")
            case RoundDone(record, _) if self._run_id:
                self._log(figures.of_round(event), record.round)
            case Ended() if self._run_id:
                self._end()

    def _begin(self) -> None:
        tags = {"fedphd.run_directory": str(self._directory.absolute())}
        self._run_id = self._client.create_run(self._experiment, run_name=self._name, tags=tags).info.run_id
        atexit.register(self._abandon)
        settings = [Param(key, str(value)) for key, value in leaves(self._settings)]
        for first in range(0, len(settings), AT_ONCE):
            self._client.log_batch(self._run_id, params=settings[first : first + AT_ONCE])

    def _end(self) -> None:
        atexit.unregister(self._abandon)
        self._client.set_terminated(self._run_id, "FINISHED")

    def _abandon(self) -> None:
        """The process ends before the last round."""
        with contextlib.suppress(MlflowException):
            self._client.set_terminated(self._run_id, "KILLED")

    def _log(self, values: Mapping[str, float], round: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._run_id, metrics=[Metric(name, value, now, round) for name, value in values.items()])
