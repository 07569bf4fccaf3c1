"""The device that one process of a run computes on."""

import os

import torch


def claim_device(gpu_share: float, *, deterministic: bool) -> torch.device:
    """A GPU where the process was given a share of one and there is one, the CPU elsewhere.

    Args:
        gpu_share: of one GPU's memory; the process cannot take more.
        deterministic: let the GPU use such kernels only whose results do not depend on the order in which its threads end; an
            operation that has none fails by name.
    """
    if gpu_share <= 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.backends.cudnn.benchmark = not deterministic  # it chooses kernels by their timing
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads it
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpu_share))
    return torch.device("cuda")
