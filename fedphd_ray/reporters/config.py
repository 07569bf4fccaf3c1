"""Who is told of a run besides its own files. None of it changes a result."""

from typing import Literal

from fedphd_ray.settings.sections import Section


class WandbConfig(Section):
    """Weights & Biases.

    Attributes:
        project: there.
        mode: `offline` writes into the run directory, `wandb sync` sends it later.
    """

    project: str = "fedphd"
    mode: Literal["online", "offline"] = "offline"


class MlflowConfig(Section):
    """MLflow.

    Attributes:
        experiment: there; runs of one experiment are compared.
        tracking_uri: of a server or data base; None for what MLflow takes itself, the variable MLFLOW_TRACKING_URI first.
    """

    experiment: str = "fedphd"
    tracking_uri: str | None = None


class ReportingConfig(Section):
    """Tools that are told.

    Attributes:
        tensorboard: `auto` where it is installed; it writes `tensorboard/` in the run directory.
        mlflow: MLflow, where it is given.
        wandb: Weights & Biases, where it is given.
    """

    tensorboard: bool | Literal["auto"] = "auto"
    mlflow: MlflowConfig | None = None
    wandb: WandbConfig | None = None
