"""What a process of a run computes on, and with."""

import os
import shutil

import torch

from fedphd_ray.errors import ResourceError
from fedphd_ray.runtime.policy.placement import Node


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


def this_machine() -> Node:
    """CPUs, GPUs and memory that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Node(float(cpus), float(torch.cuda.device_count()), memory)


def supports_bfloat16(device: str) -> bool:
    """Whether the CPU or GPU of this process computes in bfloat16 by itself; elsewhere that is done in software, slowly.

    Args:
        device: `cpu` or `cuda`.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()  # names differ between processors
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def compiler() -> str:
    """The C++ compiler that inductor would use; empty for none."""
    choices = [os.environ.get("CXX", ""), "g++", "clang++"]
    return next((found for choice in choices if choice and (found := shutil.which(choice))), "")


def require_compiler() -> None:
    """Sees that networks can be compiled here.

    Raises:
        ResourceError: they cannot.
    """
    if not compiler():
        raise ResourceError(
            "local.compile",
            expected="a C++ compiler: g++ or clang++ on the path, or one that CXX names",
            found="none",
            remedy="install one (apt-get install g++), or leave local.compile out",
        )
