"""One run, from an experiment to a finished run directory."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedphd_ray.diffusion.unet import build_unet
from fedphd_ray.errors import RunFailedError, StateLostError, UserError
from fedphd_ray.federation.channel import model_message
from fedphd_ray.memory import keep_freed_memory, peak_memory_bytes
from fedphd_ray.runtime.backend import Backend
from fedphd_ray.runtime.books import Books
from fedphd_ray.runtime.cloud import Cloud
from fedphd_ray.runtime.evaluation import Evaluator
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.local_backend import LocalBackend
from fedphd_ray.runtime.observer import Observer, delivered_models
from fedphd_ray.runtime.placement import decide
from fedphd_ray.runtime.progress import Reporter, Reporters
from fedphd_ray.runtime.ray_environment import prepare_environment
from fedphd_ray.runtime.run_directory import Summary, model_folder, save_model, summarise
from fedphd_ray.runtime.spilling import SpillingBackend
from fedphd_ray.runtime.state import RunState
from fedphd_ray.runtime.stopping import locked, stop_signals
from fedphd_ray.threads import torch_threads

if TYPE_CHECKING:
    from fedphd_ray.runtime.actor_pool import ActorPool

Say = Callable[[str], None]


@dataclass(frozen=True)
class Started:
    """A backend that is up, and a sentence about where rounds run."""

    backend: Backend
    placement: str


def run(
    experiment: Experiment,
    directory: Path,
    reporter: Reporter,
    say: Say = lambda line: None,
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

    def prepare() -> None:
        _require_no_run(directory)
        if config_yaml:
            (directory / "config.yaml").write_text(config_yaml)

    return _run(experiment, directory, reporter, say, prepare, pool, resume=False)


def resume(
    experiment: Experiment,
    directory: Path,
    reporter: Reporter,
    say: Say = lambda line: None,
    pool: "ActorPool | None" = None,
) -> Summary:
    """Goes on from the newest whole checkpoint, or from the beginning; ends in the bits of a run that was never stopped."""
    return _run(experiment, directory, reporter, say, lambda: None, pool, resume=True)


def _run(
    experiment: Experiment,
    directory: Path,
    reporter: Reporter,
    say: Say,
    prepare: Callable[[], None],
    pool: "ActorPool | None",
    *,
    resume: bool,
) -> Summary:
    began = time.perf_counter()
    books = Books.of(directory, experiment.checkpoint)
    with contextlib.ExitStack() as stack, _explained(directory):
        if directory.is_dir():
            stack.enter_context(locked(directory))
        started = stack.enter_context(start_backend(experiment, say, pool))
        stack.enter_context(stop_signals())
        if not directory.is_dir():
            _make(directory)
            stack.enter_context(locked(directory))
        prepare()
        budget_bytes = int(experiment.runtime.client_state_gib * 2**30)
        backend = SpillingBackend(started.backend, directory / "client_states", budget_bytes)
        state = _rounds(experiment, backend, books, reporter, directory, say, resume=resume)
        books.ledger.flush(state.round)
        memory = backend.peak_memory_bytes() + peak_memory_bytes()
        models = delivered_models(experiment, backend, state)
        stock_export = ""
        for client, model in models.items():
            stock_export = save_model(experiment, model, directory / model_folder(client))
        summary = summarise(
            experiment,
            state,
            books.metrics,
            books.ledger.bytes_by_hop,
            stock_export=stock_export,
            placement=started.placement,
            wall_seconds=time.perf_counter() - began,
            peak_memory_bytes=memory,
        )
        summary.write(directory)
        return summary


def _require_no_run(directory: Path) -> None:
    if (directory / "metrics.jsonl").exists() or (directory / "checkpoints").exists():
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
    experiment: Experiment, backend: Backend, books: Books, reporter: Reporter, directory: Path, say: Say, *, resume: bool
) -> RunState:
    """All rounds; where a lost node took models with it, again from the last checkpoint, to the bits of a run without losses."""
    evaluator = Evaluator(experiment.dataset, experiment.evaluation) if experiment.evaluation.every else None
    rollbacks, allowed = 0, experiment.failures.max_rollbacks
    while True:
        try:
            with Observer(
                experiment,
                backend,
                ledger=books.ledger,
                reporter=Reporters(books.metrics, reporter),
                checkpoints=books.checkpoints,
                evaluator=evaluator,
                directory=directory,
            ) as observer:
                cloud = Cloud(experiment, backend, observer)
                state = books.restore(backend, say) if resume or rollbacks else None
                return cloud.run(state or cloud.begin())
        except StateLostError as error:
            rollbacks += 1
            if rollbacks > allowed:
                raise RunFailedError(f"{error}; that was more often than failures.max_rollbacks = {allowed}") from error
            say(f"warning: {error}; going back to the last checkpoint")


@contextlib.contextmanager
def start_backend(experiment: Experiment, say: Say, pool: "ActorPool | None" = None) -> Iterator[Started]:
    """The backend that `runtime` asks for, ended when the block is left (actors of a given pool live on)."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch_threads(experiment.runtime.threads_per_host))
        keep_freed_memory()
        if experiment.runtime.backend == "local":
            yield Started(LocalBackend(experiment.host_setup()), "local: everything in this process")
            return
        actors = stack.enter_context(shared_actors([experiment], say)) if pool is None else pool
        assert actors is not None
        from fedphd_ray.runtime import ray_session  # noqa: PLC0415
        from fedphd_ray.runtime.ray_backend import RayBackend  # noqa: PLC0415

        model_bytes, path = _model_bytes(experiment), experiment.checkpoint.path
        if warning := ray_session.require_store(experiment.dataset.images.nbytes + 4 * model_bytes, _store_bytes(experiment)):
            say(f"warning: {warning}")
        if path is not None and "://" not in path:
            ray_session.require_visible(Path(path))
        placement = decide(experiment.runtime, ray_session.cluster_nodes(), experiment.demand(model_bytes))
        if pool is None:  # who shares actors is told once, by whoever started them
            say(f"placement: {placement.reason}")
        yield Started(RayBackend(experiment.host_setup(), placement, experiment.runtime, actors), placement.reason)


