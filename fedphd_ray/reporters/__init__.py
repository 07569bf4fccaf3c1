"""Reporters to tools that people have: TensorBoard, MLflow, Weights & Biases. All behind `runtime.events.Reporter`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedphd_ray.errors import UserError
from fedphd_ray.reporters.config import ReportingConfig
from fedphd_ray.runtime.events import Event, Reporter
from fedphd_ray.runtime.policy.failures import first_line
from fedphd_ray.system.saying import Say, unheard

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}


class Guarded:
    """A tool whose failure ends no run: it is said once, and the tool is told nothing more.

    Args:
        reporter: the tool.
        name: its name.
        say: told of the failure.
    """

    def __init__(self, reporter: Reporter, name: str, say: Say = unheard) -> None:
        self._reporter, self._name, self._say = reporter, name, say
        self._failed = False

    def on_event(self, event: Event) -> None:
        """See `Reporter`."""
        if self._failed:
            return
        try:
            self._reporter.on_event(event)
        except Exception as error:
            self._failed = True
            why = f"{type(error).__name__}: {first_line(str(error))}"
            self._say(f"warning: {self._name} is told no more of this run, it failed: {why}")


def require_reporters(config: ReportingConfig) -> None:
    """Sees that what a configuration asks for is installed.

    Raises:
        UserError: it is not.
    """
    wanted = {"tensorboard": config.tensorboard is True, "mlflow": config.mlflow is not None, "wandb": config.wandb is not None}
    for name, asked in wanted.items():
        if asked and find_spec(name) is None:
            raise UserError(
                f"reporting.{name}", expected="the package installed", found="none", remedy=f"pip install {PACKAGES[name]}"
            )


def reporters(
    config: ReportingConfig, directory: Path, name: str, settings: Mapping[str, Any], say: Say = unheard
) -> list[Reporter]:
    """Those that a configuration asks for; TensorBoard's also where nobody has said anything and it is installed.

    Raises:
        UserError: one is not installed, or does not answer.
    """
    require_reporters(config)
    chosen: list[Reporter] = []
    if config.tensorboard is True or (config.tensorboard == "auto" and find_spec("tensorboard")):
        from fedphd_ray.reporters.tensorboard import TensorBoard  # noqa: PLC0415 - slow, and only where it is wanted

        chosen.append(Guarded(TensorBoard(directory), "TensorBoard", say))
    if config.mlflow is not None:
        from fedphd_ray.reporters.mlflow import MLflow  # noqa: PLC0415

        chosen.append(Guarded(MLflow(config.mlflow, directory, name, settings), "MLflow", say))
    if config.wandb is not None:
        from fedphd_ray.reporters.wandb import WeightsAndBiases  # noqa: PLC0415

        chosen.append(Guarded(WeightsAndBiases(config.wandb, directory, name, settings), "Weights & Biases", say))
    return chosen


__all__ = ["Guarded", "ReportingConfig", "reporters", "require_reporters"]
