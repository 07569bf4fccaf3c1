"""Starting whoever runs the rounds: this process, or actors on Ray."""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from fedphd_ray.diffusion.unet import build_unet
from fedphd_ray.errors import UserError
from fedphd_ray.federation.channel.links import model_bytes
from fedphd_ray.runtime.driver.ray_metrics import RayMetrics
from fedphd_ray.runtime.events import Reporter
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.on_ray.environment import prepare_environment
from fedphd_ray.runtime.policy.placement import Node, RuntimeConfig, decide, shares, store_size
from fedphd_ray.runtime.workers.backend import Backend
from fedphd_ray.runtime.workers.device import require_compiler, this_machine
from fedphd_ray.runtime.workers.local_backend import LocalBackend
from fedphd_ray.system.memory import keep_freed_memory
from fedphd_ray.system.saying import Say
from fedphd_ray.system.threads import torch_threads

if TYPE_CHECKING:
    from fedphd_ray.runtime.on_ray.actor_pool import ActorPool


@dataclass(frozen=True)
class Started:
    """A backend that is up, a sentence about where rounds run, and whom it wants to be told of them."""

    backend: Backend
    placement: str
    reporters: tuple[Reporter, ...] = ()


@contextlib.contextmanager
def start_backend(experiment: Experiment, say: Say, pool: "ActorPool | None" = None) -> Iterator[Started]:
    """The backend that `runtime` asks for, ended when the block is left (actors of a given pool live on)."""
    if experiment.local.compile:
        require_compiler()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch_threads(experiment.runtime.threads_per_host))
        keep_freed_memory()
        if experiment.runtime.backend == "local":
            yield Started(LocalBackend(experiment.host_setup()), "local: everything in this process")
            return
        actors = stack.enter_context(shared_actors([Needs.of(experiment)], say)) if pool is None else pool
        assert actors is not None
        from fedphd_ray.runtime.on_ray import checks  # noqa: PLC0415
        from fedphd_ray.runtime.on_ray.backend import RayBackend  # noqa: PLC0415
        from fedphd_ray.runtime.on_ray.metrics import RunMetrics  # noqa: PLC0415

        model_bytes, path = _model_bytes(experiment), experiment.checkpoint.path
        if warning := checks.require_store(
            experiment.dataset.images.nbytes + 4 * model_bytes, experiment.store_bytes(_model_bytes(experiment))
        ):
            say(f"warning: {warning}")
        if path is not None and "://" not in path:
            checks.require_visible(Path(path))
        placement = decide(experiment.runtime, checks.cluster_nodes(), experiment.demand(model_bytes))
        if pool is None:  # who shares actors is told once, by whoever started them
            say(f"placement: {placement.reason}")
        backend = RayBackend(experiment.host_setup(), placement, experiment.runtime, actors)
        metrics = RayMetrics(RunMetrics(experiment.name), experiment.schedule.rounds)
        yield Started(backend, placement.reason, (metrics,))


@dataclass(frozen=True)
class Needs:
    """What a run needs of Ray, without its data: its name, its `runtime`, and bytes of object store."""

    name: str
    runtime: RuntimeConfig
    store_bytes: int

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Those of an experiment."""
        return cls(experiment.name, experiment.runtime, experiment.store_bytes(_model_bytes(experiment)))


@dataclass(frozen=True)
class Session:
    """Ray, as other processes may join it.

    Attributes:
        address: of its head.
        nodes: what it has.
    """

    address: str
    nodes: Sequence[Node]

    @property
    def environment(self) -> dict[str, str]:
        """Of processes that join it; how they prove who they are is in this process's own."""
        return {"RAY_ADDRESS": self.address}

    def shares(self, experiment: Experiment, runs: int) -> tuple[int, int | Literal["auto"]]:
        """How many runs of this kind fit side by side, and the hosts of each; see `placement.shares`."""
        return shares(experiment.runtime, self.nodes, experiment.demand(_model_bytes(experiment)), runs)


@contextlib.contextmanager
def shared_session(needs: Sequence[Needs], at_once: int = 1) -> Iterator[Session | None]:
    """Ray, joined or started, for runs with the same `runtime`, so many at a time; None where that needs no Ray."""
    runtime = needs[0].runtime
    if any(need.runtime != runtime for need in needs):
        raise UserError("runtime", expected="the same for all runs that share Ray", found="different sections")
    if runtime.backend == "local":
        yield None
        return
    # Ray is imported only where it is used, and after its environment is set.
    prepare_environment()
    from fedphd_ray.runtime.on_ray import checks, session  # noqa: PLC0415

    store_bytes = store_size(at_once * max(need.store_bytes for need in needs), this_machine().memory_bytes)
    with session.ray_session(f"fedphd-{needs[0].name}-{secrets.token_hex(4)}", store_bytes):
        checks.require_labels(runtime.edge_labels)
        yield Session(session.address(), checks.cluster_nodes())


@contextlib.contextmanager
def shared_actors(needs: Sequence[Needs], say: Say) -> Iterator["ActorPool | None"]:
    """A pool of actors for runs with the same `runtime`, in a shared session; None where that needs no Ray, or for no runs."""
    if not needs:
        yield None
        return
    with shared_session(needs) as session:
        if session is None:
            yield None
            return
        from fedphd_ray.runtime.on_ray.actor_pool import ActorPool  # noqa: PLC0415

        with ActorPool(needs[0].runtime, lambda ready, wanted, free: _tell_start(say, ready, wanted, free)) as pool:
            yield pool


def _tell_start(say: Say, ready: int, wanted: int, free: str) -> None:
    """How many there will be, and why it takes long; not every actor on the way."""
    if wanted and not ready:
        say(f"starting {wanted} actors")
    if free:
        say(f"{ready} of {wanted} actors are ready; waiting for room, free are {free}")


def _model_bytes(experiment: Experiment) -> int:
    dense = build_unet(experiment.spec, device="meta")
    return model_bytes(sum(value.numel() for value in dense.parameters()))
