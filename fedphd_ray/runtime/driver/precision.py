"""In which precision local training runs, where that is left to the machine: decided once per run, and kept in `run.json`."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from fedphd_ray.diffusion.labels import blank_labels
from fedphd_ray.diffusion.unet import UNetSpec, build_unet
from fedphd_ray.federation.local_config import Precision
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.workers.device import supports_bfloat16
from fedphd_ray.system.saying import Say
from fedphd_ray.system.threads import torch_threads

WORTH_IT = 0.85  # bfloat16 changes rounding: it must save more than what two timings differ by
TRIAL_IMAGES = 8  # at once, at most
TRIAL_STEPS = 3  # of each precision, in turn


def settled(experiment: Experiment, precision: Precision) -> Experiment:
    """The experiment with the precision that was decided, where it leaves that open."""
    if experiment.local.precision != "auto":
        return experiment
    return replace(experiment, local=experiment.local.model_copy(update={"precision": precision}))


def decide_precision(experiment: Experiment, say: Say) -> Precision:
    """`float32` or `bfloat16`, by what the processor has and a short trial; what is asked for is taken, perhaps with a warning.

    Hosts are taken to be machines like this one.
    """
    asked, gpus = experiment.local.precision, experiment.runtime.gpus_per_host > 0
    if gpus and not torch.cuda.is_available():
        if asked == "auto":
            say("local.precision: auto is float32, since no GPU is here to try; where hosts have one, ask for bfloat16")
        return "float32" if asked == "auto" else asked
    native = supports_bfloat16("cuda" if gpus else "cpu")
    if asked != "auto":
        if asked == "bfloat16" and not native:
            say("warning: this processor computes bfloat16 in software: steps take several times as long as with float32")
        return asked
    if not native:
        say("local.precision: auto is float32, since this processor has no bfloat16 of its own")
        return "float32"
    with torch_threads(experiment.runtime.threads_per_host):
        images = min(TRIAL_IMAGES, experiment.local.images_at_once)
        ratio = _time_ratio(experiment.spec, images, "cuda" if gpus else "cpu")
    chosen: Precision = "bfloat16" if ratio < WORTH_IT else "float32"
    say(f"local.precision: auto is {chosen}: a step in bfloat16 takes {ratio:.2f} of one in float32, in a short trial")
    return chosen


@cache  # all runs of one comparison get the same answer
def _time_ratio(spec: UNetSpec, images: int, device: str) -> float:
    """Seconds of a step's forward and backward pass in bfloat16 by those in float32: medians of steps taken in turn."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step, mixed in _steps(spec, images, device):
        began = time.perf_counter()
        step(mixed)
        seconds[mixed].append(time.perf_counter() - began)
    plain, half = (statistics.median(times[1:]) for times in (seconds[False], seconds[True]))  # the first ones warm up
    return half / plain


def _steps(spec: UNetSpec, images: int, device: str) -> Iterator[tuple[Any, bool]]:
    """Steps to be timed, and whether they are in mixed precision. The global generator is left as it was."""
    with torch.random.fork_rng():
        unet = build_unet(spec, device=torch.device(device))
        batch = torch.zeros(images, spec.channels, spec.image_size, spec.image_size, device=device)
        labels = blank_labels(unet, images, device)
        times = torch.zeros(images, dtype=torch.int64, device=device)

        def step(mixed: bool) -> None:
            with torch.autocast(device, torch.bfloat16, enabled=mixed):
                out = unet(batch, times, *labels).sample
            out.float().square().mean().backward()
            if device == "cuda":
                torch.cuda.synchronize()

        for _ in range(1 + TRIAL_STEPS):
            yield from ((step, mixed) for mixed in (False, True))
