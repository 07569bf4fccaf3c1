"""A client host: trains clients one after another in one process. A plain class; Ray is applied to it elsewhere."""

import contextlib
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedphd_ray.diffusion.sampling import sample_chunk
from fedphd_ray.diffusion.unet import build_unet
from fedphd_ray.errors import ClientTimeoutError
from fedphd_ray.federation.channel.feedback import residual_of, with_residual
from fedphd_ray.federation.channel.links import Delivery, Link
from fedphd_ray.federation.channel.protocol import Holdings, importance, upload
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.submodels.slices import MaskedSeat, Seat, masked_network, sub_network
from fedphd_ray.federation.sums.client_sums import ClientSums
from fedphd_ray.federation.training.batches import Examples
from fedphd_ray.federation.training.local_training import LocalResult, LocalTrainer
from fedphd_ray.records import BY_MAGNITUDE, ClientReport, ClientState, LocalOrder, Outcome, PartialUpdate, Payload, Slice
from fedphd_ray.runtime.policy.faults import spoiled, strike_before_training
from fedphd_ray.runtime.workers.device import claim_device
from fedphd_ray.runtime.workers.host_setup import HostSetup, SampleChunk
from fedphd_ray.seeds import Purpose, torch_generator
from fedphd_ray.strategies.normalisation import client_weight
from fedphd_ray.strategies.parts import named
from fedphd_ray.system.memory import keep_freed_memory
from fedphd_ray.tensors import Layout, as_numpy, as_tensor
from fedphd_ray.topology import client_name


