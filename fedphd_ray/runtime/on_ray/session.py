"""Joining a Ray cluster, or starting one on this machine for the length of a run."""

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

import ray
from ray._private import ray_constants

from fedphd_ray.errors import ResourceError
from fedphd_ray.runtime.on_ray import witness
from fedphd_ray.runtime.on_ray.environment import FORMS_CLUSTERS
from fedphd_ray.system.stopping import STOPPING, descendants, kill_descendants

MIN_OBJECT_STORE_BYTES = 256 * 2**20
LONGEST_PLACE = 30
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0  # for a node to start a process and look at something
WATCH_SECONDS = 1.0
STARTS = 3


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
    if address := os.environ.get("RAY_ADDRESS"):
        require_reachable(address)
        elsewhere = tempfile.gettempdir()
        with witnessed(), _connected(lambda: ray.init(namespace=namespace, logging_level=logging.WARNING), elsewhere):
            yield
        return
    # Ray reads this while it is imported, which may have been before its environment was prepared.
    ray_constants.ENABLE_RAY_CLUSTER = os.environ.get(FORMS_CLUSTERS, "") != "0"
    directory = _short_directory()
    start = partial(_start_servers, namespace, max(MIN_OBJECT_STORE_BYTES, object_store_bytes), directory)

    def clean_up() -> None:
        kill_descendants()
        shutil.rmtree(directory, ignore_errors=True)

    try:
        with STOPPING.prepared(clean_up=clean_up), witnessed(directory), _connected(start, directory), _watched_servers():
            yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def address() -> str:
    """Of the cluster that this process is connected to, host:port of its head."""
    return str(ray.get_runtime_context().gcs_address)


def _start_servers(namespace: str, object_store_bytes: int, directory: str) -> None:
    """Starts Ray; again, where the machine is so busy that Ray's servers take more than the half minute that it gives them."""
    others = descendants()
    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address="local",
                namespace=namespace,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                logging_level=logging.WARNING,
                _temp_dir=directory,
            )
            break
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            kill_descendants(spare=others)
    Path(directory).chmod(0o700)  # Ray opens it to everybody


@contextlib.contextmanager
def witnessed(directory: str = "") -> Iterator[None]:
    """Where this process ends within, and cannot say why, another says it, and removes the session's directory."""
    command = [sys.executable, "-I", "-S", witness.__file__, *STOPPING.hint, directory]
    # In a session of its own: what a terminal sends to the driver (Ctrl-C) is not meant for it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as process:  # noqa: S603 - our own
        stdin = cast(IO[bytes], process.stdin)

        def farewell() -> None:
            os.write(stdin.fileno(), witness.FAREWELL)

        try:
            with STOPPING.prepared(clean_up=farewell):
                yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                farewell()


@contextlib.contextmanager
def _watched_servers() -> Iterator[None]:
    """Ends this process soon after one of the session's servers has died: Ray would wait for it, and abort in its own words."""
    processes = ray._private.worker._global_node.all_processes  # type: ignore[attr-defined]  # set by now
    servers = {name: processes.get(name, []) for name in ("gcs_server", "raylet")}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            for name, infos in servers.items():
                if (
                    any(info.process.poll() is not None for info in infos)
                    and not ended.wait(WATCH_SECONDS)
                    and not STOPPING.asked
                ):
                    STOPPING.finish(f"error: a server of Ray's own on this machine ({name}) has died", 1)

    thread = threading.Thread(target=watch, name="servers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _short_directory() -> str:
    """A directory of our own for Ray's session, whose sockets must have names of at most 107 ASCII letters.

    Raises:
        ResourceError: there is no such place.
    """
    for place in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - the directory in it is ours alone
        if place.isascii() and len(place) <= LONGEST_PLACE and os.access(place, os.W_OK | os.X_OK):
            return tempfile.mkdtemp(prefix="fedphd-", dir=place)
    raise ResourceError(
        "TMPDIR",
        expected=f"a directory that can be written, its path of at most {LONGEST_PLACE} ASCII letters: Ray puts sockets below it",
        found=tempfile.gettempdir(),
        remedy="set TMPDIR to a short path, such as /tmp",
    )


def require_reachable(address: str) -> None:
    """Sees that a cluster may be at an address, before Ray waits for it for minutes.

    Raises:
        ResourceError: the address is of another kind, or nobody answers there.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    remedy = "take host:port of the head node (`ray start --head` prints it; the port is 6379 by default), or unset RAY_ADDRESS"
    if "://" in address or not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        kind = "the address of a Ray client or of the jobs API" if "://" in address else "no host:port"
        raise ResourceError("RAY_ADDRESS", expected="host:port of a cluster", found=f"{address}: {kind}", remedy=remedy)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        found = f"nobody answers at {address} ({error.strerror or error})"
        raise ResourceError("RAY_ADDRESS", expected="a running cluster", found=found, remedy=remedy) from error


@contextlib.contextmanager
def _connected(connect: Callable[[], object], directory: str) -> Iterator[None]:
    """Connected within.

    Ray puts the current directory first on its workers' paths: it is another one meanwhile, so that a file of the user's called
    diffusers.py does not take the place of the package there.
    """
    try:
        with contextlib.chdir(directory):
            connect()
        STOPPING.listen()  # Ray has set handlers of its own
    except Exception as error:
        if not isinstance(error, ConnectionError | RuntimeError | TimeoutError) and type(error) is not Exception:
            raise  # no word of Ray's
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
