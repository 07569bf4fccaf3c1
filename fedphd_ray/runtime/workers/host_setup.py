"""What a host is given: once, and for a piece of samples."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedphd_ray.data.drift import Ownership
from fedphd_ray.data.looks import FeatureSkew
from fedphd_ray.diffusion.process import NoiseProcess
from fedphd_ray.diffusion.unet import UNetSpec
from fedphd_ray.federation.channel.communication import Codecs
from fedphd_ray.federation.channel.feedback import clients_keep
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.training.importance import Scorer, Scoring
from fedphd_ray.pruning.importance import SparsityPenalty
from fedphd_ray.runtime.policy.failures import FailureConfig
from fedphd_ray.runtime.policy.faults import FaultScript
from fedphd_ray.strategies import Strategy
from fedphd_ray.tensors import Pixels
from fedphd_ray.topology import Topology


@dataclass(frozen=True)
class HostSetup:
    """What every host is given once.

    Attributes:
        images: [N, C, H, W], all clients' images, shared and read-only; see `ImageDataset`.
        labels: int64 [N], where the network is told them.
        ownership: which rows of `images` are whose, and how many of each class, in each round.
        codecs: of the links of clients.
        threads: torch threads of the process; fixed, because sums inside an operator depend on it.
        gpu_share: share of the CUDA device that the process was given, which it may not exceed in memory; 0 trains on the CPU.
        deterministic: whether a GPU may use deterministic kernels only.
        failures: what happens when a client fails.
        faults: what is made to go wrong.
        feature_skew: how differently clients see their images.
        narrows: whether some clients train less than the whole network.
        ratios: of the prunings that there will be: with them a host knows every architecture.
        scoring: how clients score channels before a pruning, where they are asked to.
        sampled_batch: images in the chunks of samples for which networks are compiled; 0 for none.
    """

    spec: UNetSpec
    process: NoiseProcess
    strategy: Strategy
    local: LocalConfig
    penalty: SparsityPenalty
    topology: Topology
    codecs: Codecs
    images: Pixels
    labels: NDArray[np.int64] | None
    ownership: Ownership
    seed: int
    threads: int
    gpu_share: float
    deterministic: bool
    failures: FailureConfig
    faults: FaultScript
    feature_skew: FeatureSkew | None = None
    narrows: bool = False
    ratios: tuple[float, ...] = ()
    scoring: Scoring | None = None
    sampled_batch: int = 0

    @property
    def keeps_residuals(self) -> bool:
        """Whether clients keep what their uploads leave out."""
        return self.codecs.keeps_residual(self.topology.from_client)

    @property
    def keeps_states(self) -> bool:
        """Whether clients keep anything between rounds."""
        return clients_keep(self.local, self.strategy, self.codecs, self.topology)

    def scorer(self) -> Scorer | None:
        """Who scores channels for the clients, where they are asked to."""
        if self.scoring is None:
            return None
        return Scorer(self.scoring, self.process, self.spec, self.ratios, self.seed, self.local.images_at_once)


@dataclass(frozen=True)
class SampleChunk:
    """One piece of a set of samples: `index` and `size` fix its noise and its batch, so that any host may draw it.

    Attributes:
        labels: of the images, for a network that is told them.
        guidance: by them.
    """

    round: int
    index: int
    size: int
    steps: int
    labels: tuple[int, ...] | None = None
    guidance: float = 1.0