@contextlib.contextmanager
def shared_actors(experiments: Sequence[Experiment], say: Say) -> Iterator["ActorPool | None"]:
    """Ray, joined or started, and a pool of actors for experiments with the same `runtime`; None where that needs no Ray."""
    runtime = experiments[0].runtime
    if any(experiment.runtime != runtime for experiment in experiments):
        raise UserError("runtime", expected="the same for all runs that share actors", found="different sections")
    if runtime.backend == "local":
        yield None
        return
    # Ray is imported only where it is used, and after its environment is set.
    prepare_environment()
    from fedphd_ray.runtime.actor_pool import ActorPool  # noqa: PLC0415
    from fedphd_ray.runtime.ray_session import ray_session  # noqa: PLC0415

    store_bytes = max(_store_bytes(experiment) for experiment in experiments)
    with (
        ray_session(f"fedphd-{experiments[0].name}-{secrets.token_hex(4)}", store_bytes),
        ActorPool(runtime, lambda ready, wanted, free: say(_starting(ready, wanted, free))) as pool,
    ):
        yield pool


def _starting(ready: int, wanted: int, free: str) -> str:
    waiting = f"; waiting for room, free are {free}" if free else ""
    return f"starting actors: {ready} of {wanted} ready{waiting}"


def _model_bytes(experiment: Experiment) -> int:
    dense = build_unet(experiment.spec, device="meta")
    return model_message(sum(value.numel() for value in dense.parameters()), 0).num_bytes


def _store_bytes(experiment: Experiment) -> int:
    """What one round may hold in the object store at once, with room: models of edges, sums of blocks, states of clients."""
    model_bytes, cohort = _model_bytes(experiment), experiment.schedule.cohort_size
    models = 2 * (cohort + len(experiment.topology.aggregators) + 8)
    states = 0
    if experiment.host_setup().keeps_states:
        budget = int(experiment.runtime.client_state_gib * 2**30) + 3 * cohort * model_bytes
        states = min(budget, 3 * experiment.population.num_clients * model_bytes)
    return experiment.dataset.images.nbytes + models * model_bytes + states


__all__ = ["RunFailedError", "Summary", "resume", "run", "start_backend"]
