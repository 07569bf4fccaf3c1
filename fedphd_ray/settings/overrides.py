"""What a configuration file says before anything of it is checked: the file, those that it extends, and `key=value` on top."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedphd_ray.errors import ConfigError
from fedphd_ray.settings.validation import shown
from fedphd_ray.settings.yaml_files import parse_yaml, read_extended


def read_tree(source: Path | Mapping[str, object], overrides: Sequence[str] = ()) -> dict[str, object]:
    """What a YAML file says, on top of the one that it extends, with overrides applied; nothing of it is checked yet.

    Args:
        source: the file, or what would be in it.
        overrides: `key=value`.

    Raises:
        ConfigError: it cannot be read.
    """
    tree = read_extended(source) if isinstance(source, Path) else copy.deepcopy(dict(source))
    for override in overrides:
        _apply(tree, override)
    return tree


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by the dotted name that `key=value` has for it; an empty section is one, too."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _apply(tree: dict[str, object], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError("--set", expected="key=value, for example schedule.rounds=10", found=override)
    value = parse_yaml(text, f"--set {key}")
    node: Any = tree
    for place, name in enumerate(path):
        own: Any = name
        if isinstance(node, list):
            if not name.isdecimal() or int(name) >= len(node):
                expected = f"a position from 0 to {len(node) - 1} after {'.'.join(path[:place])}, which is a list"
                raise ConfigError(f"--set {key}", expected=expected, found=name)
            own = int(name)
        elif not isinstance(node, dict):
            raise ConfigError(f"--set {key}", expected=f"{path[place - 1]} to be a section", found=shown(node))
        if place == len(path) - 1:
            node[own] = value
        elif isinstance(node, dict):
            node = node.setdefault(name, {})
        else:
            node = node[own]
