"""Weights & Biases; offline unless the configuration says otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from fedphd_ray.reporters import figures
from fedphd_ray.reporters.config import WandbConfig
from fedphd_ray.runtime.events import Ended, Event, Judged, RoundDone, Started


class WeightsAndBiases:
    """Scalars by round, and grids of samples.

    Args:
        config: project and mode.
        directory: of the run.
        name: of the experiment.
        settings: the resolved configuration.
    """

    def __init__(self, config: WandbConfig, directory: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._config, self._directory, self._name, self._settings = config, directory, name, settings
        self._run: Any = None

    def on_event(self, event: Event) -> None:
        """See `Reporter`."""
        match event:
            case Started() if self._run is None:
                self._run = wandb.init(
                    project=self._config.project,
                    name=self._name,
                    dir=str(self._directory),
                    config=dict(self._settings),
                    mode=self._config.mode,
                    settings=wandb.Settings(silent=True, console="off"),
                )
            case Judged(round, _) if self._run is not None:
                path = figures.picture(self._directory, round)
                pictures = {} if path is None else {"samples": wandb.Image(str(path))}
                self._run.log({**figures.of_quality(event), **pictures, "round": round}, step=round)
            case RoundDone(record, _) if self._run is not None:
                self._run.log({**figures.of_round(event), "round": record.round}, step=record.round)
            case Ended() if self._run is not None:
                self._run.finish()
