"""Frozen records that cross borders: between layers, between processes, between tiers of the federation."""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.tensors import Layout
from fedphd_ray.topology import Hop


class Kind(enum.StrEnum):
    """What a transfer carries, or a node keeps beside its model."""

    MODEL = "model"
    CONTROL = "control"
    COVERAGE = "coverage"
    STATISTICS = "statistics"
    PLAN = "plan"
    MASK = "mask"
    IMPORTANCE = "importance"
    ANCHOR = "anchor"  # a former model that a node goes back to; never sent by this name


class Outcome(enum.StrEnum):
    """Why a client has no part in a round that it was asked to take part in."""

    FAILED = "failed"  # it raised, or what it made may not be used
    LATE = "late"  # its time was over
    LOST = "lost"  # its process died, more often than it is tried again


class Transfer(NamedTuple):
    """One message over one link: one row of the ledger. There are thousands, and a tuple crosses processes several times faster.

    `num_params` counts scalars, `num_bytes` what a wire would carry, `version` is the architecture (0 = dense),
    `sim_seconds` the simulated time on the link, `attempt` 0 for a first sending and more for retries, `lost` is true for what
    was sent to or by a simulated client whose update is not used.
    """

    round: int
    hop: Hop
    source: str
    destination: str
    kind: Kind
    codec: str
    version: int
    num_params: int
    num_bytes: int
    sim_seconds: float = 0.0
    attempt: int = 0
    lost: bool = False


