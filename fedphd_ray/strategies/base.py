"""The seam of a federated method: a frozen record of hyper-parameters and a few hooks, with FedAvg's behaviour as default.

The server half are hooks of `Strategy`, the client half is the `LocalMethod` that it makes for each client and round. Neither
keeps anything of its own: what a method remembers are flat vectors of the model's layout that the driver keeps for it, so that
they are in every checkpoint and are cut when the model is pruned. Pruning, partition, placement and codec are other choices;
none is asked about.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedphd_ray.population import Population
from fedphd_ray.records import EdgeStatistics, Kind
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies.parts import Part, whole
from fedphd_ray.tensors import Layout

KEPT_PARTS = "private"
"""Name under which a client keeps its private parts, for methods with `keeps_parts_private`: zero everywhere else."""
PERSONAL = "personal"
"""Name under which a client keeps a model of its own, for methods with `keeps_personal_models`."""


class Loss(Protocol):
    """The noise-prediction loss: a scalar from a denoiser, clean images [B, C, H, W] in [-1, 1], and a CPU generator."""

    def __call__(self, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar, with a graph to go back on."""
        ...


@dataclass(frozen=True)
class LocalStart:
    """What the client half of a method begins with. All vectors have the layout of the model; none may be written into.

    Attributes:
        received: the model as it arrived; parts that did not travel hold the aggregator's copy, which the client cannot know.
        beside: the server's vectors that arrived beside it (`server_sends`), by their names.
        kept: what this client kept from its last round, by the names it gave; empty the first time.
        module: the network that is trained; between steps its parameters are what is trained.
        layout: names and shapes in the vectors.
        learning_rate: of the local optimiser in this round.
        full_gradient: the gradient of the loss at `received` over all of the client's images: one more pass over them.
    """

    received: Tensor
    beside: Mapping[Kind, Tensor]
    kept: Mapping[str, Tensor]
    module: nn.Module
    layout: Layout
    learning_rate: float
    full_gradient: Callable[[], Tensor]


@dataclass(frozen=True)
class LocalEnd:
    """What a client sends beside its update, by names (`clients_send`), and what it keeps for its next round.

    `Kind.COVERAGE` has a meaning of its own: how much each coordinate of the update counts [num_params], in [0, 1]. Means are
    then taken coordinate by coordinate, at every tier; one that nobody covers stays as it is. All else is added up as it is.
    """

    beside: dict[Kind, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)


