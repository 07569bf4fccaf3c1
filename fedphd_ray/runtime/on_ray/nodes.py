"""Where actors are, and where they shall be."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

ANY_NODE = {"ray.io/node-id": "!none"}  # a label that every node has, and no such node


def node_of(actor: object) -> str:
    """Where an actor is: executed by it."""
    return str(ray.get_runtime_context().get_node_id())


def labelled(name: str, labels: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Options that put a server on a node with its labels, in turn by its number, and anywhere where there is none any more."""
    if not labels:
        return {}
    own = dict(labels[int(name.rpartition("/")[2]) % len(labels)])
    return {"label_selector": own, "fallback_strategy": [{"label_selector": ANY_NODE}]}


def free_resources() -> str:
    """What nobody has asked for, in words."""
    free = ray.available_resources()
    return ", ".join(f"{free.get(name, 0.0):g} {name}s" for name in ("CPU", "GPU"))