@dataclass(frozen=True)
class Payload:
    """A model on its way: one contiguous float32 vector [num_params], its layout and its architecture version.

    The vector is NumPy because the object store hands NumPy buffers over without copying; it may be read-only. `beside` are more
    vectors [num_params] by their names, for methods that send some: the server's on the way down, sums of the clients' on the way
    up.
    """

    vector: NDArray[np.float32]
    layout: Layout
    version: int
    beside: Mapping[Kind, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.vector.shape == (self.layout.num_params,)
        assert self.vector.dtype == np.float32
        assert self.vector.flags.c_contiguous


@dataclass(frozen=True)
class EdgeStatistics:
    """What a node has seen since it sent its model up last, as label counts: they add up exactly, and give Q_e and N_e.

    Attributes:
        label_counts: int64 [num_classes], over all updates aggregated since the last synchronisation.
        last_samples: n_e, images of the clients in the edge's last non-empty round (1 before the first).
        weight: sum of the clients' weights since the last synchronisation.
        part_weights: of those who reported it, for each part of the model (`Strategy.parts`); empty before the first round.
        steps: local steps by which the edge's model has moved since then: the mean of its clients, added up over the rounds.
    """

    label_counts: NDArray[np.int64]
    last_samples: int = 1
    weight: float = 0.0
    part_weights: tuple[float, ...] = ()
    steps: float = 0.0

    @classmethod
    def empty(cls, num_classes: int) -> "EdgeStatistics":
        """An edge before its first round."""
        return cls(np.zeros(num_classes, dtype=np.int64))

    @property
    def num_samples(self) -> int:
        """N_e."""
        return int(self.label_counts.sum())

    @property
    def distribution(self) -> NDArray[np.float64]:
        """Q_e [num_classes]; uniform while N_e = 0, where it has no weight in any merge."""
        return distribution(self.label_counts)

    def merge(self, label_counts: NDArray[np.int64]) -> "EdgeStatistics":
        """The counts after one round's clients, whose summed label counts these are; nothing changes without clients."""
        samples = int(label_counts.sum())
        return replace(self, label_counts=self.label_counts + label_counts, last_samples=samples) if samples else self

    def after(self, report: "EdgeReport") -> "EdgeStatistics":
        """Everything after a round that the edge reports."""
        before = self.part_weights or (0.0,) * len(report.part_weights)
        return replace(
            self.merge(report.label_counts),
            weight=self.weight + report.weight,
            part_weights=tuple(old + new for old, new in zip(before, report.part_weights, strict=True)),
            steps=self.steps + report.mean_steps,
        )

    def after_merge(self, children: Sequence["EdgeStatistics"]) -> "EdgeStatistics":
        """Everything after a node has merged the models of its children: it has seen what they have."""
        own = self.merge(np.sum([child.label_counts for child in children], axis=0))
        samples = sum(child.num_samples for child in children)
        steps = sum(child.num_samples * child.steps for child in children) / samples if samples else 0.0
        counted = [self.part_weights, *(child.part_weights for child in children)]
        return replace(
            own,
            last_samples=sum(child.last_samples for child in children if child.num_samples) or self.last_samples,
            weight=self.weight + sum(child.weight for child in children),
            part_weights=tuple(map(sum, zip(*(weights for weights in counted if weights), strict=True))),
            steps=self.steps + steps,
        )

    def reset(self) -> "EdgeStatistics":
        """After its model was sent up: Q_e uniform, N_e = 0; n_e stays (specs of the authors' protocol)."""
        return EdgeStatistics(np.zeros_like(self.label_counts), self.last_samples)

    def reported(self, part: int) -> float:
        """Share of the edge's weight that clients have who reported a part; 1 before anybody reported anything."""
        return self.part_weights[part] / self.weight if self.weight > 0 else 1.0


def distribution(label_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Label counts [num_classes] as shares that sum to 1; uniform for no samples at all."""
    total = label_counts.sum()
    if total == 0:
        return np.full(len(label_counts), 1.0 / len(label_counts))
    return np.asarray(label_counts / total)


BY_MAGNITUDE = -1


class Slice(NamedTuple):
    """A sub-model: share of each layer's channels, and by how many channels its window is moved.

    With `BY_MAGNITUDE` in place of a shift it is the share of all parameters, those that are largest when they are sent.
    """

    width: float
    shift: int


@dataclass(frozen=True)
class LocalOrder:
    """What clients of one block are told besides the model.

    Attributes:
        round: round number, part of the key of their randomness.
        edge: who asks.
        learning_rate_scale: warm-up factor in (0, 1].
        sparsity: strength of the group-norm penalty, 0 for none.
        reported_parts: see `RoundPlan`.
        attempt: how often these clients were tried before in this round, and their host died.
        plan_channels: length of the plan by which the network was pruned; 0 before that.
        plan_owed: clients that keep state of the former architecture: they are sent that plan.
        factors: client -> factor on its weight; a client not in it has 1.
        work: client -> share of its local steps that it takes, one at least; a client not in it takes all.
        asks_divergence: whether their reports say how far they have moved.
        slices: client -> what it trains of the network; a client not in it trains all of it.
        asks_importance: whether they score the network's channels, which are pruned after this round.
    """

    round: int
    edge: int
    learning_rate_scale: float
    sparsity: float
    reported_parts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    attempt: int = 0
    plan_channels: int = 0
    plan_owed: frozenset[int] = frozenset()
    factors: Mapping[int, float] = field(default_factory=dict)
    work: Mapping[int, float] = field(default_factory=dict)
    asks_divergence: bool = False
    slices: Mapping[int, Slice] = field(default_factory=dict)
    asks_importance: bool = False


@dataclass(frozen=True)
class ClientReport:
    """How local training went on one client: mean loss over its steps, images that went through them, n_i, why it has no part.

    `seconds` is the wall time that it took where it was trained, `attempt` how often its host died before, `divergence` the
    length of its update relative to that of the model it received (not a number where nobody asked for it).
    """

    client: int
    edge: int
    loss: float
    num_steps: int
    num_images: int
    num_samples: int
    failure: str = ""
    outcome: Outcome | None = None
    seconds: float = 0.0
    attempt: int = 0
    divergence: float = math.nan


@dataclass(frozen=True)
class PartialUpdate:
    """The sum over some clients of weight times (trained model - received model), and everything else that adds up.

    Attributes:
        totals: sums by name, float32 [num_params] each: of the weighted updates (`model`), and of what the clients sent beside
            them. Empty when no client of it is usable.
        weights: per usable client, its weight on each part of the model (0 on those it does not report).
        label_counts: int64 [num_classes] over the usable clients.
        reports: one per client, usable or not.
        transfers: what its clients received and sent.
        train_seconds: time spent in local training, in seconds of wall time of one slot.
        busy_seconds: time that slots spent on these clients in all.
        fold_seconds: time spent adding up partial updates since.
    """

    totals: Mapping[Kind, NDArray[np.float32]]
    weights: tuple[tuple[float, ...], ...]
    label_counts: NDArray[np.int64]
    reports: tuple[ClientReport, ...]
    transfers: tuple[Transfer, ...]
    train_seconds: float
    busy_seconds: float
    fold_seconds: float = 0.0


@dataclass(frozen=True)
class EdgeReport:
    """What an edge tells the cloud every round, without the model; the seconds are those of `PartialUpdate`.

    `weight` is the sum of its clients' weights, `part_weights` that of those who reported each part of the model.
    """

    edge: int
    weight: float
    part_weights: tuple[float, ...]
    label_counts: NDArray[np.int64]
    reports: tuple[ClientReport, ...]
    transfers: tuple[Transfer, ...]
    train_seconds: float
    busy_seconds: float
    fold_seconds: float

    @property
    def mean_steps(self) -> float:
        """Local steps of the clients whose updates are in it, weighted by their images; 0 without any."""
        used = [report for report in self.reports if not report.failure]
        samples = sum(report.num_samples for report in used)
        return sum(report.num_samples * report.num_steps for report in used) / samples if samples else 0.0


@dataclass(frozen=True)
class ClientState:
    """What a client keeps between rounds, as flat vectors of its model's layout, with the architecture version they fit."""

    vectors: dict[str, NDArray[np.float32]]
    scalars: dict[str, float]
    version: int