class LocalMethod:
    """The client half: one client, one round. By default local training is left as it is.

    Args:
        start: what is known before the first step.
    """

    def __init__(self, start: LocalStart) -> None:
        self.start = start

    def initial(self) -> Tensor:
        """Parameters to begin with [num_params]; the client's update is measured from here."""
        return self.start.received

    def loss(self, task: Loss, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar to go down on."""
        return task(denoiser, images, generator)

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """Changes the gradient [num_params] in place, before it is clipped; `vector` are the parameters it was taken at."""

    def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
        """Called with the trained parameters [num_params]; what it returns may share no memory with them."""
        return LocalEnd()


@dataclass(frozen=True)
class Aggregate:
    """What came of a synchronisation, before the server's own step.

    Attributes:
        base: the cloud's model before it [num_params].
        mean: the weighted mean of the models [num_params].
        beside: by name, the sum of what the clients sent beside their updates.
        weight: the sum of the clients' weights (of a flat federation; with edges it is theirs in the last round).
        num_clients: all registered clients, N.
    """

    base: Tensor
    mean: Tensor
    beside: Mapping[Kind, Tensor]
    weight: float
    num_clients: int


class EdgeDraw(NamedTuple):
    """The edge that a client goes to, and how probable that was; 1 where nothing was left to chance."""

    edge: int
    probability: float = 1.0


class Strategy(Section):
    """Hooks of a federated method; subclasses are their own configuration.

    Attributes:
        name: in configurations; a class of the user's own is named by its path.
        shares_label_statistics: label counts travel (edges to clients and cloud, clients to edges); they are then in the
            ledger. A method that does not use them must not be given them.
        server_sends: names of the server's vectors that go to every client of a round.
        clients_send: names of what each of them sends beside its update (`LocalEnd.beside`).
        nodes_keep: names of the vectors that an aggregator of clients keeps beside its model, from round to round until it sends
            that up (`edge_step`).
        keeps_personal_models: clients keep a whole model of their own, which is judged and delivered beside the cloud's.
        looks_inside: its loss hooks into the network, which can therefore not be compiled.
        flat_only: the server steps after every round, so that there can be no edges.
        takes_sums: the server's step goes by the sum of the updates, which must come as they are (not normalised).
        normalise_steps: updates are divided by their number of local steps, and so made comparable (`normalisation`, FedNova).
    """

    shares_label_statistics: ClassVar[bool] = False
    server_sends: ClassVar[tuple[Kind, ...]] = ()
    clients_send: ClassVar[tuple[Kind, ...]] = ()
    nodes_keep: ClassVar[tuple[Kind, ...]] = ()
    keeps_personal_models: ClassVar[bool] = False
    looks_inside: ClassVar[bool] = False
    flat_only: ClassVar[bool] = False
    takes_sums: ClassVar[bool] = False

    name: str = ""
    normalise_steps: bool = False

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep something between rounds (`LocalEnd.kept`)."""
        return self.keeps_parts_private or self.keeps_personal_models

    @property
    def keeps_parts_private(self) -> bool:
        """Whether some parts of the model never leave the client: the cloud has no whole model then."""
        return False

    def choose_edges(
        self, cohort: Sequence[int], population: Population, edges: Sequence[EdgeStatistics], rng: np.random.Generator
    ) -> list[EdgeDraw]:
        """The edge of each client of the cohort, in its order. Default: a fixed edge per client, its id modulo the edges."""
        return [EdgeDraw(client % len(edges)) for client in cohort]

    def parts(self, layout: Layout) -> tuple[Part, ...]:
        """Shares of the model that travel and are averaged separately; together they are all of it. Default: one."""
        return whole(layout)

    def reported_parts(self, cohort: Sequence[int], rng: np.random.Generator) -> dict[int, tuple[str, ...]]:
        """Client -> names of the parts it sends back in this round; a client that is not in it sends all that are not private."""
        return {}

    def local_method(self, start: LocalStart) -> LocalMethod:
        """The client half for one client and round."""
        return LocalMethod(start)

    def client_weight(self, num_samples: int, num_steps: int) -> float:
        """Weight of a client's update at its edge. Default: its number of images n_i (McMahan et al. 2017)."""
        return float(num_samples)

    def edge_step(self, base: Tensor, mean: Tensor, kept: Mapping[Kind, Tensor]) -> tuple[Tensor, dict[Kind, Tensor]]:
        """What an aggregator of clients holds after a round, and keeps beside it. Default: the mean of its clients' models.

        Args:
            base: its model before [num_params].
            mean: of its clients' models [num_params].
            kept: what it has kept by names (`nodes_keep`); nothing in the first round since it was given its model.
        """
        return mean, {}

    def edge_sends(self, model: Tensor, kept: Mapping[Kind, Tensor]) -> Tensor:
        """What it sends up as its model, when its period is full. Default: its model."""
        return model

    def edge_weights(self, edges: Sequence[EdgeStatistics], population: Population) -> NDArray[np.float64]:
        """Weight of each edge's model at the cloud [num_edges], summing to 1. Default: images since the last synchronisation.

        An edge that nobody chose since then has no weight (it holds nothing new).
        """
        samples = np.asarray([edge.num_samples for edge in edges], dtype=np.float64)
        return samples / samples.sum() if samples.sum() > 0 else np.full(len(edges), 1.0 / len(edges))

    def initial_server(self, num_params: int) -> dict[str, Tensor]:
        """Vectors [num_params] that the server keeps, before the first round."""
        return {}

    def server_step(self, aggregate: Aggregate, server: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The cloud's new model and vectors from an aggregate. Default: the mean; nothing is kept."""
        return aggregate.mean, dict(server)
