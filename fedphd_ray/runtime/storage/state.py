"""`RunState` is everything a run is between two rounds: exactly what a checkpoint holds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.plans import Memory
from fedphd_ray.pruning.plan import PrunePlan
from fedphd_ray.records import ClientState, EdgeStatistics, Kind, Payload
from fedphd_ray.runtime.workers.backend import Backend, Handle

Models = tuple[tuple[Handle | None, ...], ...]
"""What the nodes of each level hold."""

AT_ONCE = 32  # client states in memory beside the budget, where all of them are touched


def keep_all(backend: Backend, clients: Iterable[int], new: Callable[[int], ClientState]) -> dict[int, Handle]:
    """A state for each of the clients, a few at a time: together they may be more than memory holds."""
    kept: dict[int, Handle] = {}
    waiting = list(clients)
    for start in range(0, len(waiting), AT_ONCE):
        kept |= {client: backend.put(new(client)) for client in waiting[start : start + AT_ONCE]}
        kept = backend.keep_states(kept)
    return kept


@dataclass(frozen=True)
class RunState:
    """The federation after `round` rounds.

    Attributes:
        round: rounds done.
        model: the cloud's model, of the last synchronisation.
        syncs: number of synchronisations so far.
        ema: moving average of the cloud's models, if one is kept.
        models: per level of the tree, from below, the model each node holds; None for one that has sent its model up and is given
            its parent's at the beginning of the next round.
        past: former models that a plan may still name, by the round at whose beginning nodes had them; the cloud's come last.
        statistics: per level, what each node has seen since it sent its model to its parent last.
        client_states: what clients keep between rounds, where they do; the ones that took part last come last.
        state_rounds: the round that each of them comes from: with client and architecture, it says which state it is.
        memory: what the planner of rounds remembers.
        importance: sums of what clients say of the channels [num_scores], from a synchronisation to the pruning after it in the
            same round; never saved.
        server: vectors that the method and the server's optimiser keep at the cloud [num_params].
        residuals: what messages over the cloud's own links have left out so far, by hop and sender [num_params].
        plan: how the network was pruned, once it was.
        pruned_round: the round after which the present architecture began (0: from the start); warm-up counts from there.
        plan_owed: clients that keep state of the former architecture and have not taken part since: they still need the plan.
        failures: what went wrong so far, a sentence each.
    """

    round: int
    model: Payload
    ema: Payload | None
    models: Models
    statistics: tuple[tuple[EdgeStatistics, ...], ...]
    client_states: dict[int, Handle] = field(default_factory=dict)
    state_rounds: dict[int, int] = field(default_factory=dict)
    server: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    residuals: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    plan: PrunePlan | None = None
    pruned_round: int = 0
    plan_owed: frozenset[int] = frozenset()
    failures: tuple[str, ...] = ()
    syncs: int = 0
    past: Mapping[int, Models] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)
    importance: NDArray[np.float32] | None = None

    @property
    def edge_statistics(self) -> tuple[EdgeStatistics, ...]:
        """Of those who aggregate clients' updates."""
        return self.statistics[0]

    @property
    def plan_channels(self) -> int:
        """Length of the plan by which the network was pruned; 0 before that."""
        return 0 if self.plan is None else self.plan.num_channels

    def broadcast(self, names: Sequence[Kind]) -> Payload:
        """What the aggregators are given: the model, and those of the server's vectors that travel."""
        return replace(self.model, beside={name: self.server[name] for name in names})

    @property
    def delivered(self) -> Payload:
        """The model a user gets: the moving average where one is kept, the cloud's model elsewhere."""
        return self.model if self.ema is None else self.ema
