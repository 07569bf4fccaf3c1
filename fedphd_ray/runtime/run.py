"""One run, from an experiment to a finished run directory."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedphd_ray.diffusion.unet import build_unet
from fedphd_ray.errors import RunFailedError, UserError
from fedphd_ray.federation.channel import model_message
from fedphd_ray.federation.ledger import Ledger
from fedphd_ray.memory import peak_memory_bytes
from fedphd_ray.runtime.backend import Backend
from fedphd_ray.runtime.checkpoint import Checkpoints
from fedphd_ray.runtime.cloud import Cloud
from fedphd_ray.runtime.evaluation import Evaluator
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.local_backend import LocalBackend
from fedphd_ray.runtime.placement import decide
from fedphd_ray.runtime.progress import MetricsFile, Reporter, Reporters
from fedphd_ray.runtime.ray_environment import prepare_environment
from fedphd_ray.runtime.run_directory import Summary, save_model, summarise
from fedphd_ray.runtime.state import RunState

Say = Callable[[str], None]


@dataclass(frozen=True)
class Started:
    """A backend that is up, and a sentence about where rounds run."""

    backend: Backend
    placement: str


def run(
    experiment: Experiment, directory: Path, reporter: Reporter, say: Say = lambda line: None, config_yaml: str = ""
) -> Summary:
    """Runs an experiment from the beginning.

    Args:
        experiment: what to run.
        directory: the run directory; made if missing, must not hold a run yet. Nothing is written before everything is up.
        reporter: told of every round.
        say: told, in a sentence each, of what comes before the first round.
        config_yaml: the resolved configuration, which `resume` needs; empty for none.
    """
    if (directory / "metrics.jsonl").exists() or (directory / "checkpoints").exists():
        raise UserError(
            str(directory),
            expected="a directory without a run in it",
            found="the metrics or checkpoints of a run",
            remedy=f"`fedphd resume {directory}` goes on with it; --out starts elsewhere",
        )

    def prepare() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if config_yaml:
            (directory / "config.yaml").write_text(config_yaml)

    return _run(experiment, directory, reporter, say, prepare, resume=False)


def resume(experiment: Experiment, directory: Path, reporter: Reporter, say: Say = lambda line: None) -> Summary:
    """Goes on from the newest whole checkpoint; ends in the bits of a run that was never stopped."""
    return _run(experiment, directory, reporter, say, lambda: None, resume=True)


def _run(
    experiment: Experiment, directory: Path, reporter: Reporter, say: Say, prepare: Callable[[], None], *, resume: bool
) -> Summary:
    began = time.perf_counter()
    metrics, ledger = MetricsFile(directory), Ledger(directory / "ledger")
    checkpoints = Checkpoints(directory / "checkpoints", experiment.checkpoint)
    with start_backend(experiment, say) as started:
        prepare()
        evaluator = Evaluator(experiment.dataset, experiment.evaluation) if experiment.evaluation.every else None
        cloud = Cloud(
            experiment,
            started.backend,
            ledger=ledger,
            reporter=Reporters(metrics, reporter),
            checkpoints=checkpoints,
            evaluator=evaluator,
            directory=directory,
        )
        state = _restore(checkpoints, started.backend, metrics, ledger, say) if resume else cloud.begin()
        state = cloud.run(state)
        ledger.flush(state.round)
        memory = started.backend.peak_memory_bytes() + peak_memory_bytes()
    stock_export = save_model(experiment, state.delivered, directory / "model")
    summary = summarise(
        experiment,
        state,
        metrics,
        ledger.bytes_by_hop,
        stock_export=stock_export,
        placement=started.placement,
        wall_seconds=time.perf_counter() - began,
        peak_memory_bytes=memory,
    )
    summary.write(directory)
    return summary


def _restore(checkpoints: Checkpoints, backend: Backend, metrics: MetricsFile, ledger: Ledger, say: Say) -> RunState:
    state, warnings = checkpoints.load_newest(backend)
    for warning in warnings:
        say(f"warning: {warning}")
    if state is None:
        raise UserError(
            str(checkpoints.directory),
            expected="a whole checkpoint",
            found="none",
            remedy="start again with `fedphd run`, into another directory",
        )
    metrics.rewind(state.round)
    ledger.rewind(state.round)
    say(f"resumed after round {state.round}")
    return state


@contextlib.contextmanager
def start_backend(experiment: Experiment, say: Say) -> Iterator[Started]:
    """The backend that `runtime` asks for, ended when the block is left."""
    model_bytes = model_message(
        sum(value.numel() for value in build_unet(experiment.spec, device="meta").parameters()), 0
    ).num_bytes
    if experiment.runtime.backend == "local":
        backend = LocalBackend(experiment.host_setup())
        try:
            yield Started(backend, "local: everything in this process")
        finally:
            backend.close()
        return
    # Ray is imported only where it is used, and after its environment is set.
    prepare_environment()
    from fedphd_ray.runtime.actor_pool import ActorPool  # noqa: PLC0415
    from fedphd_ray.runtime.ray_backend import RayBackend  # noqa: PLC0415
    from fedphd_ray.runtime.ray_session import cluster_nodes, ray_session  # noqa: PLC0415

    demand, runtime = experiment.demand(model_bytes), experiment.runtime
    store_bytes = experiment.dataset.images.nbytes + 4 * model_bytes * (demand.blocks_per_round + 8)
    with ray_session(f"fedphd-{experiment.name}-{secrets.token_hex(4)}", store_bytes):
        placement = decide(runtime, cluster_nodes(), demand)
        say(f"placement: {placement.reason}")
        with ActorPool(runtime, lambda ready, wanted: say(f"starting actors: {ready} of {wanted} ready")) as pool:
            yield Started(RayBackend(experiment.host_setup(), placement, runtime, pool), placement.reason)


__all__ = ["RunFailedError", "Summary", "resume", "run", "start_backend"]
