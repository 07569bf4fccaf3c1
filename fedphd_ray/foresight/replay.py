"""The schedule of a run replayed without training: messages with sizes and no values, and what simulated devices do."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.devices.profiles import Devices
from fedphd_ray.federation.channel.links import Message
from fedphd_ray.federation.channel.protocol import Holdings, statistics
from fedphd_ray.federation.planning.simulated import SimulatedSchedule
from fedphd_ray.federation.planning.workload import Workload, lost_rows
from fedphd_ray.federation.sums.merge import held_by
from fedphd_ray.plans import Flight, Memory, RoundPlan
from fedphd_ray.records import EdgeStatistics
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.strategies.homogeneity import homogeneity_score, uniform
from fedphd_ray.tensors import Layout
from fedphd_ray.topology import Hop


@dataclass(frozen=True)
class Simulated:
    """What devices and links do to a run.

    Attributes:
        devices: as they were drawn.
        flights: per round, of everybody whose work ended in it.
        seconds: simulated, of the whole run.
        client_seconds: what each client would take for a round if nobody shared its edge [num_clients], by architecture.
        needed_bytes: memory that training takes on a client, by architecture.
        whole: everybody trains the whole network, or nothing.
    """

    devices: Devices
    flights: tuple[tuple[Flight, ...], ...]
    seconds: float
    client_seconds: dict[str, NDArray[np.float64]]
    needed_bytes: tuple[int, ...]
    whole: bool = True


@dataclass(frozen=True)
class EdgeFigures:
    """What edges have seen when they send their models up, in the mean over the run.

    Attributes:
        homogeneity: SH of an edge.
        worst: SH of the least homogeneous edge.
        imbalance: images of the largest less those of the smallest edge, by those of all.
    """

    homogeneity: float
    worst: float
    imbalance: float

    @classmethod
    def of(cls, moments: Sequence[Sequence[EdgeStatistics]]) -> "EdgeFigures | None":
        """Over some moments; None for none."""
        if not moments:
            return None
        target = uniform(len(moments[0][0].label_counts))
        scores = np.array([[homogeneity_score(edge.distribution, target) for edge in edges] for edges in moments])
        sizes = np.array([[edge.num_samples for edge in edges] for edges in moments])
        spans = np.ptp(sizes, axis=1) / np.maximum(1, sizes.sum(axis=1))
        return cls(float(scores.mean()), float(scores.min(axis=1).mean()), float(spans.mean()))


class Replay:
    """Counts the bytes of a run round by round: the messages of the run, with models that have a size and no values.

    Args:
        experiment: what would run.
        layouts: by architecture version.
        num_channels: prunable channels, the length of a pruning plan.
    """

    def __init__(self, experiment: Experiment, layouts: Sequence[Layout], num_channels: int) -> None:
        self._experiment = experiment
        strategy = experiment.strategy
        self._held = []
        for version, layout in enumerate(layouts):
            self._held.append(Holdings.sized(layout, strategy, version, num_channels if version else 0))
        counts = np.zeros(experiment.population.num_classes, np.int64)
        self._counts = counts if strategy.shares_label_statistics else None
        self._bytes: dict[str, int] = defaultdict(int)
        self._with_state: set[int] = set()
        self._owed: set[int] = set()
        self._version = int(experiment.pruning.at_start)
        self._holds = [[False] * nodes for nodes in experiment.topology.sizes]
        self._worked: list[set[int]] = [set() for _ in self._holds]
        self._syncs = 0
        self._memory: Memory = {}
        self._flights: list[tuple[Flight, ...]] = []
        self._seconds = 0.0
        self._round = 0
        self.sendings: list[tuple[EdgeStatistics, ...]] = []
        self.trained: Counter[tuple[int, float]] = Counter()

    def replay(self) -> tuple[dict[str, int], int]:
        """Bytes by hop, and the number of synchronisations."""
        experiment = self._experiment
        schedule, num_classes = experiment.schedule, experiment.population.num_classes
        edges = [EdgeStatistics.empty(num_classes) for _ in schedule.topology.aggregators]
        for round in range(1, schedule.rounds + 1):
            self._round, population = round, experiment.population_at(round)
            for edge in schedule.away(round):
                self._holds[0][edge], edges[edge] = False, edges[edge].reset()
                self._worked[0].discard(edge)
            workload = self._workload()
            plan = schedule.plan(round, experiment.strategy, population, edges, self._memory, workload)
            self._memory = plan.memory
            self._count_down(plan)
            self._count_clients(plan)
            for edge in schedule.topology.aggregators:
                clients = [client for client, chosen in plan.edge_of.items() if chosen == edge]
                edges[edge] = edges[edge].merge(population.label_counts[clients].sum(axis=0))
            senders = self._count_up(plan)
            self.sendings += [tuple(edges)] if senders else []
            for child in senders:
                edges[child] = edges[child].reset()
            self._flights.append(plan.flights)
            self._seconds = plan.sim_seconds
            if plan.prunes:
                self._version += 1
                self._owed = set(self._with_state)
        return {str(hop): self._bytes[hop] for hop in schedule.topology.hops if hop in self._bytes}, self._syncs

    @property
    def simulated(self) -> Simulated | None:
        """What was replayed, where devices are simulated."""
        devices = self._experiment.devices
        if devices is None:
            return None
        alone = {"round": self._alone(0)}
        if len(self._held) > 1:
            alone = {"round, dense": alone["round"], "round, pruned": self._alone(len(self._held) - 1)}
        needed = tuple(cost.memory_bytes for cost in self._experiment.costs)
        whole = self._experiment.narrowings[0] is None
        return Simulated(devices, tuple(self._flights), self._seconds, alone, needed, whole)

    def _alone(self, version: int) -> NDArray[np.float64]:
        """Seconds [num_clients] of a round in one architecture."""
        assert isinstance(self._experiment.schedule, SimulatedSchedule)
        return self._experiment.schedule.seconds(self._workload(version))

    def _workload(self, version: int | None = None) -> Workload:
        version = self._version if version is None else version
        experiment = self._experiment
        return Workload(
            strategy=experiment.strategy,
            topology=experiment.topology,
            codecs=experiment.codecs,
            held=self._held[version],
            counts=self._counts,
            cost=experiment.costs[version],
            images=experiment.training_images,
            known=self._with_state,
            owed=self._owed,
            first=not self._syncs and not any(held for level in self._holds for held in level),
            holding=self._holds,
            narrowing=experiment.narrowings[version],
            num_scores=experiment.num_scores(self._round, version),
            away=experiment.schedule.away(self._round),
        )

    def _count_down(self, plan: RoundPlan) -> None:
        """Nodes that hold no model are given one, where anybody takes part."""
        topology = self._experiment.topology
        first = not self._syncs and not any(held for level in self._holds for held in level)
        message = self._held[self._version].to_child(first=first, owed=bool(self._owed))
        for level in range(topology.depth) if plan.asked else ():
            reached = [bool(level) or index not in plan.away for index in range(topology.sizes[level])]
            given = [index for index, held in enumerate(self._holds[level]) if reached[index] and not held]
            if not topology.flat:
                self._add(topology.down(level), len(given), message)
            self._holds[level] = reached

    def _count_clients(self, plan: RoundPlan) -> None:
        topology, cohort, workload = self._experiment.topology, plan.edge_of, self._workload()
        heard = [len(topology.aggregators) - len(self._experiment.schedule.away(round)) for round in plan.asked.values()]
        self._add(topology.to_client, sum(heard), statistics(self._counts))
        for row in lost_rows(plan, workload) if plan.flights else ():
            self._bytes[row.hop] += row.num_bytes
        downloads = Counter((client in self._with_state, client in self._owed, plan.width(client)) for client in cohort)
        self.trained.update((self._version, plan.width(client)) for client in cohort)
        for (known, owed, width), times in downloads.items():
            self._add(topology.to_client, times, workload.held_at(width).to_client(known=known, owed=owed))
        uploads = Counter((plan.width(client), plan.reported_parts.get(client)) for client in cohort)
        for (width, names), times in uploads.items():
            self._add(topology.from_client, times, workload.up(width, names))
        self._owed -= set(cohort)
        if self._experiment.clients_keep:
            self._with_state |= set(cohort)

    def _count_up(self, plan: RoundPlan) -> list[int]:
        """What nodes over nodes aggregate; the edges that have sent."""
        topology, edges = self._experiment.topology, []
        for edge in plan.edge_of.values():
            self._worked[0].add(edge)
        for level in range(1, topology.depth + 1):
            below = self._holds[level - 1]
            for each in plan.at(level):
                senders = [child.sender for child in held_by([held or None for held in below], each).contributions]
                if not senders or (level < topology.depth and not self._holds[level][each.node]):
                    continue
                self._count_senders(level - 1, senders)
                if level < topology.depth and self._worked[level - 1].intersection(senders):
                    self._worked[level].add(each.node)
                self._worked[level - 1].difference_update(senders)
                for child in senders:
                    below[child] = False
                edges += senders if level == 1 else []
                self._syncs += level == topology.depth
        return edges

    def _count_senders(self, level: int, senders: Sequence[int]) -> None:
        """Nodes under which clients have trained send what these sent beside their updates, too."""
        if self._experiment.topology.flat:
            return
        workload, worked = self._workload(), len(self._worked[level].intersection(senders))
        for times, some in ((worked, True), (len(senders) - worked, False)):
            self._add(self._experiment.topology.up(level), times, workload.to_parent(worked=some))

    def _add(self, hop: Hop, times: int, message: Message) -> None:
        """So many messages over links of a hop."""
        rows = self._experiment.codecs.link(0, hop, "", "").rows(message)
        if times and rows:
            self._bytes[hop] += times * sum(row.num_bytes for row in rows)
