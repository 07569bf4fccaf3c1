"""On a GPU: the step rate of local training against a plain diffusers loop at the same settings, and throughput of several hosts.

Defaults: DDPM's CIFAR-10 network (35.7 M parameters), batch 64, bfloat16, torch.compile. Takes the settings of
common_job.py; BENCH_COMPILE=0 is eager mode. Without a GPU it runs on the CPU, to see that it runs.
"""

import os
import time
from collections.abc import Callable

import torch

DEFAULTS = {
    "WIDTHS": "128,256,256,256",
    "LAYERS": 2,
    "GROUPS": 32,
    "IMAGE": 32,
    "BATCH": 64,
    "STEPS": 100,
    "COMPILE": 1,
    "COHORT": 16,
    "ROUNDS": 4,
    "WARM": 1,
}
for name, default in DEFAULTS.items():
    os.environ.setdefault(f"BENCH_{name}", str(default))  # before common_job reads them
GPU = torch.cuda.is_available()

import common_job  # noqa: E402
from diffusers import DDPMScheduler, UNet2DModel  # noqa: E402

from fedphd_ray.config import Config  # noqa: E402
from fedphd_ray.diffusion.unet import build_unet, initial_state  # noqa: E402
from fedphd_ray.federation.flat_model import FlatModel  # noqa: E402
from fedphd_ray.federation.training.local_training import LocalTrainer  # noqa: E402
from fedphd_ray.records import LocalOrder  # noqa: E402
from fedphd_ray.runtime.workers.device import claim_device  # noqa: E402
from fedphd_ray.tensors import Layout  # noqa: E402

STEPS, BATCH = common_job.setting("STEPS", 0), common_job.setting("BATCH", 0)


def gpu_job(hosts: int) -> Config:
    """The common job in mixed precision, on hosts that share one card."""
    config = common_job.job()
    local = config.local.model_copy(update={"precision": "bfloat16"})
    share = {"hosts": hosts, "gpus_per_host": 1 / hosts if GPU else 0.0, "deterministic": False}
    return config.model_copy(update={"local": local, "runtime": config.runtime.model_copy(update=share)})


def steps_a_second(train: Callable[[], object], device: torch.device) -> float:
    """Optimiser steps a second of something that takes STEPS of them, after it was done once."""
    rates = []
    for _ in range(4):
        began = time.perf_counter()
        train()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(STEPS / (time.perf_counter() - began))
    return max(rates[1:])


def own_loop(config: Config, device: torch.device) -> Callable[[], object]:
    """One client of ours."""
    setup = config.build().host_setup()
    state = initial_state(setup.spec, setup.seed)
    layout = Layout.of(state)
    received = layout.flatten(state).to(device)
    model = FlatModel(build_unet(setup.spec, layout.by_name, device=device), compiled_batch=setup.local.compiled_batch)
    trainer = LocalTrainer(setup.local, setup.strategy, setup.process.loss, setup.penalty, setup.seed)
    images = torch.from_numpy(setup.images[:1000]).to(device)
    return lambda: trainer.train(model, images, LocalOrder(1, 0, 1.0, 0.0), client=0, received=received, version=0)


def plain_loop(config: Config, device: torch.device) -> Callable[[], object]:
    """What one writes with diffusers alone."""
    spec = config.build().spec
    net = UNet2DModel.from_config(build_unet(spec, device="meta").config).to(device, memory_format=torch.channels_last)
    run = torch.compile(net) if config.local.compile else net
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    scheduler = DDPMScheduler(1000)
    images = torch.rand(1000, spec.channels, spec.image_size, spec.image_size, device=device) * 2 - 1

    def train() -> None:
        for _ in range(STEPS):
            batch = images[torch.randint(0, len(images), (BATCH,), device=device)].to(memory_format=torch.channels_last)
            noise, t = torch.randn_like(batch), torch.randint(0, 1000, (BATCH,), device=device)
            with torch.autocast(device.type, torch.bfloat16):
                noised = scheduler.add_noise(batch, noise, t)  # type: ignore[attr-defined]  # of a mixin
                loss = torch.nn.functional.mse_loss(run(noised, t).sample, noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def main() -> None:
    """Prints the two rates, and the throughput of the whole system."""
    device = claim_device(1.0, deterministic=False)
    config = gpu_job(1)
    own, plain = (steps_a_second(loop(config, device), device) for loop in (own_loop, plain_loop))
    print(f"steps a second on {device}: ours {own:.2f}, plain diffusers loop {plain:.2f}, ratio {own / plain:.3f}", flush=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for hosts in (1, 2, 4, 8) if GPU else (1, 2):
        print(f"{hosts} hosts:", end=" ", flush=True)
        common_job.measure(gpu_job(hosts))


if __name__ == "__main__":
    main()
