"""YAML as people mean it: the values of YAML 1.2, a key once, no tags, no aliases, of a bounded size and depth.

YAML 1.1, which the library reads by default, takes `yes` for true, `1:30` for 90, `0777` for 511 and `1e-4` for text; and of a
key that is given twice the last one silently counts.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from fedphd_ray.errors import ConfigError
from fedphd_ray.system.files import MIB, read_text

MOST_BYTES, MOST_DEPTH, MOST_DIGITS = MIB, 50, 30
_VALUES = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}


class _Loader(yaml.SafeLoader):
    """Plain values only, every key once."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "an alias; write the value out", event.start_mark)  # type: ignore[arg-type]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(None, None, f"the tag {event.tag}; plain values need none", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in seen:
                problem = f"the key {name!r} twice, in line {seen[name]} and in line {line}"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen[name] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MOST_DIGITS:
            raise yaml.MarkedYAMLError(None, None, f"a number of {len(node.value)} digits", node.start_mark)
        return int(node.value)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for something else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way


for _name, (_pattern, _first) in _VALUES.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def dump_yaml(value: object) -> str:
    """Text from which `parse_yaml` makes the same value."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def dump_flow(value: object) -> str:
    """A value in one line, as it may stand behind `key=`."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip().removesuffix("...").strip()


def read_yaml(path: Path) -> object:
    """What a YAML file holds.

    Raises:
        ConfigError: it cannot be read, or is not YAML of this kind.
    """
    if path.is_dir():
        raise ConfigError(
            str(path),
            expected="the YAML file of an experiment",
            found="a directory",
            remedy=f"`fedphd resume {path}` goes on with a run; its settings are in its config.yaml",
        )
    try:
        return parse_yaml(read_text(path, MOST_BYTES), str(path))
    except OSError as error:
        raise ConfigError(str(path), expected="a readable YAML file", found=error.strerror or str(error)) from error


def read_extended(path: Path, below: tuple[Path, ...] = ()) -> dict[str, object]:
    """The mapping that a YAML file holds, laid over that of the file which it `extends`, if any: sections key by key.

    A section that names another kind of thing (`name:`) than the one below takes its place whole: keys of two kinds do not mix.

    Raises:
        ConfigError: one of them cannot be read, is no mapping, or they extend each other in a circle.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ConfigError(str(path), expected="a mapping of keys to values", found=type(tree).__name__)
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends", expected="the path of another YAML file", found=str(base))
    other = (path.parent / base).resolve()
    if other in (path.resolve(), *below):
        raise ConfigError(f"{path}: extends", expected="files that end somewhere", found=f"{base}, which extends this one")
    return _laid_over(read_extended(other, (*below, path.resolve())), tree)


def _laid_over(base: dict[str, object], top: dict[str, object]) -> dict[str, object]:
    merged = dict(base)
    for key, value in top.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and value.get("name", below.get("name")) == below.get("name"):
            value = _laid_over(below, value)  # noqa: PLW2901
        merged[key] = value
    return merged


def parse_yaml(text: str, where: str) -> object:
    """What YAML text holds; `ConfigError` if it is not YAML of this kind."""
    try:
        value: object = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ConfigError(where, expected="YAML", found=f"{line}{error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(where, expected="YAML", found=" ".join(str(error).split())[:200]) from None
    except RecursionError:
        raise ConfigError(where, expected=f"YAML of at most {MOST_DEPTH} levels", found="many more") from None
    if _deeper(value, MOST_DEPTH):
        raise ConfigError(where, expected=f"YAML of at most {MOST_DEPTH} levels", found="more")
    return value


def _deeper(value: object, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _deeper(child, levels - 1) for child in inside)