class ClientHost:
    """Trains clients of a block and returns one sum of their updates.

    Args:
        setup: shared by all hosts.
        end_overdue: called from a thread with round and client, where one does not even look at the clock; it ends this
            process. None where that would end more than a host.
    """

    def __init__(self, setup: HostSetup, end_overdue: Callable[[int, int], None] | None = None) -> None:
        self._end_overdue = end_overdue
        torch.set_num_threads(setup.threads)
        keep_freed_memory()
        self._setup = setup
        self._device = claim_device(setup.gpu_share, deterministic=setup.deterministic)
        self._images = as_tensor(setup.images)
        process = setup.process
        self._labels = None if setup.labels is None else as_tensor(setup.labels)
        self._trainer = LocalTrainer(
            setup.local, setup.strategy, process.loss, setup.penalty, setup.seed, process.pieces, setup.spec.num_classes
        )
        self._scorer = setup.scorer()
        self._models: dict[tuple[int, float], FlatModel] = {}

    def train(
        self, payload: Payload, order: LocalOrder, clients: Sequence[int], states: Sequence[ClientState | None]
    ) -> tuple[PartialUpdate, list[ClientState | None]]:
        """Trains each client from the received model and folds their weighted updates in the given order.

        A client whose loss or update is not finite is reported, and left out of the sum; it keeps its former state.
        """
        began_block = time.perf_counter()
        setup, parts = self._setup, self._setup.strategy.parts(payload.layout)
        held = Holdings(
            model=as_tensor(payload.vector).to(self._device),
            parts=parts,
            version=payload.version,
            beside={name: as_tensor(payload.beside[name]).to(self._device) for name in setup.strategy.server_sends},
            plan_channels=order.plan_channels,
        )
        seats = cache(partial(self._seat, held, payload.layout))
        sums, num_classes, keeps_residuals = ClientSums(parts), setup.ownership.num_classes, setup.keeps_residuals
        rows, label_counts = setup.ownership.at(order.round), setup.ownership.label_counts(order.round)
        kept_states: list[ClientState | None] = []
        for client, state in zip(clients, states, strict=True):
            began, seat = time.perf_counter(), seats(order.slices.get(client))
            num_samples, own = len(rows[client]), seat.of_state(state)
            message = seat.held.to_client(known=state is not None, owed=client in order.plan_owed)
            arrived = self._download(order, client).send(message)
            sums.transfers += arrived.rows
            result, failure, outcome = self._try(seat, arrived, order, client, own)
            seconds = time.perf_counter() - began
            sums.train_seconds += seconds
            work = (math.nan, 0, 0) if result is None else (result.loss, result.num_steps, result.num_images)
            moved = result.update.divergence if order.asks_divergence and result is not None else math.nan
            sums.reports.append(
                ClientReport(client, order.edge, *work, num_samples, failure, outcome, seconds, order.attempt, moved)
            )
            if result is None or failure:
                kept_states.append(state)
                continue
            reported = order.reported_parts.get(client)
            counts = label_counts[client] if setup.strategy.shares_label_statistics else None
            left = residual_of(own, seat.model.layout, self._device) if keeps_residuals else None
            reply = upload(seat.to_send(result.update), named(seat.held.parts, reported), payload.version, result.beside, counts)
            message = {**reply, **importance(result.importance, payload.version)}
            sent = self._upload(order, client).send(message, left)
            kept_states.append(seat.to_keep(with_residual(result.state, sent.residual, payload.version), state))
            sums.transfers += sent.rows
            weight = client_weight(setup.strategy, num_samples, result.num_steps) * order.factors.get(client, 1.0)
            sums.add(seat.arrived(sent, reported), weight, named(parts, reported), label_counts[client])
        return sums.partial(num_classes, time.perf_counter() - began_block), kept_states

    def sample(self, payload: Payload, chunk: SampleChunk) -> NDArray[np.float32]:
        """Images [chunk.size, C, H, W] in [0, 1] from a model; the noise is keyed by (seed, round, chunk)."""
        model = self._model(payload.layout, payload.version)
        model.vector.copy_(as_tensor(payload.vector))
        generator = torch_generator(self._setup.seed, Purpose.SAMPLING, chunk.round, chunk.index)
        shape = tuple(self._setup.images.shape[1:])
        process, labels = self._setup.process, chunk.labels
        samples = sample_chunk(model.sampler, process, shape, chunk.size, chunk.steps, generator, labels, chunk.guidance)
        return as_numpy(samples)

    def _seat(self, held: Holdings, layout: Layout, own: Slice | None) -> Seat:
        """What a client trains: the network, or its slice of it."""
        setup = self._setup
        if own is None:
            return Seat(self._model(layout, held.version), held, covers=setup.narrows)
        if own.shift == BY_MAGNITUDE:
            sub = masked_network(held.model, own.width)
            return MaskedSeat(self._model(layout, held.version), sub.held(held, setup.strategy), sub)
        sub = sub_network(setup.spec, setup.ratios[: held.version], own)
        return Seat(self._model(sub.layout, held.version, own.width), sub.held(held, setup.strategy), sub)

    def _model(self, layout: Layout, version: int, width: float = 1.0) -> FlatModel:
        """The module of an architecture, built once. A former one may still be sampled from, the one before never again."""
        if (version, width) not in self._models:
            versions = sorted({known for known, _ in self._models} | {version})
            self._models = {key: model for key, model in self._models.items() if key[0] in versions[-2:]}
            module = build_unet(self._setup.spec, layout.by_name, device=self._device)
            batches = {"compiled_batch": self._setup.local.compiled_batch, "sampled_batch": self._setup.sampled_batch}
            self._models[version, width] = FlatModel(module, **batches)
        model = self._models[version, width]
        assert model.layout == layout
        return model

    def _try(
        self,
        seat: Seat,
        arrived: Delivery,
        order: LocalOrder,
        client: int,
        state: ClientState | None,
    ) -> tuple[LocalResult | None, str, Outcome | None]:
        """Trains a client, again after an exception; its result, and why that may not be used (empty, None if it may)."""
        setup, failure, received = self._setup, "", seat.received(arrived.model)
        limit = setup.failures.client_timeout_seconds
        for attempt in range(order.attempt, setup.failures.client_retries + 1):
            kind = setup.faults.of_client(order.round, client, attempt)
            try:
                with self._watched(order.round, client):
                    strike_before_training(kind)
                    rows = torch.from_numpy(setup.ownership.at(order.round)[client])
                    images = self._images[rows].to(self._device)
                    if setup.feature_skew is not None:
                        images = setup.feature_skew.look(client, setup.seed).of(images)
                    labels = None if self._labels is None else self._labels[rows].to(self._device)
                    scores = None
                    if order.asks_importance and self._scorer is not None:
                        examples, key = Examples(images, labels), (order.round, client)
                        scores = self._scorer.scores(seat.model, arrived.version, received, examples, key)
                    result = self._trainer.train(
                        seat.model,
                        images,
                        order,
                        client=client,
                        received=received,
                        mask=seat.mask,
                        version=arrived.version,
                        beside=arrived.beside,
                        state=state,
                        labels=labels,
                        before_step=_watcher(limit, slow=kind == "slow"),
                    )
            except ClientTimeoutError as error:
                return None, str(error), Outcome.LATE
            except Exception as error:
                failure = f"{type(error).__name__}: {error} (attempt {attempt + 1})\n{traceback.format_exc().rstrip()}"
            else:
                if kind:
                    result = replace(result, update=replace(result.update, trained=spoiled(kind, result.update.trained)))
                if scores is not None:
                    result = replace(result, importance=scores)
                failure = result.why_unusable(received)  # what is not finite is so every time
                return result, failure, Outcome.FAILED if failure else None
        return None, failure, Outcome.FAILED

    @contextlib.contextmanager
    def _watched(self, round: int, client: int) -> Iterator[None]:
        """Ends this process if a client takes twice its time: one that looks at the clock between its steps ends by itself.

        Time is counted here, where the work is done: no queue, no start of a process and no other work of the host is in it.
        """
        limit = self._setup.failures.client_timeout_seconds
        if limit is None or self._end_overdue is None:
            yield
            return
        timer = threading.Timer(2 * limit, self._end_overdue, (round, client))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _download(self, order: LocalOrder, client: int) -> Link:
        """From the aggregator that asks."""
        setup, source = self._setup, self._setup.topology.aggregator_name(order.edge)
        return setup.codecs.link(order.round, setup.topology.to_client, source, client_name(client), order.attempt)

    def _upload(self, order: LocalOrder, client: int) -> Link:
        """Back to it."""
        setup, destination = self._setup, self._setup.topology.aggregator_name(order.edge)
        return setup.codecs.link(order.round, setup.topology.from_client, client_name(client), destination, order.attempt)


def _watcher(limit_seconds: float | None, *, slow: bool) -> Callable[[], None]:
    """What to call before every step: it raises when the time is over."""
    deadline = math.inf if limit_seconds is None else time.monotonic() + limit_seconds

    def before_step() -> None:
        if slow:
            time.sleep(1.0 if limit_seconds is None else limit_seconds)
        if time.monotonic() > deadline:
            raise ClientTimeoutError(f"its training took longer than failures.client_timeout_seconds = {limit_seconds:g}")

    return before_step
