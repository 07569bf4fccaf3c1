"""Small federations for tests, and one way to run them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fedphd_ray.config import Config, parse_config
from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.federation.channel.ledger import Ledger
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import Kind, Transfer
from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.driver.start import start_backend
from fedphd_ray.runtime.events import Event, Judged, Planned, RoundDone, Started
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend
from fedphd_ray.tensors import as_tensor, digest
from fedphd_ray.topology import Hop


def shapes(num_clients: int, partition: dict[str, object], num_images: int = 120) -> dict[str, object]:
    """A small data section: ten classes of 8x8 colour images."""
    return {"name": "shapes", "image_size": 8, "num_images": num_images, "num_clients": num_clients, "partition": partition}


TINY: dict[str, object] = {
    "name": "tiny",
    "seed": 7,
    "data": shapes(6, {"name": "classes", "classes_per_client": 2}),
    "model": {"widths": [16, 32], "layers_per_block": 1, "groups": 4, "attention": [False, True], "dropout": 0.1},
    "strategy": {"name": "fedphd"},
    "hierarchy": {"num_edges": 2, "cloud_period": 2},
    "schedule": {"rounds": 4, "clients_per_round": 4, "block_size": 2},
    "local": {"epochs": 1, "batch_size": 12, "learning_rate": 1.0e-3},
    "pruning": {"mode": "sparse_then_prune", "round": 2, "ratio": 0.5, "sparsity": 1.0e-4},
    "evaluation": {"every": 0},
    "runtime": {"backend": "local", "cpus_per_host": 0.5},
    "checkpoint": {"every": 0},
}
"""Four rounds of six clients: two dense, two pruned; dropout, attention, both tiers and the penalty take part."""


FLAT = {"num_edges": 0, "cloud_period": 1}
DEEP = {
    "num_edges": 4,
    "cloud_period": 4,
    "tiers": [{"name": "edge", "nodes": 4, "period": 2}, {"name": "region", "nodes": 2, "period": 2}],
}
METHODS: dict[str, dict[str, object]] = {
    "fedphd": {},
    "fedphd with kept moments": {"local": {"optimizer_state": "per_client"}},
    "fedavg": {"strategy": {"name": "fedavg"}},
    "fedphd that is told classes": {"model": {"class_conditional": True}},
    "fedphd in int8 with error feedback": {
        "communication": {"from_clients": {"codec": "int8", "rounding": "stochastic", "error_feedback": True}}
    },
    "fedphd with client pruning": {
        "schedule": {"clients_per_round": 3, "participation": {"name": "fedclip", "warm_up": 0, "patience": 1, "noise": 0.4}}
    },
    "sfedhp": {"strategy": {"name": "sfedhp", "gamma1": 0.0, "gamma2": 0.0}},
    "sparse sfedhp": {
        "strategy": {"name": "sfedhp", "rho": 0.01},
        "communication": {"from_clients": {"codec": "threshold", "below": 0.01}},
    },
    "heterofl": {"strategy": {"name": "fedavg"}, "submodels": {"widths": [1.0, 0.7]}, "pruning": {"ratio": 0.25}},
    "fedrolex": {
        "strategy": {"name": "fedavg"},
        "hierarchy": FLAT,
        "submodels": {"scheme": "rolling", "widths": [0.75, 0.5]},
        "pruning": {"mode": "none", "round": None},
    },
    "masked fedavg": {
        "strategy": {"name": "fedavg"},
        "submodels": {"scheme": "masked", "widths": [1.0, 0.6, 0.3]},
        "local": {"optimizer_state": "per_client"},
    },
    "fedphd with sub-models": {
        "submodels": {"widths": [1.0, 0.7]},
        "pruning": {"ratio": 0.25},
        "local": {"optimizer_state": "per_client"},
        "communication": {"from_clients": {"codec": "int8", "error_feedback": True}},
    },
    "flat fedavg": {"strategy": {"name": "fedavg"}, "hierarchy": FLAT},
    "fedavgm": {"strategy": {"name": "fedavg"}, "server": {"optimizer": {"name": "fedavgm"}}},
    "fedadam": {"strategy": {"name": "fedavg"}, "server": {"optimizer": {"name": "fedadam"}}},
    "fedprox": {"strategy": {"name": "fedprox", "mu": 1.0}},
    "scaffold": {"strategy": {"name": "scaffold"}, "hierarchy": FLAT},
    "scaffold, full gradient": {"strategy": {"name": "scaffold", "option": "full_gradient"}, "hierarchy": FLAT},
    "moon": {"strategy": {"name": "moon"}},
    "fednova": {"strategy": {"name": "fednova"}},
    "feddyn": {"strategy": {"name": "feddyn"}, "hierarchy": FLAT},
    "feddiffuse usplit": {"strategy": {"name": "feddiffuse", "mode": "usplit"}},
    "feddiffuse ulatdec": {"strategy": {"name": "feddiffuse", "mode": "ulatdec"}, "pruning": {"mode": "at_init", "round": None}},
    "feddiffuse udec": {"strategy": {"name": "feddiffuse"}, "hierarchy": FLAT, "pruning": {"mode": "at_init", "round": None}},
}
"""What `tiny` is given for each method: every strategy is here (a law of the tests), and what combines with it."""
SHRINKING = ("sparse sfedhp",)
"""Those whose servers and links make weights smaller even where nobody trains."""


def method(name: str, **sections: object) -> Config:
    """A tiny federation under a method, with more sections changed."""
    merged: dict[str, object] = dict(METHODS[name])
    for section, change in sections.items():
        old = merged.get(section)
        merged[section] = old | change if isinstance(old, dict) and isinstance(change, dict) and "name" not in change else change
    return tiny(**merged)


@cache
def outcome_of(name: str) -> "Outcome":
    """A method's tiny federation in one process; run once, for all laws that look at it."""
    return federate(method(name))


