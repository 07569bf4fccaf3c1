"""Joining a Ray cluster, or starting one on this machine for the length of a run."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import ray

from fedphd_ray.errors import ResourceError
from fedphd_ray.runtime.placement import Node

MIN_OBJECT_STORE_BYTES = 256 * 2**20


@contextlib.contextmanager
def ray_session(namespace: str, object_store_bytes: int) -> Iterator[None]:
    """Joins the cluster of RAY_ADDRESS (also set inside `ray job submit`), or starts Ray on this machine and ends it after.

    A session that already runs in this process is used as it is.

    Args:
        namespace: keeps the actor names of two runs on one cluster apart.
        object_store_bytes: size of the object store if one is started.
    """
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        with _connected(lambda: ray.init(namespace=namespace, logging_level=logging.WARNING)):
            yield
        return
    directory = tempfile.mkdtemp(prefix="fedphd-")  # short: Ray puts sockets below it

    def start() -> None:
        ray.init(
            address="local",
            namespace=namespace,
            include_dashboard=False,
            object_store_memory=max(MIN_OBJECT_STORE_BYTES, object_store_bytes),
            logging_level=logging.WARNING,
            _temp_dir=directory,
        )

    try:
        with _connected(start):
            yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _connected(connect: Callable[[], object]) -> Iterator[None]:
    try:
        connect()
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ResourceError(
            "Ray",
            expected=f"a running cluster at {os.environ['RAY_ADDRESS']}" if os.environ.get("RAY_ADDRESS") else "a local start",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="check RAY_ADDRESS and RAY_AUTH_MODE; without RAY_ADDRESS Ray starts on this machine; see `fedphd doctor`",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def cluster_nodes() -> list[Node]:
    """The living nodes of the cluster that this process is connected to."""
    return [
        Node(offer.get("CPU", 0.0), offer.get("GPU", 0.0), int(offer.get("memory", 0.0)))
        for offer in (node["Resources"] for node in ray.nodes() if node["Alive"])
    ]
