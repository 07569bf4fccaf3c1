"""What a run writes down between rounds, kept in step: metrics, ledger and checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedphd_ray.errors import UserError
from fedphd_ray.federation.ledger import Ledger
from fedphd_ray.runtime.backend import Backend
from fedphd_ray.runtime.checkpoint import CheckpointConfig, Checkpoints
from fedphd_ray.runtime.progress import MetricsFile
from fedphd_ray.runtime.state import RunState
from fedphd_ray.runtime.storage import open_storage


@dataclass(frozen=True)
class Books:
    """The three of one run directory."""

    metrics: MetricsFile
    ledger: Ledger
    checkpoints: Checkpoints

    @classmethod
    def of(cls, directory: Path, config: CheckpointConfig) -> Self:
        """Those of a run directory, which need not exist yet."""
        storage = open_storage(config.path or str(directory / "checkpoints"))
        return cls(MetricsFile(directory), Ledger(directory / "ledger"), Checkpoints(storage, config))

    def restore(self, backend: Backend, say: Callable[[str], None]) -> RunState | None:
        """The state of the newest whole checkpoint, all that was written after it forgotten; None (all forgotten) without any.

        Raises:
            UserError: there are checkpoints, and none is whole: whoever wants to begin again should say so.
        """
        state, warnings = self.checkpoints.load_newest(backend)
        for warning in warnings:
            say(f"warning: {warning}")
        if state is None and warnings:
            raise UserError(
                str(self.checkpoints.storage),
                expected="a whole checkpoint",
                found="; ".join(warnings),
                remedy="start again with `fedphd run`, into another directory",
            )
        last_round = -1 if state is None else state.round
        self.metrics.rewind(last_round)
        self.ledger.rewind(last_round)
        say("no checkpoint yet: from the beginning" if state is None else f"resumed after round {state.round}")
        return state
