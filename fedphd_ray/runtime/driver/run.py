"""One run, from an experiment to a finished run directory."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedphd_ray.errors import RunFailedError, StateLostError, UserError
from fedphd_ray.runtime.directory.books import Books
from fedphd_ray.runtime.directory.drawn import write_population
from fedphd_ray.runtime.directory.identity import Identity
from fedphd_ray.runtime.directory.model_card import write_model_card
from fedphd_ray.runtime.directory.run_directory import Summary, model_folder, save_model, summarise
from fedphd_ray.runtime.directory.status import at_work_in
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.observer import Observer, delivered_models
from fedphd_ray.runtime.driver.precision import decide_precision, settled
from fedphd_ray.runtime.driver.start import start_backend
from fedphd_ray.runtime.evaluation import Evaluator
from fedphd_ray.runtime.events import Reporter, Reporters, Started
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.locks import locked, one_run_per_process
from fedphd_ray.runtime.storage.spilling import SpillingBackend
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend
from fedphd_ray.system.files import refuse_links, write_whole
from fedphd_ray.system.memory import peak_memory_bytes
from fedphd_ray.system.saying import Say, unheard

if TYPE_CHECKING:
    from fedphd_ray.runtime.on_ray.actor_pool import ActorPool


def run(
    experiment: Experiment,
    directory: Path,
    reporter: Reporter,
    say: Say = unheard,
    config_yaml: str = "",
    pool: "ActorPool | None" = None,
) -> Summary:
    """Runs an experiment from the beginning.

    Args:
        experiment: what to run.
        directory: the run directory; made if missing, must not hold a run yet. Nothing is written before everything is up.
        reporter: told of every round.
        say: told, in a sentence each, of what comes before the first round.
        config_yaml: the resolved configuration, which `resume` needs; empty for none.
        pool: actors to use (`shared_actors`); None starts and ends the run's own.
    """
    _require_no_run(directory)
    precision = decide_precision(experiment, say)
    identity, experiment = Identity.new(experiment, precision), settled(experiment, precision)

    def prepare() -> None:
        _require_no_run(directory)
        Books(directory, experiment, identity.run).checkpoints.claim()
        if config_yaml:
            write_whole(directory / "config.yaml", config_yaml.encode())
        identity.write(directory)
        write_population(experiment, directory)

    return _run(experiment, directory, reporter, say, prepare, pool, identity.run, resume=False)


def resume(
    experiment: Experiment,
    directory: Path,
    reporter: Reporter,
    say: Say = unheard,
    pool: "ActorPool | None" = None,
    *,
    restart: bool = False,
) -> Summary:
    """Goes on from the newest whole checkpoint; ends in the bits of a run that was never stopped.

    Args:
        experiment: that of the run; it may have more rounds, and another `runtime`.
        directory: of the run.
        reporter: see `run`.
        say: see `run`.
        pool: see `run`.
        restart: whether rounds without a checkpoint may be forgotten, and trained again.

    Raises:
        UserError: it is no run directory, or another experiment's; or see `Books.restore`.
    """
    identity, notes = Identity.read(directory).goes_on_as(experiment, directory)
    experiment = settled(experiment, identity.precision or "float32")
    for note in notes:
        say(f"note: {note}")
    summary = Summary.read(directory)
    if summary is not None and summary.rounds == experiment.schedule.rounds:
        say(f"{directory}: finished before")
        return summary
    prepare = partial(identity.write, directory)
    return _run(experiment, directory, reporter, say, prepare, pool, identity.run, resume=True, restart=restart)


def _run(
    experiment: Experiment,
    directory: Path,
    reporter: Reporter,
    say: Say,
    prepare: Callable[[], None],
    pool: "ActorPool | None",
    run: str,
    *,
    resume: bool,
    restart: bool = False,
) -> Summary:
    books = Books(directory, experiment, run)
    with contextlib.ExitStack() as stack, _explained(directory):
        stack.enter_context(one_run_per_process())
        if directory.is_dir():
            refuse_links(directory)
            stack.enter_context(locked(directory))
        started = stack.enter_context(start_backend(experiment, say, pool))
        if not directory.is_dir():
            _make(directory)
            stack.enter_context(locked(directory))
        prepare()
        stack.enter_context(at_work_in(directory))
        budget_bytes = int(experiment.runtime.client_state_gib * 2**30)
        backend = SpillingBackend(started.backend, directory / "client_states", budget_bytes)
        stack.callback(backend.remove_files)
        told = (reporter, *started.reporters)
        state = _rounds(experiment, backend, books, told, directory, say, resume=resume, restart=restart)
        books.flush(state.round)
        memory = backend.peak_memory_bytes() + peak_memory_bytes()
        models = delivered_models(experiment, backend, state)
        stock_export = ""
        for client, model in models.items():
            stock_export = save_model(experiment, model, directory / model_folder(client))
        summary = summarise(
            experiment,
            state,
            books,
            stock_export=stock_export,
            placement=started.placement,
            peak_memory_bytes=memory,
            replacements=backend.take_replacements(),
            began=Identity.read(directory).began,
        )
        for client in models:
            write_model_card(summary, experiment.settings, directory / model_folder(client))
        summary.write(directory)
        return summary


def _require_no_run(directory: Path) -> None:
    if any((directory / name).exists() for name in ("metrics.jsonl", "checkpoints", "summary.json")):
        raise UserError(
            str(directory),
            expected="a directory without a run in it",
            found="the metrics or checkpoints of a run",
            remedy=f"`fedphd resume {directory}` goes on with it; --out starts elsewhere",
        )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            str(directory),
            expected="a run directory that can be made",
            found=error.strerror or str(error),
            remedy="--out puts it elsewhere",
        ) from error


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """A full or read-only disk is no traceback."""
    try:
        yield
    except OSError as error:
        raise RunFailedError(
            f"{error.filename or directory}: {error.strerror or error}; checkpoints written before are whole, "
            f"`fedphd resume {directory}` goes on from the last"
        ) from error


def _rounds(
    experiment: Experiment,
    backend: Backend,
    books: Books,
    reporters: Sequence[Reporter],
    directory: Path,
    say: Say,
    *,
    resume: bool,
    restart: bool,
) -> RunState:
    """All rounds; where a lost node took models with it, again from the last checkpoint, to the bits of a run without losses."""
    config, conditional = experiment.evaluation, experiment.spec.num_classes is not None
    evaluator = Evaluator(experiment.dataset, config, conditional=conditional, client_rows=experiment.client_rows)
    rollbacks, allowed = 0, experiment.failures.max_rollbacks
    while True:
        try:
            with Observer(
                experiment,
                backend,
                ledger=books.ledger,
                reporter=Reporters(books.metrics, *reporters),
                checkpoints=books.checkpoints,
                evaluator=evaluator if config.every else None,
                clients=books.clients,
                directory=directory,
            ) as observer:
                cloud = Cloud(experiment, backend, observer)
                again = restart or rollbacks > 0  # these rounds are this process's own
                state = books.restore(backend, say, restart=again) if resume or rollbacks else None
                began = Started(0 if state is None else state.round, books.ledger.bytes_by_hop)
                Reporters(*reporters).on_event(began)
                return cloud.run(state or cloud.begin())
        except StateLostError as error:
            rollbacks += 1
            if rollbacks > allowed:
                raise RunFailedError(f"{error}; that was more often than failures.max_rollbacks = {allowed}") from error
            say(f"warning: {error}; going back to the last checkpoint")


__all__ = ["RunFailedError", "Summary", "resume", "run"]
