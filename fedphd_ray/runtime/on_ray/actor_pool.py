"""Client hosts and edge servers as Ray actors: started together, and kept for one run after another."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Self, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put

from fedphd_ray.errors import ResourceError, RunFailedError
from fedphd_ray.federation.sums.aggregation import fold_partials
from fedphd_ray.records import ClientState, LocalOrder, PartialUpdate, Payload
from fedphd_ray.runtime.on_ray.checks import require_imports
from fedphd_ray.runtime.on_ray.nodes import free_resources, labelled, node_of
from fedphd_ray.runtime.policy.faults import kill_this_process
from fedphd_ray.runtime.policy.placement import RuntimeConfig
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.edge_server import EdgeServer
from fedphd_ray.runtime.workers.host_setup import HostSetup, SampleChunk
from fedphd_ray.system.memory import peak_memory_bytes

OnStart = Callable[[int, int, str], None]
NODE_DIED = "node has died"  # in the words of Ray's error
HINT_SECONDS = 30.0  # so long without a new actor, and people are told what is free
Actor = Any  # Ray makes the remote methods of an actor's class at run time
Ref = Any  # of what an actor returns: Ray does not know its type, so nor does a checker
Answer = Any


class HostActor:
    """The process of a `ClientHost`. It outlives runs: imports take seconds, a new setup none."""

    def __init__(self, index: int, pool: str) -> None:
        self._index, self._pool = index, pool
        self._host: ClientHost | None = None
        self._keeps_states = False

    def __repr__(self) -> str:
        return f"host/{self._index}"

    def begin(self, setup: HostSetup) -> None:
        """Forgets the former run, if there was one."""
        self._host, self._keeps_states = ClientHost(setup, self._end_overdue), setup.keeps_states

    def _end_overdue(self, round: int, client: int) -> None:
        """Leaves word of the client for the driver, and ends this process, which nothing else could interrupt."""
        _internal_kv_put(f"fedphd:{self._pool}:overdue:{round}:{client}", b"1")
        kill_this_process()

    def train(
        self,
        units: Sequence[tuple[int, LocalOrder, Sequence[int]]],
        sums: Sequence[int],
        num_models: int,
        *values: Payload | ClientState | None,
    ) -> tuple[list[float] | PartialUpdate | ClientState | None, ...]:
        """`ClientHost.train` for some units, every result an object of its own.

        Args:
            units: position of the model, order and clients of each.
            sums: numbers of units that are added up, in order.
            num_models: the first so many `values` are models.
            *values: the models, and what each client kept, in the order of the units.

        Returns:
            Seconds per unit, then a partial update per sum, then what each client keeps, if clients keep anything.
        """
        models = cast(Sequence[Payload], values[:num_models])
        states = iter(cast(Sequence[ClientState | None], values[num_models:]))
        partials, kept = [], []
        for model, order, clients in units:
            partial, new = self._running.train(models[model], order, clients, list(islice(states, len(clients))))
            partials.append(partial)
            kept += new
        rest = iter(partials)
        folded = [next(rest) if size == 1 else fold_partials(list(islice(rest, size)), [1] * size) for size in sums]
        return ([partial.busy_seconds for partial in partials], *folded, *(kept if self._keeps_states else ()))

    def sample(self, payload: Payload, chunk: SampleChunk) -> NDArray[np.float32]:
        """See `ClientHost.sample`."""
        return self._running.sample(payload, chunk)

    def peak_memory_bytes(self) -> int:
        """Largest resident size of this process so far, in bytes."""
        return peak_memory_bytes()

    @property
    def _running(self) -> ClientHost:
        assert self._host is not None, "begin comes first"
        return self._host


class ActorPool:
    """Actors of one size, as many as the runs so far have needed.

    Args:
        config: resources per host, torch threads and the deadline for starting.
        on_start: called with (ready, wanted) actors while they start, and with what is free where that takes long.
    """

    def __init__(self, config: RuntimeConfig, on_start: OnStart = lambda ready, wanted, free: None) -> None:
        self._config = config
        self._on_start = on_start
        self._name = secrets.token_hex(4)  # names are for people; two pools in one namespace must not collide
        self.hosts: list[Actor] = []
        self.servers: list[Actor] = []
        self._names: list[str] = []  # of the servers
        self.replacements: list[str] = []
        self._told = 0
        self._starting: dict[Ref, Actor] = {}
        self._setup: Ref | None = None
        self._awaited: dict[Ref, float] = {}  # replacements that are not up yet, and until when they must be
        self._nodes: dict[Actor, str] = {}  # where they are; not of replacements
        self._started = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, num_hosts: int, servers: Sequence[str]) -> None:
        """Asks for what is missing, all at once, and does not wait."""
        hosts = [self._new_host(index) for index in range(len(self.hosts), num_hosts)]
        self._names += servers[len(self._names) :]
        named = self._names[len(self.servers) :]
        new = [self._new_server(name) for name in named]
        self.hosts += hosts
        self.servers += new
        self._starting |= {actor.__ray_call__.remote(node_of): actor for actor in [*hosts, *new]}

    def begin(self, setup: HostSetup, num_hosts: int) -> list[Ref]:
        """Gives the first hosts a new run; what it returns is there when they have it."""
        self._setup = ray.put(setup)
        self.replacements.clear()
        self._told = 0
        return [host.begin.remote(self._setup) for host in self.hosts[:num_hosts]]

    def replace(self, actor: Actor, why: str) -> None:
        """Starts another in the place of a dead actor, unless that was done already; calls wait in its queue until it is up.

        Raises:
            RunFailedError: too many have died.
        """
        with self._lock:
            if actor not in self.hosts and actor not in self.servers:
                return
            self.replacements.append(why)
            died, allowed = len(self.replacements), self._config.max_replacements
            if died > allowed:
                raise RunFailedError(f"{died} actors died, more than runtime.max_replacements = {allowed}; the last: {why}")
            ray.kill(actor)  # one that is only out of reach must not go on
            if actor in self.hosts:
                index = self.hosts.index(actor)
                new = self.hosts[index] = self._new_host(index)
                new.begin.remote(self._setup)
            else:
                index = self.servers.index(actor)
                new = self.servers[index] = self._new_server(self._names[index])
            self._awaited[new.__ray_call__.remote(node_of)] = time.monotonic() + self._config.start_timeout_seconds

    def take_replacements(self) -> list[str]:
        """What was replaced since this was asked last."""
        with self._lock:
            news = self.replacements[self._told :]
            self._told = len(self.replacements)
            return news

    def overdue(self, round: int, client: int) -> bool:
        """Whether a host has ended itself because a client in this round took far too long."""
        return bool(_internal_kv_exists(self._overdue_key(round, client)))

    def _overdue_key(self, round: int, client: int) -> bytes:
        return f"fedphd:{self._name}:overdue:{round}:{client}".encode()

    def far(self, edges: Sequence[int], num_hosts: int) -> list[list[bool]]:
        """Per edge and host, whether they are known to be on different nodes; empty where nothing is far."""
        hosts = [self._nodes.get(host) for host in self.hosts[:num_hosts]]
        nodes = [self._nodes.get(self.servers[edge]) for edge in edges]
        found = [[None not in (node, host) and node != host for host in hosts] for node in nodes]
        return found if any(map(any, found)) else []

    def require_replacements(self) -> None:
        """Looks whether replacements are up in time.

        Raises:
            RunFailedError: one is not; the cluster may be too small for it now.
        """
        if not self._awaited:
            return
        with self._lock:
            up, _ = ray.wait(list(self._awaited), num_returns=len(self._awaited), timeout=0)
            for ref in up:
                del self._awaited[ref]
            if any(time.monotonic() > deadline for deadline in self._awaited.values()):
                seconds = self._config.start_timeout_seconds
                raise RunFailedError(
                    f"an actor that died could not be replaced within runtime.start_timeout_seconds = {seconds:g}; "
                    f"free: {free_resources()}; the last death: {self.replacements[-1]}"
                )

    def ensure(self, num_hosts: int, servers: Sequence[str]) -> None:
        """Starts what is missing, and waits until everything is ready.

        Args:
            num_hosts: so many at least.
            servers: names of the nodes of the tree; in one that was started for a former run a node may have another's name.

        Raises:
            ResourceError: not all are ready before the deadline; all actors are given up then.
        """
        self.start(num_hosts, servers)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills the actors."""
        for actor in [*self.hosts, *self.servers]:
            ray.kill(actor)
        self.hosts.clear()
        self.servers.clear()
        self._names.clear()
        self._starting.clear()
        self._awaited.clear()
        self._nodes.clear()

    def _start_again(self, actor: Actor) -> None:
        """Another in the place of one whose node has died before it was ready."""
        if actor in self.hosts:
            index = self.hosts.index(actor)
            new = self.hosts[index] = self._new_host(index)
        else:
            index = self.servers.index(actor)
            new = self.servers[index] = self._new_server(self._names[index])
        self._starting[new.__ray_call__.remote(node_of)] = new

    def _new_host(self, index: int) -> Actor:
        config = self._config
        options = {"num_cpus": config.cpus_per_host, "num_gpus": config.gpus_per_host, "name": self._unique(f"host/{index}")}
        return ray.remote(HostActor).options(**options).remote(index, self._name)

    def _new_server(self, name: str) -> Actor:
        """Servers wait and add; a CPU slot of their own would take one from training."""
        options = {"num_cpus": 0, "name": self._unique(name)} | labelled(name, self._config.edge_labels)
        return ray.remote(EdgeServer).options(**options).remote(name, self._config.threads_per_host)

    def _unique(self, name: str) -> str:
        self._started += 1
        return f"{self._name}:{name}:{self._started}"

    def _wait_until_ready(self) -> None:
        seconds, total, restarts = self._config.start_timeout_seconds, len(self._starting), 0
        deadline = time.monotonic() + seconds
        self._on_start(0, total, "")
        while self._starting:
            patience = max(0.0, deadline - time.monotonic())
            done, _ = ray.wait(list(self._starting), num_returns=1, timeout=min(HINT_SECONDS, patience))
            if not done and patience > HINT_SECONDS:
                self._on_start(total - len(self._starting), total, free_resources())
                continue
            if not done:
                raise ResourceError(
                    "runtime",
                    expected=f"{total} actors ready within {seconds:g} s",
                    found=f"{len(self._starting)} still waiting; free: {free_resources()}",
                    remedy="ask for fewer hosts or less per host, wait for other jobs, or raise runtime.start_timeout_seconds",
                )
            actor = self._starting.pop(done[0])
            try:
                self._nodes[actor] = ray.get(done[0])
            except ray.exceptions.ActorUnavailableError:  # the call got lost, not the actor
                self._starting[actor.__ray_call__.remote(node_of)] = actor
            except ray.exceptions.RayError as error:
                require_imports(__name__)
                if NODE_DIED not in str(error) or restarts >= self._config.max_replacements:
                    raise RunFailedError(f"actor start failed: {error}") from error
                restarts += 1
                self._start_again(actor)
                continue
            self._on_start(total - len(self._starting), total, "")
