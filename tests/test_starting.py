"""Configurations to start from, and configurations that extend others."""

from pathlib import Path

import pytest
from processes import fedphd_in_process

from fedphd_ray.config import load_config
from fedphd_ray.errors import ConfigError
from fedphd_ray.views.starting import CHECKOUT, STARTS


@pytest.mark.parametrize("name", STARTS)
def test_every_start_is_written_and_read(name: str, tmp_path: Path) -> None:
    said = fedphd_in_process("init", tmp_path / "new", "--data", name)
    path = tmp_path / "new" / STARTS[name].file
    assert f"fedphd plan {path}" in said
    assert path.read_bytes() == (CHECKOUT / STARTS[name].file).read_bytes()
    load_config(path)
    assert "no such file yet" in fedphd_in_process("init", tmp_path / "new", "--data", name, code=2)


def test_an_unknown_start_is_refused_with_those_there_are(tmp_path: Path) -> None:
    assert "one of digits, classes" in fedphd_in_process("init", tmp_path, "--data", "imagenet", code=2)
    listed = fedphd_in_process("init", "--list")
    assert all(name in listed for name in STARTS)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_extends_another_section_by_section(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "model: {widths: [16, 32], groups: 4, attention: [false, true]}\nseed: 3\nlocal: {epochs: 2}\n")
    write(tmp_path / "sub/middle.yaml", "extends: ../base.yaml\nschedule: {rounds: 7}\nstrategy: {name: fedprox, mu: 0.5}\n")
    top = write(tmp_path / "sub/top.yaml", "extends: middle.yaml\nschedule: {clients_per_round: 2}\nstrategy: {name: fedavg}\n")
    config = load_config(top, ["local.batch_size=5"])
    assert (config.seed, config.schedule.rounds, config.schedule.clients_per_round) == (3, 7, 2)
    assert (config.local.epochs, config.local.batch_size) == (2, 5)
    assert config.strategy.name == "fedavg"  # and no mu of the other kind is left


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("extends: top.yaml\n", "extends this one"),
        ("extends: none.yaml\n", "No such file"),
        ("extends: [a]\n", "path of another"),
    ],
)
def test_what_cannot_be_extended_is_refused(text: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=found):
        load_config(write(tmp_path / "top.yaml", text))


def test_circles_are_found(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    with pytest.raises(ConfigError, match="extends this one"):
        load_config(write(tmp_path / "b.yaml", "extends: a.yaml\n"))
