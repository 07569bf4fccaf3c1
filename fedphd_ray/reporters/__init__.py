"""Reporters to tools that people have: TensorBoard, Weights & Biases. All behind `runtime.events.Reporter`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedphd_ray.errors import UserError
from fedphd_ray.reporters.config import ReportingConfig
from fedphd_ray.runtime.events import Reporter

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def require_reporters(config: ReportingConfig) -> None:
    """Sees that what a configuration asks for is installed.

    Raises:
        UserError: it is not.
    """
    wanted = {"tensorboard": config.tensorboard is True, "wandb": config.wandb is not None}
    for name, asked in wanted.items():
        if asked and find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"reporting.{name}", expected="the package installed", found="none", remedy=f"pip install {PACKAGES[name]}"
            )


def reporters(config: ReportingConfig, directory: Path, name: str, settings: Mapping[str, Any]) -> list[Reporter]:
    """Those that a configuration asks for; TensorBoard's also where nobody has said anything and it is installed."""
    require_reporters(config)
    chosen: list[Reporter] = []
    if config.tensorboard is True or (config.tensorboard == "auto" and find_spec("tensorboard")):
        from fedphd_ray.reporters.tensorboard import TensorBoard  # noqa: PLC0415 - slow, and only where it is wanted

        chosen.append(TensorBoard(directory))
    if config.wandb is not None:
        from fedphd_ray.reporters.wandb import WeightsAndBiases  # noqa: PLC0415

        chosen.append(WeightsAndBiases(config.wandb, directory, name, settings))
    return chosen


__all__ = ["ReportingConfig", "reporters", "require_reporters"]
