"""A client host: trains clients one after another in one process. A plain class; Ray is applied to it elsewhere."""

import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedphd_ray.diffusion.process import NoiseProcess
from fedphd_ray.diffusion.sampling import sample_chunk
from fedphd_ray.diffusion.unet import UNetSpec, build_unet
from fedphd_ray.errors import RunFailedError
from fedphd_ray.federation.channel import Channel
from fedphd_ray.federation.local_training import FlatModel, LocalConfig, LocalResult, train_client
from fedphd_ray.pruning.importance import SparsityPenalty
from fedphd_ray.records import (
    ClientReport,
    ClientState,
    LocalOrder,
    PartialUpdate,
    Payload,
    Topology,
    Transfer,
    client_name,
)
from fedphd_ray.seeds import Purpose, torch_generator
from fedphd_ray.strategies import Strategy
from fedphd_ray.tensors import as_numpy, as_tensor


@dataclass(frozen=True)
class HostSetup:
    """What every host is given once.

    Attributes:
        images: float32 [N, C, H, W] in [-1, 1], all clients' images, shared and read-only.
        client_indices: per client, the rows of `images` that are its own.
        label_counts: int64 [num_clients, num_classes].
        threads: torch threads of the process; fixed, because sums inside an operator depend on it.
        use_gpu: train on the CUDA device that the process was given.
    """

    spec: UNetSpec
    process: NoiseProcess
    strategy: Strategy
    local: LocalConfig
    penalty: SparsityPenalty
    topology: Topology
    images: NDArray[np.float32]
    client_indices: tuple[NDArray[np.int64], ...]
    label_counts: NDArray[np.int64]
    seed: int
    threads: int
    use_gpu: bool


@dataclass(frozen=True)
class SampleChunk:
    """One piece of a set of samples: `index` and `size` fix its noise and its batch, so that any host may draw it."""

    round: int
    index: int
    size: int
    steps: int


class ClientHost:
    """Trains clients of a block and returns one sum of their updates.

    Args:
        setup: shared by all hosts.
    """

    def __init__(self, setup: HostSetup) -> None:
        torch.set_num_threads(setup.threads)
        self._setup = setup
        self._device = torch.device("cuda" if setup.use_gpu and torch.cuda.is_available() else "cpu")
        self._images = as_tensor(setup.images)
        self._models: dict[int, FlatModel] = {}

    @property
    def keeps_states(self) -> bool:
        """Whether clients keep anything between rounds."""
        return self._setup.local.keeps_state

    def train(
        self, payload: Payload, order: LocalOrder, clients: Sequence[int], states: Sequence[ClientState | None]
    ) -> tuple[PartialUpdate, list[ClientState | None]]:
        """Trains each client from the received model and folds their weighted updates in the given order.

        A client whose loss or update is not finite is reported, and left out of the sum; it keeps its former state.
        """
        model = self._model(payload)
        start = as_tensor(payload.vector).to(self._device)
        total: Tensor | None = None
        weight, train_seconds = 0.0, 0.0
        reports: list[ClientReport] = []
        transfers: list[Transfer] = []
        kept_states: list[ClientState | None] = []
        usable: list[int] = []
        for client, state in zip(clients, states, strict=True):
            began = time.perf_counter()
            result = self._train_one(model, start, order, client, payload.version, state)
            update = torch.sub(model.vector, start)
            failure = _failure(result, update)
            train_seconds += time.perf_counter() - began
            reports.append(ClientReport(client, order.edge, result.loss, result.num_steps, failure))
            kept_states.append(state if failure else result.state)
            if failure:
                continue
            received, rows = self._upload(update, order, client, payload.version)
            transfers += rows
            client_weight = self._setup.strategy.client_weight(len(self._setup.client_indices[client]))
            term = received.mul_(client_weight)
            total = term if total is None else total.add_(term)
            weight += client_weight
            usable.append(client)
        partial = PartialUpdate(
            total=None if total is None else as_numpy(total),
            weight=weight,
            label_counts=self._setup.label_counts[usable].sum(axis=0),
            reports=tuple(reports),
            transfers=tuple(transfers),
            train_seconds=train_seconds,
        )
        return partial, kept_states

    def sample(self, payload: Payload, chunk: SampleChunk) -> NDArray[np.float32]:
        """Images [chunk.size, C, H, W] in [0, 1] from a model; the noise is keyed by (seed, round, chunk)."""
        model = self._model(payload)
        model.vector.copy_(as_tensor(payload.vector))
        generator = torch_generator(self._setup.seed, Purpose.SAMPLING, chunk.round, chunk.index)
        shape = tuple(self._setup.images.shape[1:])
        samples = sample_chunk(model.module, self._setup.process, shape, chunk.size, chunk.steps, generator)
        return as_numpy(samples)

    def _model(self, payload: Payload) -> FlatModel:
        """The module of this architecture, built once; a former architecture is never needed again."""
        if payload.version not in self._models:
            self._models.clear()
            module = build_unet(self._setup.spec, payload.layout.by_name, device=self._device)
            self._models[payload.version] = FlatModel(module)
        model = self._models[payload.version]
        assert model.layout == payload.layout
        return model

    def _train_one(
        self, model: FlatModel, start: Tensor, order: LocalOrder, client: int, version: int, state: ClientState | None
    ) -> LocalResult:
        setup = self._setup
        try:
            model.vector.copy_(start)
            images = self._images[torch.from_numpy(setup.client_indices[client])].to(self._device)
            return train_client(
                model,
                images,
                setup.process.loss,
                setup.penalty,
                setup.local,
                order,
                client=client,
                seed=setup.seed,
                version=version,
                state=state,
            )
        except Exception as error:
            where = f"{client_name(client)} on {setup.topology.aggregator_name(order.edge)} in round {order.round}"
            raise RunFailedError(f"{where} failed in local training:\n{traceback.format_exc()}") from error

    def _upload(self, update: Tensor, order: LocalOrder, client: int, version: int) -> tuple[Tensor, list[Transfer]]:
        """Sends an update, and the label counts where the method shares them."""
        setup = self._setup
        channel = Channel(order.round, setup.topology.from_client, client_name(client))
        destination = [setup.topology.aggregator_name(order.edge)]
        received, rows = channel.send_model(update, version, destination)
        if setup.strategy.shares_label_statistics:
            _, statistics_rows = channel.send_statistics(setup.label_counts[client], destination)
            rows = rows + statistics_rows
        return received, rows


def _failure(result: LocalResult, update: Tensor) -> str:
    """Why an update must not be aggregated; empty if it may."""
    if not math.isfinite(result.loss):
        return f"loss became {result.loss}"
    # One non-finite entry makes the sum non-finite; finite entries overflow it only when they are useless too.
    if not math.isfinite(float(update.sum())):
        return "the update holds non-finite values"
    return ""
