"""The floor of the common job for our own local step: one plain process per host, no framework, no edges, no ledger.

Every process trains its share of the cohort and sums weighted updates; they wait for one another at the end of a round, and send
nothing. Takes the settings of common_job.py.
"""

import multiprocessing
import statistics
import time
from multiprocessing.synchronize import Barrier

import numpy as np
import torch
from common_job import CLIENTS, COHORT, HOSTS, ROUNDS, STEPS, WARM, job

from fedphd_ray.diffusion.unet import build_unet, initial_state
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.sums.aggregation import VectorSum
from fedphd_ray.federation.training.local_training import LocalTrainer
from fedphd_ray.records import LocalOrder
from fedphd_ray.runtime.workers.host_setup import HostSetup
from fedphd_ray.tensors import Layout, as_tensor


def work(rank: int, setup: HostSetup, barrier: Barrier, results: "multiprocessing.Queue[list[float]]") -> None:
    """All rounds of one process."""
    torch.set_num_threads(1)
    state = initial_state(setup.spec, setup.seed)
    layout = Layout.of(state)
    received = layout.flatten(state)
    model = FlatModel(build_unet(setup.spec, layout.by_name), compiled_batch=setup.local.compiled_batch)
    trainer = LocalTrainer(setup.local, setup.strategy, setup.process.loss, setup.penalty, setup.seed)
    images, rng, seconds = as_tensor(setup.images), np.random.default_rng(0), []
    for round in range(ROUNDS + 1):
        barrier.wait()
        began, total = time.perf_counter(), VectorSum()
        for client in rng.choice(CLIENTS, COHORT, replace=False)[rank::HOSTS]:
            own = images[torch.from_numpy(setup.ownership.rows[client])]
            order = LocalOrder(round, 0, 1.0, 0.0, {})
            result = trainer.train(model, own, order, client=int(client), received=received, version=0)
            total.add_weighted([(result.update, len(own))])
        barrier.wait()
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        results.put(seconds)


def main() -> None:
    """Runs the processes and prints the line."""
    setup = job().build().host_setup()
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(HOSTS), context.Queue()
    processes = [context.Process(target=work, args=(rank, setup, barrier, results)) for rank in range(HOSTS)]
    for process in processes:
        process.start()
    seconds = results.get(timeout=3600)[WARM:]
    for process in processes:
        process.join()
    median = statistics.median(seconds)
    print(
        f"RESULT plain_own_step round_s median {median:.4f} min {min(seconds):.4f} max {max(seconds):.4f} "
        f"task_ms {1000 * median / COHORT:.2f} clients {CLIENTS} cohort {COHORT} steps {STEPS} processes {HOSTS}"
    )


if __name__ == "__main__":
    main()
