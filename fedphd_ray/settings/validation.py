"""What is wrong with a configuration or a file, in words: one message for all of it, naming keys as the user writes them."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedphd_ray.errors import ConfigError

LONGEST = 80
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a section of keys and values",
    "model": "a section of keys and values",
}
"""By the first word of pydantic's error types."""


def shown(value: object) -> str:
    """A value as YAML has it, cut where it is long."""
    try:
        text = f"'{value}'" if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."


def explained(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """One message from all that is wrong with a configuration of class `model`.

    Where a value may be one of several kinds, what each of them says of the same key is put together.
    """
    keys = list(_all_keys(model))
    by_key: dict[str, list[ConfigError]] = {}
    for detail in error.errors(include_url=False):
        problem = _problem(detail, keys)
        by_key.setdefault(problem.where, []).append(problem)
    problems = [_either(same) for same in by_key.values()]
    if len(problems) == 1:
        return problems[0]
    return ConfigError(
        f"{len(problems)} invalid settings",
        expected="".join(f"\n    {problem.where}: {problem.expected}" for problem in problems),
        found="".join(f"\n    {problem.where}: {problem.found}" for problem in problems),
        remedy="; ".join(sorted({problem.remedy for problem in problems if problem.remedy})),
    )


def in_short(error: ValidationError, model: type[BaseModel]) -> str:
    """What was found, and what should have been, for messages about files of which the user wrote no line."""
    problem = explained(error, model)
    return f"{problem.where}: {problem.found.strip()} instead of {problem.expected.strip()}"


def _either(problems: Sequence[ConfigError]) -> ConfigError:
    first = problems[0]
    expected = " or ".join(dict.fromkeys(problem.expected for problem in problems))
    return ConfigError(first.where, expected=expected, found=first.found, remedy=first.remedy)


def _problem(detail: ErrorDetails, keys: Sequence[str]) -> ConfigError:
    unknown = detail["type"] == "extra_forbidden"
    names = {name for key in keys for name in key.split(".")}
    last = len(detail["loc"]) - 1
    path = [str(p) for at, p in enumerate(detail["loc"]) if isinstance(p, int) or p in names or (unknown and at == last)]
    key = ".".join(path) or "configuration"
    if unknown:
        return _unknown_key(path, keys)
    if detail["type"] == "missing":
        return ConfigError(
            key, expected="a value: this key has no default", found="nothing", remedy=f"add {key} to the configuration"
        )
    if detail["type"] == "union_tag_invalid":
        known = re.findall(r"'([^']*)'", str(detail["ctx"]["expected_tags"]))
        tag = str(detail["ctx"]["tag"])
        close = difflib.get_close_matches(tag, known, n=1)
        return ConfigError(
            f"{key}.name",
            expected=f"one of {', '.join(known)}",
            found=f"the unknown name '{tag}'",
            remedy=f"did you mean {close[0]}?" if close else "",
        )
    if detail["type"] == "union_tag_not_found":
        return ConfigError(key, expected="a section with a name", found=shown(detail["input"]), remedy=f"set {key}.name")
    cause = detail.get("ctx", {}).get("error")
    expected = _expected(detail["type"], detail.get("ctx", {}), detail["msg"]) if cause is None else str(cause)
    return ConfigError(key, expected=expected, found=shown(detail["input"]))


def _expected(kind: str, context: dict[str, Any], message: str) -> str:
    """What pydantic asks for, in plain words."""
    bounds = {"greater_than": "above {gt}", "greater_than_equal": "at least {ge}", "less_than": "below {lt}"}
    bounds |= {"less_than_equal": "at most {le}", "too_short": "at least {min_length} of them"}
    bounds |= {"too_long": "at most {max_length} of them", "string_too_long": "at most {max_length} letters"}
    if kind in bounds:
        return bounds[kind].format(**context)
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind == "string_pattern_mismatch":
        return "letters, digits, points, hyphens and underscores, a letter or a digit first"
    word = kind if kind in _EXPECTED else kind.partition("_")[0]
    return _EXPECTED.get(word, re.sub(r"^.*?should ", "a value that should ", message))


def _unknown_key(path: Sequence[str], keys: Sequence[str]) -> ConfigError:
    prefix = "".join(f"{name}." for name in path[:-1])
    known = sorted({key.removeprefix(prefix).split(".")[0] for key in keys if key.startswith(prefix)})
    close = difflib.get_close_matches(path[-1], known, n=1)
    elsewhere = [key for key in keys if key.split(".")[-1] == path[-1]]
    if close:
        remedy = f"did you mean {'.'.join([*path[:-1], close[0]])}?"
    else:
        remedy = f"did you mean {elsewhere[0]}?" if elsewhere else ""
    where = ".".join(path[:-1]) or "the top level"
    return ConfigError(
        ".".join(path), expected=f"a key of {where}: {', '.join(known)}", found=f"the unknown key '{path[-1]}'", remedy=remedy
    )


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that a configuration of this class may have, those of all variants of a section included."""
    for name, field in model.model_fields.items():
        own = f"{prefix}{field.alias or name}"
        inner = [key for child in _models(field.annotation) for key in _all_keys(child, f"{own}.")]
        yield from inner or [own]


def _models(annotation: object) -> list[type[BaseModel]]:
    """The configuration classes inside an annotation (unions and annotated types opened)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
