"""How many host processes to start, and which clients they train. Decided by a pure function; it never changes results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from fedphd_ray.errors import ConfigError, ResourceError
from fedphd_ray.settings.sections import Section

HOST_BASE_BYTES = 460 * 2**20
"""A host process before its first client, measured (docs/performance.md); models, data and activations come on top."""
EDGE_BASE_BYTES = 200 * 2**20
"""An edge server's process; the models that it adds up come on top."""
MODELS_PER_EDGE = 4
STORE_SHARE = 0.25
"""Of a machine's memory, what an object store started here may take; objects beyond it go to disk."""
MODELS_PER_HOST = 8
"""Vectors as long as the model: weights, gradients, two moments, an update, a sum, and what comes in and goes out."""


Seconds = Annotated[float, Field(gt=0, le=1e7)]
"""A deadline: four months at most, which every timer can count."""


class RuntimeConfig(Section):
    """Where rounds run. None of it changes a result, except `threads_per_host` (sums inside operators depend on it), the kind of
    device, and a GPU that is not `deterministic`.

    Attributes:
        backend: `ray`, or `local`: the same code in one process without Ray.
        placement: `dedicated` gives every registered client an actor of its own, `pooled` shares few hosts among all clients,
            `auto` decides from CPUs, GPUs and memory.
        hosts: number of host processes when pooled.
        cpus_per_host: CPUs that one host reserves.
        gpus_per_host: GPUs that one host reserves; a fraction lets several hosts share one.
        threads_per_host: torch threads of every process of the run.
        deterministic: GPUs use kernels only that give the same bits every time; they may be slower. CPUs always do.
        edge_labels: labels of cluster nodes for edge servers, which take them in turn: edge/0 goes to a node with all labels of
            the first entry. Where that node dies, any other does.
        client_state_gib: memory for what clients keep between rounds (optimiser moments, control variates, ...), in GiB; states
            beyond it lie in the run directory until they are needed.
        max_replacements: hosts and edges that may die in a run; each is replaced, and does its part again.
        start_timeout_seconds: deadline for all actors to be ready.
        round_timeout_seconds: deadline for one round, and for drawing one set of samples.
    """

    backend: Literal["ray", "local"] = "ray"
    placement: Literal["auto", "dedicated", "pooled"] = "auto"
    hosts: PositiveInt | Literal["auto"] = "auto"
    cpus_per_host: Annotated[float, Field(ge=1e-4, le=10_000)] = 1.0
    gpus_per_host: Annotated[float, Field(ge=0, le=64)] = 0.0
    threads_per_host: PositiveInt = 1
    deterministic: bool = True
    edge_labels: Annotated[tuple[dict[str, str], ...], Field(max_length=1000)] = ()
    client_state_gib: Annotated[float, Field(gt=0, le=1e6)] = 4.0
    max_replacements: NonNegativeInt = 10
    start_timeout_seconds: Seconds = 180.0
    round_timeout_seconds: Seconds = 3600.0

    @model_validator(mode="after")
    def _whole_gpus_or_a_share(self) -> Self:
        gpus = self.gpus_per_host
        if 0 < gpus < 1e-4 or (gpus > 1 and gpus != int(gpus)):
            raise ConfigError(
                "runtime.gpus_per_host",
                expected="a whole number of GPUs, or a share below 1 (0.0001 at least)",
                found=f"{gpus:g}",
                remedy="Ray gives out GPUs whole, or shares of one of them",
            )
        return self


@dataclass(frozen=True)
class Node:
    """What one machine offers: CPUs, GPUs, and memory in bytes."""

    cpus: float
    gpus: float
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs, {self.memory_bytes / 2**30:.1f} GiB"


