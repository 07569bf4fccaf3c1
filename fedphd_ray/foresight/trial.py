"""How long a run would take on this machine: a few real steps are timed, and multiplied."""

import time
from dataclasses import dataclass, replace

import numpy as np

from fedphd_ray.federation.prune import shapes_at
from fedphd_ray.foresight.forecast import Forecast, first_channels
from fedphd_ray.records import LocalOrder, Payload
from fedphd_ray.report import text
from fedphd_ray.runtime.driver.precision import settled
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.policy.faults import FaultScript
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.host_setup import SampleChunk
from fedphd_ray.system.threads import torch_threads
from fedphd_ray.tensors import Layout, as_numpy

STEPS = 3  # of training, timed after as many that warm up
DRAWN = 8  # images, at most


@dataclass(frozen=True)
class Estimate:
    """Seconds of a whole run.

    Attributes:
        training: of local training.
        samples: of drawing the samples that are judged.
        hosts: that work at the same time.
    """

    training: float
    samples: float
    hosts: int

    def describe(self) -> str:
        """For people."""
        share = f" and {text.duration(self.samples)} for samples" if self.samples else ""
        hosts = "one host" if self.hosts == 1 else f"{self.hosts} hosts at a time"
        return (
            f"time here: about {text.duration(self.training)} of training{share}, {hosts}; without the start, orchestration and "
            f"figures, from {STEPS} steps"
        )


def estimate(experiment: Experiment, cost: Forecast, hosts: int) -> Estimate:
    """Times each architecture that will be trained, dense and pruned; a narrower network takes its share of the MACs.

    Args:
        experiment: what would run.
        cost: its forecast.
        hosts: that would be started.
    """
    busy = max(1, min(hosts, experiment.schedule.cohort_size))
    images = float(experiment.training_images.mean())
    training, drawing = 0.0, 0.0
    with torch_threads(experiment.runtime.threads_per_host):
        for version in sorted({version for version, _ in cost.trained}):
            whole = experiment.costs[version]
            taken, drawing = _seconds_per_image(experiment, version)
            for (trained, width), updates in cost.trained.items():
                if trained == version:
                    narrowing = experiment.narrowings[version]
                    own = whole if narrowing is None or width == 1 else narrowing.networks[width].cost
                    training += updates * images * taken * own.macs / whole.macs
    evaluation = experiment.evaluation
    times = 1 + experiment.schedule.rounds // evaluation.every if evaluation.every else 0
    return Estimate(training / busy, times * evaluation.num_samples * evaluation.steps * drawing / hosts, busy)


def _seconds_per_image(experiment: Experiment, version: int) -> tuple[float, float]:
    """Of training on one image, and of one denoising step of one image."""
    steps = experiment.local.model_copy(update={"steps": STEPS})
    own = replace(settled(experiment, "float32"), local=steps, submodels=None)
    host = ClientHost(replace(own.host_setup(), faults=FaultScript(())))
    payload = _payload(experiment, version)
    order = LocalOrder(round=1, edge=0, learning_rate_scale=1.0, sparsity=experiment.pruning.sparsity_at(version))
    seconds = [host.train(payload, order, [0], [None])[0].reports[0].seconds for _ in range(2)]
    labels = None if experiment.spec.num_classes is None else (0,) * DRAWN
    host.sample(payload, SampleChunk(0, 0, DRAWN, 1, labels))
    began = time.perf_counter()
    host.sample(payload, SampleChunk(0, 0, DRAWN, STEPS, labels))
    return seconds[1] / (STEPS * experiment.local.batch_size), (time.perf_counter() - began) / (DRAWN * STEPS)


def _payload(experiment: Experiment, version: int) -> Payload:
    """A random model of an architecture: the first channels of the dense one."""
    shapes = shapes_at(experiment.spec, experiment.pruning.ratios[:version])
    state = first_channels(experiment.spec, experiment.seed, shapes)
    layout = Layout.of(state)
    beside = dict.fromkeys(experiment.strategy.server_sends, np.zeros(layout.num_params, np.float32))
    return Payload(as_numpy(layout.flatten(state)), layout, version, beside)
