"""What this machine or cluster can do, what is missing, and how to get it."""

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fedphd_ray.errors import ResourceError
from fedphd_ray.runtime.on_ray.environment import prepare_environment
from fedphd_ray.runtime.policy.placement import HOST_BASE_BYTES, Node, RuntimeConfig, capacity
from fedphd_ray.runtime.workers.device import compiler, this_machine
from fedphd_ray.system.cache import default_cache_dir

PACKAGES = ("ray", "torch", "diffusers", "torch-pruning", "pyarrow", "pydantic", "safetensors", "scikit-learn")
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` is empty where there is nothing to do."""

    what: str
    good: bool
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Looks at everything that a run needs; starts a small Ray session or joins the cluster of RAY_ADDRESS."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    yield Finding(
        "Python", sys.version_info >= (3, 11), version, "" if sys.version_info >= (3, 11) else "use Python 3.11 or newer"
    )
    for package in PACKAGES:
        yield _package(package)
    node = this_machine()
    least = Node(RuntimeConfig().cpus_per_host, 0.0, HOST_BASE_BYTES)
    yield Finding(
        "this machine", True, f"{node}; room for {capacity(node, least)} hosts of {least.cpus:g} CPU and a small network"
    )
    yield _gpu()
    yield _compiler()
    yield _shared_memory()
    yield _writable("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a directory that can be written")
    yield _writable(
        "feature network cache", default_cache_dir(), "set FEDPHD_CACHE_DIR; without it the network is trained every run"
    )
    yield _ray()


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}")


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        remedy = "training runs on the CPU; for GPUs install a CUDA build of torch and set runtime.gpus_per_host"
        return Finding("GPU", True, "none that torch can use", remedy)
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Finding("GPU", True, names)


def _compiler() -> Finding:
    found = compiler()
    return Finding("C++ compiler", True, found or "none", "" if found else "local.compile needs one: apt-get install g++")


def _shared_memory() -> Finding:
    path = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    if not path.is_dir():
        return Finding("shared memory", True, "no /dev/shm; the object store uses files")
    free = shutil.disk_usage(path).free
    remedy = "start the container with --shm-size of at least 1 GiB" if free < GIB else ""
    return Finding("shared memory", free >= GIB, f"{free / GIB:.1f} GiB free in /dev/shm", remedy)


def _writable(what: str, path: Path, remedy: str) -> Finding:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        return Finding(what, False, f"{path}: {error.strerror}", remedy)
    return Finding(what, True, f"{path}, {shutil.disk_usage(path).free / GIB:.0f} GiB free")


def _ray() -> Finding:
    prepare_environment()
    from fedphd_ray.runtime.on_ray.checks import cluster_nodes  # noqa: PLC0415 - after its environment is set
    from fedphd_ray.runtime.on_ray.session import ray_session  # noqa: PLC0415

    where = f"the cluster at {os.environ['RAY_ADDRESS']}" if os.environ.get("RAY_ADDRESS") else "a session of its own"
    try:
        with ray_session("fedphd-doctor", 0):
            nodes = cluster_nodes()
    except ResourceError as error:
        return Finding("Ray", False, f"{where}: {error.found}", error.remedy)
    return Finding("Ray", True, f"{where}: " + "; ".join(f"a node of {node}" for node in nodes))
