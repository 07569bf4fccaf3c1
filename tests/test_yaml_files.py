"""YAML as people mean it, and refusals of what they cannot mean."""

import os
from pathlib import Path

import pytest

from fedphd_ray.errors import ConfigError
from fedphd_ray.settings.yaml_files import dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e3", 1500.0),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("0777", "0777"),
        ("1_000", "1_000"),
        ("2026-11-26", "2026-11-26"),
        ("true", True),
        ("~", None),
        ("-7", -7),
        ("[1, 2.0, x]", [1, 2.0, "x"]),
        ("{a: {b: [1]}}", {"a": {"b": [1]}}),
    ],
)
def test_values_are_those_that_people_mean(text: str, value: object) -> None:
    found = parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_what_the_library_writes_is_read_back() -> None:
    tree = {"a": 1.0e-5, "b": [True, None, "yes", "1e3", 3], "c": {"d": "0777", "e": "", "f": 1e22}}
    assert parse_yaml(dump_yaml(tree), "here") == tree


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nschedule: {}\na: 2\n", ["line 3", "'a' twice, in line 1 and in line 3"]),
        ("{a: {b: 1, b: 2}}", ["'b' twice"]),
        ("a: &x [1]\nb: *x", ["line 2", "alias"]),
        ("!!python/object/apply:os.system ['true']", ["tag"]),
        ("a: " + "9" * 5000, ["5000 digits"]),
        ("a: " + "9" * 40, ["40 digits"]),  # which Python itself would still take
        ("[" * 3000 + "]" * 3000, ["many more"]),
        ("[" * 60 + "]" * 60, ["50 levels"]),
        ("a: [1", ["line 1"]),
        ("a: \x00", ["here"]),
    ],
)
def test_what_nobody_can_mean_is_refused_in_one_message(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_yaml(text, "here")
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    latin, pipe, huge = tmp_path / "latin.yaml", tmp_path / "pipe.yaml", tmp_path / "huge.yaml"
    latin.write_bytes("name: Grün".encode("latin-1"))
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.truncate(10 * 2**30)
    for path, word in (
        (latin, "UTF-8"),
        (pipe, "a pipe"),
        (huge, "bytes"),
        (tmp_path, "a directory"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(ConfigError, match=word):
            read_yaml(path)
