"""What the cloud's main loop asks of whoever runs a round. Two implementations: Ray actors, and one process."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.federation.sums.merge import MergeOrder
from fedphd_ray.plans import Block
from fedphd_ray.records import ClientState, EdgeReport, LocalOrder, Payload, Transfer
from fedphd_ray.runtime.workers.host_setup import SampleChunk
from fedphd_ray.strategies import Strategy

Handle = object
"""Stands for a `Payload` or a `ClientState` wherever the backend keeps it; only the backend looks inside."""


@dataclass(frozen=True)
class EdgeTask:
    """One edge's round.

    Attributes:
        model: what the edge holds.
        blocks: of its clients.
        strategy: the method.
        states: what its clients have kept, where they have.
        past: former models of the edge that some blocks start from, by version.
        fresh: the edge has seen nothing since it was given its model.
    """

    edge: int
    model: Handle
    blocks: tuple[Block, ...]
    order: LocalOrder
    strategy: Strategy
    states: dict[int, Handle]
    past: Mapping[int, Handle] = field(default_factory=dict)
    fresh: bool = True

    def start(self, block: Block) -> Handle:
        """The model that the clients of a block start from."""
        return self.model if block.version is None else self.past[block.version]


@dataclass(frozen=True)
class EdgeOutcome:
    """One edge's round, done.

    Attributes:
        report: what the edge says.
        model: what it holds now.
        states: what its clients keep from here on, where they keep anything.
        lost: clients whose host died after they had received everything, and the attempt that it was.
    """

    report: EdgeReport
    model: Handle
    states: dict[int, Handle]
    lost: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class MergeTask:
    """One node's part of a merge: its order, the models its children started from (its own first), theirs, and the method."""

    order: MergeOrder
    bases: tuple[Handle, ...]
    children: tuple[Handle, ...]
    strategy: Strategy


@dataclass(frozen=True)
class MergeOutcome:
    """The node's model now, the rows of what reached it, and how often that reached a process that then died."""

    model: Handle
    rows: list[Transfer]
    lost: int = 0


class Backend(Protocol):
    """Runs rounds. The order of results never depends on who finished first."""

    concurrent: bool
    """Whether it may be asked for something by one thread while another has it run a round."""

    @property
    def slots(self) -> int:
        """Clients that train at the same time."""

    def put(self, value: Payload | ClientState) -> Handle:
        """Stores a value once, for any number of readers."""

    def get_payload(self, handle: Handle) -> Payload:
        """The model behind a handle; possibly read-only memory."""

    def get_state(self, handle: Handle) -> ClientState:
        """The client state behind a handle; possibly read-only memory."""

    def keep_states(self, states: Mapping[int, Handle]) -> dict[int, Handle]:
        """All states that clients keep, the ones not used for longest first; given back after a round, perhaps elsewhere."""

    def run_edges(self, tasks: Sequence[EdgeTask]) -> list[EdgeOutcome]:
        """Trains all blocks of all edges and aggregates at the edges; outcomes in the order of the tasks."""

    def merge(self, tasks: Sequence[MergeTask]) -> list[MergeOutcome]:
        """Merges models at nodes between edges and cloud; outcomes in the order of the tasks."""

    def sample(self, model: Handle, chunks: Sequence[SampleChunk]) -> Iterator[NDArray[np.float32]]:
        """Images [size, C, H, W] in [0, 1] of each chunk, in their order, as they are drawn."""

    def take_replacements(self) -> list[str]:
        """A sentence for each process that died and was replaced since this was asked last."""

    def peak_memory_bytes(self) -> int:
        """Largest memory of all processes that this backend started, added up, in bytes."""
