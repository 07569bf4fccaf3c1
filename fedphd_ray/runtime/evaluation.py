"""Quality of the global model while it is trained: samples from the hosts, figures and a picture at the driver."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.diffusion.extractors import ClassifierFeatures, Features
from fedphd_ray.diffusion.features import load_feature_network
from fedphd_ray.diffusion.labels import in_proportion
from fedphd_ray.diffusion.metrics import AnyMetric, Metric
from fedphd_ray.diffusion.quality import QualityMeter, QualityReport, mean_report
from fedphd_ray.diffusion.sampling import chunk_sizes, save_grid
from fedphd_ray.population import ClientRows
from fedphd_ray.records import Payload
from fedphd_ray.runtime.events import Sampled
from fedphd_ray.runtime.workers.backend import Backend, Handle
from fedphd_ray.runtime.workers.host_setup import SampleChunk
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies.parts import Part, with_private_parts
from fedphd_ray.system.cache import default_cache_dir
from fedphd_ray.tensors import as_numpy, as_tensor

GRID_IMAGES = 80
Tell = Callable[[Sampled], None]


def nobody(event: Sampled) -> None:
    """Is told."""


class EvaluationConfig(Section):
    """When and how the global model is judged.

    Attributes:
        every: rounds between two evaluations (the untrained and the final model are judged too); 0 for never.
        num_samples: generated images per evaluation; FIDs from different numbers are not comparable.
        steps: DDIM steps.
        chunk_size: images per batch of the sampler; belongs to the experiment, because a batch's noise is one draw.
        num_clients: where clients keep parts of the model, so many clients' models are judged, and figures are their means.
        features: the network in whose features samples are compared with real images.
        guidance: of a class-conditional model by its labels: 1 takes them as they are, more exaggerates them, 0 takes none.
        metrics: figures beside FID and KID; the user's own among them.
    """

    every: NonNegativeInt = 20
    num_samples: Annotated[int, Field(ge=2)] = 1000
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    chunk_size: PositiveInt = 125
    num_clients: PositiveInt = 4
    features: Features = ClassifierFeatures()
    guidance: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    metrics: Annotated[tuple[AnyMetric, ...], Field(max_length=20)] = ()

    @property
    def first_chunk(self) -> int:
        """Images in the sampler's batches, but for a smaller last one."""
        return min(self.chunk_size, self.num_samples)

    def due(self, round: int, last_round: int) -> bool:
        """Whether the model is judged after `round` (0: before training)."""
        return self.every > 0 and (round % self.every == 0 or round == last_round)


class Evaluator:
    """Judges models against the training images.

    Args:
        dataset: all training images; their statistics are the reference.
        config: how many samples and steps.
        conditional: whether the models are told labels. They are asked for classes as often as the data has them.
        client_rows: whose the images are; needed where clients have models of their own.
    """

    def __init__(
        self, dataset: ImageDataset, config: EvaluationConfig, *, conditional: bool = False, client_rows: ClientRows | None = None
    ) -> None:
        self._client_rows, self._own_meters = client_rows, dict[int, QualityMeter]()
        self._dataset = dataset
        self._config = config
        self._labels = in_proportion(dataset.class_counts, config.num_samples) if conditional else None

    @cached_property
    def _meter(self) -> QualityMeter:
        return quality_meter(self._dataset, self._dataset, self._config.features, self._config.metrics)

    def evaluate(
        self, backend: Backend, models: Sequence[Handle], round: int, picture: Path | None, tell: Tell = nobody
    ) -> QualityReport:
        """Draws samples on the backend's hosts, writes a grid of the first of them, and returns the figures.

        Args:
            backend: draws.
            models: usually one; of several, the mean figures are returned, and the picture shows some samples of each.
            round: keys the noise; every model is given the same.
            picture: where the grid goes; None for nowhere.
            tell: told how many samples are drawn.
        """
        drawn = [self._drawn(backend, model, round, tell) for model in models]
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            save_grid(torch.cat([images[: GRID_IMAGES // len(drawn)] for images in drawn]), picture, columns=10)
        return mean_report([self._meter.evaluate(images, self._config.steps, self._labels) for images in drawn])

    def evaluate_own(
        self, backend: Backend, models: Mapping[int, Handle], round: int, whole: QualityReport, tell: Tell = nobody
    ) -> QualityReport:
        """The figures of the cloud's model, with those of clients' own models, each against the client's own images.

        Args:
            backend: see `evaluate`.
            models: client -> its model.
            round: see `evaluate`.
            whole: of the cloud's model.
            tell: see `evaluate`.
        """
        reports = []
        for client, model in models.items():
            if (meter := self._own_meter(client)) is not None:
                reports.append(meter.evaluate(self._drawn(backend, model, round, tell), self._config.steps, self._labels))
        if not reports:
            return whole
        mean = mean_report(reports)
        return replace(whole, personal_fid=mean.fid, personal_kid=mean.kid)

    def _drawn(self, backend: Backend, model: Handle, round: int, tell: Tell) -> Tensor:
        sizes, images, done = chunk_sizes(self._config.num_samples, self._config.chunk_size), list[NDArray[np.float32]](), 0
        for piece in backend.sample(model, [self._chunk(round, *piece) for piece in enumerate(sizes)]):
            images.append(piece)
            done += len(piece)
            tell(Sampled(round, done, self._config.num_samples))
        return torch.from_numpy(np.concatenate(images))

    def _own_meter(self, client: int) -> QualityMeter | None:
        """What judges a client's model; None for a client with a single image, which has no spread."""
        assert self._client_rows is not None
        rows, data = self._client_rows[client], self._dataset
        if client not in self._own_meters and len(rows) > 1:
            own = replace(data, images=data.images[rows], labels=data.labels[rows], owners=None)
            self._own_meters[client] = quality_meter(own, data, self._config.features)
        return self._own_meters.get(client)

    def _chunk(self, round: int, index: int, size: int) -> SampleChunk:
        config, start = self._config, index * self._config.chunk_size
        labels = None if self._labels is None else tuple(self._labels[start : start + size])
        return SampleChunk(round, index, size, config.steps, labels, config.guidance)


def quality_meter(
    reference: ImageDataset, learnt: ImageDataset, features: Features, metrics: Sequence[Metric] = ()
) -> QualityMeter:
    """What judges samples.

    Args:
        reference: images that they are compared with.
        learnt: those that the classifier learns from; no held-out ones.
        features: of which network.
        metrics: beside FID and KID.
    """
    cache = default_cache_dir()
    classifier = load_feature_network(learnt.images, learnt.labels, learnt.num_classes, cache)
    classifier.name = f"{learnt.name}-classifier"
    return QualityMeter(reference.images, classifier, features.extractor(classifier), cache, metrics)


def client_models(model: Payload, parts: Sequence[Part], kept: Mapping[int, NDArray[np.float32]]) -> dict[int, Payload]:
    """Client -> its own model: the cloud's with the private parts that the client kept [num_params]."""
    vector = as_tensor(model.vector)
    return {
        client: replace(model, vector=as_numpy(with_private_parts(vector, as_tensor(own), parts))) for client, own in kept.items()
    }


def spread(clients: Sequence[int], num: int) -> list[int]:
    """At most `num` of the clients, evenly spread over the sequence."""
    num = min(num, len(clients))
    return [clients[index * len(clients) // num] for index in range(num)]
