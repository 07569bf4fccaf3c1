"""What a run writes down between rounds, kept in step: metrics, ledger, table of clients and checkpoints."""

import time
from pathlib import Path

from fedphd_ray.diffusion.unet import parameter_shapes
from fedphd_ray.errors import UserError
from fedphd_ray.federation.channel.ledger import Ledger
from fedphd_ray.federation.prune import pruned_shapes
from fedphd_ray.runtime.directory.participation import ClientTable
from fedphd_ray.runtime.directory.progress import MetricsFile
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.checkpoint import Checkpoints
from fedphd_ray.runtime.storage.manifest import Frame
from fedphd_ray.runtime.storage.places import open_storage
from fedphd_ray.runtime.storage.seals import PartsSeal, Seal
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend
from fedphd_ray.system.saying import Say


class Books:
    """Those of one run directory.

    Args:
        directory: of the run; need not exist yet.
        experiment: what is run.
        run: the run's name, in every checkpoint of it.
    """

    def __init__(self, directory: Path, experiment: Experiment, run: str) -> None:
        self._directory = directory
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self.metrics = MetricsFile(directory)
        self.ledger = Ledger(directory / "ledger", experiment.topology.hops)
        self.clients = ClientTable(directory / "clients")
        storage = open_storage(experiment.checkpoint.path or str(directory / "checkpoints"))
        self.checkpoints = Checkpoints(storage, experiment.checkpoint, run, self._seal, _frame(experiment))

    @property
    def wall_seconds(self) -> float:
        """Seconds that the run has taken, those before it was stopped included."""
        return self._seconds_before + time.perf_counter() - self._began

    def restore(self, backend: Backend, say: Say, *, restart: bool) -> RunState | None:
        """The state of the newest whole checkpoint, all that was written after it forgotten; None to begin from the start.

        Args:
            backend: where states go.
            say: told what was found.
            restart: whether rounds without a checkpoint may be forgotten, and trained again.

        Raises:
            UserError: no checkpoint is whole, or it is another run's; the books are damaged; or there are rounds in them and no
                checkpoint, and nobody said that they may be forgotten.
        """
        found, warnings = self.checkpoints.load_newest(backend)
        for warning in warnings:
            say(f"warning: {warning}")
        if found is None and warnings:
            raise UserError(
                str(self.checkpoints.storage),
                expected="a whole checkpoint",
                found="; ".join(warnings),
                remedy="start again with `fedphd run`, into another directory",
            )
        if found is None:
            self._begin_again(say, restart=restart)
            return None
        state, seal = found
        if seal is not None:
            self.metrics.rewind(seal.metrics, seal.quality)
            self._require_parts("ledger", self.ledger.rewind(state.round), seal.ledger, state.round)
            self._require_parts("clients", self.clients.rewind(state.round), seal.clients, state.round)
            self._seconds_before = seal.wall_seconds
        say(f"resumed after round {state.round}")
        return state

    def _begin_again(self, say: Say, *, restart: bool) -> None:
        rounds = self.metrics.num_lines()
        if rounds and not restart:
            raise UserError(
                str(self.checkpoints.storage),
                expected="a checkpoint to go on from",
                found=f"none, though {rounds} rounds are in the run's books",
                remedy=f"see that the folder is mounted; `fedphd resume {self._directory} --restart` forgets these rounds and "
                "trains them again",
            )
        self.metrics.clear()
        self.ledger.rewind(-1)
        self.clients.rewind(-1)
        say("no checkpoint yet: from the beginning")

    def flush(self, round: int) -> None:
        """Writes all rows of tables up to a round."""
        self.ledger.flush(round)
        self.clients.flush(round)

    def _require_parts(self, name: str, found: tuple[int, str], seal: PartsSeal, round: int) -> None:
        if found != (seal.num_parts, seal.sha256):
            raise UserError(
                str(self._directory / name),
                expected=f"the {seal.num_parts} parts that the run wrote before its checkpoint of round {round}",
                found="missing, damaged or other ones",
                remedy="restore them from a copy; without them the figures of the run would be wrong",
            )

    def _seal(self) -> Seal:
        metrics, quality = self.metrics.seals()
        ledger, clients = (PartsSeal(num_parts=num, sha256=sha) for num, sha in (self.ledger.sha256(), self.clients.sha256()))
        return Seal(metrics=metrics, quality=quality, ledger=ledger, clients=clients, wall_seconds=self.wall_seconds)


def _frame(experiment: Experiment) -> Frame:
    """What any checkpoint of an experiment is like."""
    spec = experiment.spec
    pruned = pruned_shapes(spec, *experiment.pruning.ratios)
    shapes = [dict(parameter_shapes(spec)), *(dict(left.by_name) for left in pruned)]
    return Frame(
        shapes=tuple(shapes),
        sizes=experiment.topology.sizes,
        num_classes=experiment.population.num_classes,
        num_clients=experiment.population.num_clients,
        rounds=experiment.schedule.rounds,
    )
