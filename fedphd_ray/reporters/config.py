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


class ReportingConfig(Section):
    """Tools that are told.

    Attributes:
        tensorboard: `auto` where it is installed; it writes `tensorboard/` in the run directory.
        wandb: Weights & Biases, where it is given.
    """

    tensorboard: bool | Literal["auto"] = "auto"
    wandb: WandbConfig | None = None
