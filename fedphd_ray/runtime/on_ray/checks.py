"""What a cluster must have before a run begins on it: room, labels, imports, a folder that all nodes see."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedphd_ray.errors import ResourceError, UserError
from fedphd_ray.runtime.policy.placement import Node
from fedphd_ray.system.imports import trouble_with

ANSWER_SECONDS = 300.0  # for a node to start a process and look at something


def cluster_nodes() -> list[Node]:
    """The living nodes of the cluster that this process is connected to."""
    return [
        Node(offer.get("CPU", 0.0), offer.get("GPU", 0.0), int(offer.get("memory", 0.0)))
        for offer in (node["Resources"] for node in ray.nodes() if node["Alive"])
    ]


def require_store(least_bytes: int, wanted_bytes: int) -> str:
    """Looks at the object stores of the cluster; a warning where objects will go to disk, else empty.

    Args:
        least_bytes: the images and a few models: with less on every node no round is possible.
        wanted_bytes: all that one round may hold at once.

    Raises:
        ResourceError: no node has the least.
    """
    largest = max((int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if largest < least_bytes:
        raise ResourceError(
            "object store",
            expected=f"{least_bytes / 2**20:.0f} MiB on a node: the images and a few models",
            found=f"{largest / 2**20:.0f} MiB on the largest",
            remedy="start Ray with a larger --object-store-memory, or train a smaller model",
        )
    if largest >= wanted_bytes:
        return ""
    have, want = largest / 2**20, wanted_bytes / 2**20
    return f"object store of {have:.0f} MiB, a round may hold {want:.0f} MiB: Ray will move objects to disk"


def require_labels(labels: Sequence[Mapping[str, str]]) -> None:
    """Sees that there is a node for every entry of `runtime.edge_labels`.

    Raises:
        ResourceError: there is none.
    """
    nodes = [dict(node["Labels"]) for node in ray.nodes() if node["Alive"]]
    for wanted in labels:
        if not any(wanted.items() <= own.items() for own in nodes):
            theirs = [{key: label for key, label in own.items() if not key.startswith("ray.io/")} for own in nodes]
            raise ResourceError(
                "runtime.edge_labels",
                expected=f"a node with the labels {', '.join(f'{key}: {value}' for key, value in wanted.items())}",
                found="nodes with " + "; ".join(map(str, theirs)),
                remedy="start nodes with `ray start --labels key=value`, or leave edge_labels out",
            )


def require_imports(module: str) -> None:
    """Sees that every node can import a module; asked when a process there did not start.

    Raises:
        ResourceError: a node cannot.
    """
    for node, answer in _on_every_node(trouble_with, module):
        try:
            trouble = ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:  # this package cannot be imported there, or the node has gone
            trouble = str(error).strip().splitlines()[-1]
        if trouble:
            raise ResourceError(
                f"node {node}",
                expected="a Python that can import fedphd_ray and all that it needs",
                found=trouble,
                remedy="rename a file that takes the place of a package, or install the package on that node",
            )


def _on_every_node(function: Callable[[str], str], argument: str) -> list[tuple[str, "ray.ObjectRef[str]"]]:
    """Address of every living node, and what a function will return there."""
    return [
        (
            node["NodeManagerAddress"],
            ray.remote(function)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(argument),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def require_visible(folder: Path) -> None:
    """Sees that every node finds what this process writes into a folder.

    Raises:
        UserError: a node does not.
    """
    token = secrets.token_hex(16)
    marker = folder / f".visible-{token[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(token)
    try:
        answers = _on_every_node(_read, str(marker))
        blind = [node for node, answer in answers if ray.get(answer, timeout=ANSWER_SECONDS) != token]
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise UserError(
            "checkpoint.path",
            expected="a folder that every node of the cluster sees, or a URI like s3://",
            found=f"{folder} is another folder, or none, on {', '.join(blind)}",
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
