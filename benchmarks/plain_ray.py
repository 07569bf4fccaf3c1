"""The least that Ray itself costs in the common job: as plain_processes.py, with two actors that are called once a round.

No edges, no ledger, no checkpoints, no failures: the driver puts the model into the object store, each actor trains its share of
the cohort and returns one sum, the driver adds the sums and goes on. Takes the settings of common_job.py.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from common_job import CLIENTS, COHORT, HOSTS, ROUNDS, STEPS, WARM, job
from numpy.typing import NDArray

from fedphd_ray.runtime.on_ray.environment import prepare_environment

prepare_environment()

import ray  # noqa: E402 - its settings come first

from fedphd_ray.diffusion.unet import build_unet, initial_state  # noqa: E402
from fedphd_ray.federation.flat_model import FlatModel  # noqa: E402
from fedphd_ray.federation.sums.aggregation import VectorSum  # noqa: E402
from fedphd_ray.federation.training.local_training import LocalTrainer  # noqa: E402
from fedphd_ray.records import LocalOrder  # noqa: E402
from fedphd_ray.runtime.workers.host_setup import HostSetup  # noqa: E402
from fedphd_ray.tensors import Layout, as_numpy, as_tensor  # noqa: E402


class Host:
    """Trains clients and sums their weighted updates."""

    def __init__(self, setup: HostSetup, layout: Layout) -> None:
        torch.set_num_threads(1)
        self._setup, self._images = setup, as_tensor(setup.images)
        self._model = FlatModel(build_unet(setup.spec, layout.by_name), compiled_batch=setup.local.compiled_batch)
        self._trainer = LocalTrainer(setup.local, setup.strategy, setup.process.loss, setup.penalty, setup.seed)

    def train(self, vector: NDArray[np.float32], round: int, clients: Sequence[int]) -> NDArray[np.float32]:
        """The weighted sum of the clients' updates."""
        order, received, total = LocalOrder(round, 0, 1.0, 0.0, {}), as_tensor(vector), VectorSum()
        for client in clients:
            own = self._images[torch.from_numpy(self._setup.ownership.rows[client])]
            result = self._trainer.train(self._model, own, order, client=client, received=received, version=0)
            total.add_weighted([(result.update, len(own))])
        assert total.total is not None
        return as_numpy(total.total)


def main() -> None:
    """Runs the rounds and prints the line."""
    setup = job().build().host_setup()
    state = initial_state(setup.spec, setup.seed)
    layout = Layout.of(state)
    vector, rng, seconds = as_numpy(layout.flatten(state)), np.random.default_rng(0), []
    ray.init(address="local", include_dashboard=False, num_cpus=HOSTS, object_store_memory=2**30)
    shared = ray.put(setup)
    hosts: list[Any] = [ray.remote(num_cpus=1)(Host).remote(shared, layout) for _ in range(HOSTS)]
    ray.get([host.__ray_ready__.remote() for host in hosts])
    for round in range(ROUNDS + 1):
        began = time.perf_counter()
        cohort = [int(client) for client in rng.choice(CLIENTS, COHORT, replace=False)]
        model, images = ray.put(vector), sum(len(setup.ownership.rows[client]) for client in cohort)
        sums = ray.get([host.train.remote(model, round, cohort[rank::HOSTS]) for rank, host in enumerate(hosts)])
        vector = vector + sum(sums) / images
        seconds.append(time.perf_counter() - began)
    ray.shutdown()
    median = statistics.median(seconds[WARM:])
    print(
        f"RESULT plain_ray round_s median {median:.4f} min {min(seconds[WARM:]):.4f} max {max(seconds[WARM:]):.4f} "
        f"task_ms {1000 * median / COHORT:.2f} clients {CLIENTS} cohort {COHORT} steps {STEPS} hosts {HOSTS}"
    )


if __name__ == "__main__":
    main()