def reference(name: str) -> str:
    """The digest of its model."""
    return outcome_of(name).sha256


def tiny(**sections: object) -> Config:
    """`TINY` with keys of sections replaced, e.g. `schedule={"rounds": 2}`; a section given with a name replaces all of it."""
    tree = dict(TINY)
    for section, change in sections.items():
        old = tree.get(section)
        if isinstance(change, dict) and isinstance(old, dict) and "name" not in change:
            tree[section] = old | change
        else:
            tree[section] = change
    return parse_config(tree)


@dataclass
class Recorder:
    """A reporter that remembers."""

    rounds: list[RoundRecord] = field(default_factory=list)
    qualities: list[tuple[int, QualityReport]] = field(default_factory=list)
    begun: tuple[int, dict[str, int]] = (0, {})
    events: list[Event] = field(default_factory=list)

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Started(round, bytes_by_hop):
                self.begun = (round, dict(bytes_by_hop))
            case Judged(round, quality):
                self.qualities.append((round, quality))
            case RoundDone(record, quality):
                self.on_round(record, quality)

    def on_round(self, record: RoundRecord, quality: QualityReport | None) -> None:
        self.rounds.append(record)


class StoppedHereError(Exception):
    """What `Until` raises."""


class Until(Recorder):
    """Stops a run when the round after a last one is over."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def on_round(self, record: RoundRecord, quality: QualityReport | None) -> None:
        super().on_round(record, quality)
        if record.round > self.last:
            raise StoppedHereError


@dataclass(frozen=True)
class Outcome:
    """What came of a federation."""

    state: RunState
    transfers: tuple[Transfer, ...]
    records: list[RoundRecord]
    plans: tuple[RoundPlan, ...] = ()

    @property
    def sha256(self) -> str:
        model = self.state.delivered
        return digest(model.layout.views(as_tensor(model.vector)))


def federate(
    config: Config | Experiment, backend: Backend | None = None, directory: Path | None = None, reporter: Recorder | None = None
) -> Outcome:
    """Runs a federation on the backend that its configuration asks for, or on a given one; nothing is written."""
    experiment = config.build() if isinstance(config, Config) else config
    if backend is None:
        with start_backend(experiment, lambda line: None) as started:
            return federate(experiment, started.backend, directory, reporter)
    ledger, recorder = Ledger(), reporter or Recorder()
    with Observer(experiment, backend, ledger=ledger, reporter=recorder, directory=directory) as observer:
        cloud = Cloud(experiment, backend, observer)
        state = cloud.run(cloud.begin())
    rows = (row | {"hop": Hop(row["hop"]), "kind": Kind(row["kind"])} for row in ledger.unwritten.to_pylist())
    plans = tuple(event.plan for event in recorder.events if isinstance(event, Planned))
    return Outcome(state, tuple(Transfer(**row) for row in rows), recorder.rounds, plans)


def sums_by_hop(outcome: Outcome) -> Counter[str]:
    sums: Counter[str] = Counter()
    for row in outcome.transfers:
        sums[row.hop] += row.num_bytes
    return sums


def first_sendings(transfers: Sequence[Transfer]) -> list[Transfer]:
    """What a run that nothing happened to would have sent: no second downloads, and uploads whichever training they are of.

    Rows have no order within a round: what was sent in vain is known to the driver, the rest to whoever received it.
    """
    kept = [row._replace(attempt=0) for row in transfers if not row.attempt or row.destination.partition("/")[0] != "client"]
    return sorted(kept, key=lambda row: (row.round, row.hop, row.source, row.destination, row.kind))
