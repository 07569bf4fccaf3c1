"""A federated method of your own: no client may move far. `python examples/custom_strategy.py CONFIG OUT [KEY=VALUE ...]`"""

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from torch import Tensor

from fedphd_ray.config import load_config
from fedphd_ray.report.progress import ConsoleProgress
from fedphd_ray.runtime.driver.run import run
from fedphd_ray.strategies.base import LocalMethod, LocalStart, Strategy


class OnLeash(LocalMethod):
    """One client, one round: too far away, its gradient points home."""

    length = 0.1

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """In place, before clipping."""
        away = vector - self.start.received
        if away.norm() > self.length:
            grad.copy_(away)


class Leash(Strategy):
    """FedAvg of clients on a leash."""

    def local_method(self, start: LocalStart) -> LocalMethod:
        """The client half."""
        return OnLeash(start)


if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]), sys.argv[3:])
    with ConsoleProgress(Console(), config.schedule.rounds) as progress:
        run(replace(config.build(), strategy=Leash()), Path(sys.argv[2]), progress, progress.say)