class Demand(BaseModel):
    """What a federation asks for.

    Attributes:
        num_clients: registered.
        clients_per_round: trained in a round.
        model_bytes: of one model.
        training_bytes: activations of one batch, and the images.
        num_servers: servers of the tree.
        store_bytes: what the object store may hold at once.
    """

    model_config = ConfigDict(frozen=True)

    num_clients: PositiveInt
    clients_per_round: PositiveInt
    model_bytes: NonNegativeInt
    training_bytes: NonNegativeInt = 0
    num_servers: NonNegativeInt = 0
    store_bytes: NonNegativeInt = 0

    @property
    def edges_bytes(self) -> int:
        """Estimated memory of all edge servers."""
        return self.num_servers * (EDGE_BASE_BYTES + MODELS_PER_EDGE * self.model_bytes)

    @property
    def host_bytes(self) -> int:
        """Estimated memory of one host process."""
        return HOST_BASE_BYTES + MODELS_PER_HOST * self.model_bytes + self.training_bytes


@dataclass(frozen=True)
class Placement:
    """A decision: `num_hosts` processes; `dedicated` if each is one client. `reason` is for people."""

    num_hosts: int
    dedicated: bool
    reason: str


def decide(config: RuntimeConfig, nodes: Sequence[Node], demand: Demand) -> Placement:
    """Chooses the placement, or refuses with the numbers. A host must fit on one node; shares of nodes do not add up to one."""
    need = _need(config, demand)
    most = room(config, nodes, demand)
    wanted = _wanted(config, demand, most)
    if wanted > most or most < 1:
        raise ResourceError(
            "runtime.hosts" if config.placement != "dedicated" else "runtime.placement",
            expected=f"room for {max(wanted, 1)} host process{'es' * (wanted > 1)} of {need} each",
            found=f"room for {most} on " + "; ".join(f"a node of {node}" for node in nodes),
            remedy="use placement: pooled with fewer hosts, or lower runtime.cpus_per_host or runtime.gpus_per_host",
        )
    dedicated = config.placement == "dedicated"
    shared = f"shared by {demand.num_clients} clients, of whom {demand.clients_per_round} train in a round"
    what = "one per registered client" if dedicated else shared
    return Placement(
        wanted,
        dedicated,
        f"{wanted} host{'s' * (wanted != 1)} of {need} each, {what}; there is room for {most}",
    )


def room(config: RuntimeConfig, nodes: Sequence[Node], demand: Demand) -> int:
    """Hosts that there is room for."""
    # Edges are taken to be on the node with the most memory, where Ray is most likely to put them.
    first, *others = sorted(nodes, key=lambda node: -node.memory_bytes)
    with_edges = Node(first.cpus, first.gpus, max(0, first.memory_bytes - demand.edges_bytes))
    return sum(capacity(node, _need(config, demand)) for node in (with_edges, *others))


def shares(config: RuntimeConfig, nodes: Sequence[Node], demand: Demand, runs: int) -> tuple[int, int | Literal["auto"]]:
    """How many such runs fit side by side, `runs` at most and one at least, and the hosts that each of them is given."""
    most = room(config, nodes, demand.model_copy(update={"num_servers": runs * demand.num_servers}))
    share = most // runs if config.hosts == "auto" else config.hosts
    hosts = demand.num_clients if config.placement == "dedicated" else max(1, min(share, demand.clients_per_round))
    return max(1, min(runs, most // hosts)), config.hosts if config.placement == "dedicated" else hosts


def store_size(wanted_bytes: int, memory_bytes: int) -> int:
    """Bytes of an object store started on a machine with so much memory; what `plan` says and `run` does."""
    return min(wanted_bytes, int(STORE_SHARE * memory_bytes))


def capacity(node: Node, need: Node) -> int:
    """Hosts that fit on a node; a fifth of its memory stays for the driver, the edges and the object store."""
    fits = [math.floor(node.cpus / need.cpus + 1e-6), math.floor(0.8 * node.memory_bytes / need.memory_bytes)]
    if need.gpus > 0:
        fits.append(math.floor(node.gpus / need.gpus + 1e-6))
    return min(fits)


def _need(config: RuntimeConfig, demand: Demand) -> Node:
    return Node(config.cpus_per_host, config.gpus_per_host, demand.host_bytes)


def _wanted(config: RuntimeConfig, demand: Demand, most: int) -> int:
    if config.placement == "dedicated":
        return demand.num_clients
    if config.hosts != "auto":
        return config.hosts
    return max(1, min(most, demand.clients_per_round))
