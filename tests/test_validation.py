"""Every wrong value of every key is refused in plain words."""

import copy
import re
from typing import Any

import pytest
from federations import TINY

from fedphd_ray.config import Config, parse_config
from fedphd_ray.errors import UserError
from fedphd_ray.settings.validation import _all_keys

JARGON = re.compile(r"\b(input|tags?|pydantic|union|discriminator|ctx|NoneType|instance|parse|schema)\b", re.IGNORECASE)
WRONG: list[Any] = [None, True, "many", "4", -1, 0.5, float("inf"), 1e400, 10**25, [], ["x", "y"], {"x": 1}, {"name": "nobody"}]
KEYS = sorted(set(_all_keys(Config)))


def message(key: str, value: object) -> str:
    """Why a value is refused; empty where it is taken."""
    tree = copy.deepcopy(TINY)
    *path, last = key.split(".")
    node: Any = tree
    for name in path:
        node = node.setdefault(name, {})
    node[last] = value
    try:
        parse_config(tree)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", KEYS)
def test_wrong_values_are_refused_in_plain_words(key: str) -> None:
    if key.startswith("faults."):
        return  # a list: tried below
    refusals = [refusal for value in WRONG if (refusal := message(key, value))]
    assert refusals
    for refusal in refusals:
        assert not JARGON.search(refusal.replace(key, "")), refusal
        assert len(refusal) < 1500


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.name", "cifar100", ["one of digits, shapes, cifar10", "unknown name 'cifar100'"]),
        ("strategy.name", "fedpdh", ["did you mean fedphd?"]),
        ("schedule.rounds", "yes", ["a whole number", "'yes'"]),
        ("schedule.rounds", True, ["a whole number", "true"]),
        ("schedule.rounds", 0, ["above 0"]),
        ("runtime.hosts", "many", ["a whole number or auto"]),
        ("strategy.balance", 1e308, ["strategy.balance", "at most"]),
        ("strategy.balance", float("inf"), ["a finite number or auto"]),
        ("runtime.round_timeout_seconds", float("inf"), ["a finite number"]),
        ("runtime.round_timeout_seconds", 1e30, ["at most"]),
        ("runtime.gpus_per_host", 1.5, ["a whole number of GPUs, or a share below 1"]),
        ("runtime.cpus_per_host", 0.00001, ["at least 0.0001"]),
        ("evaluation.steps", 500, []),
        ("faults", [{"round": 1, "client": 1, "kind": "boom"}], ["faults.0.kind", "exception, nan"]),
        ("name", "a b", ["letters, digits"]),
    ],
)
def test_examples(key: str, value: object, words: list[str]) -> None:
    found = message(key, value)
    assert bool(words) == bool(found)
    assert all(word in found for word in words), found


def test_several_problems_are_one_message() -> None:
    tree = copy.deepcopy(TINY)
    tree["seed"] = -1
    tree["local"] = {"learning_rate": "x"}
    with pytest.raises(UserError, match="2 invalid settings"):
        parse_config(tree)


def test_more_steps_than_the_process_has_are_refused_by_the_configuration() -> None:
    tree = TINY | {"process": {"num_timesteps": 100}, "evaluation": {"every": 1, "steps": 500}}
    with pytest.raises(UserError, match=r"at most process\.num_timesteps = 100"):
        parse_config(tree)
