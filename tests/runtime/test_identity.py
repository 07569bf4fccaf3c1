"""A checkpoint knows whose it is, books are sealed, and nothing is thrown away unasked."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federations import METHODS, Recorder, method, reference, tiny
from processes import fedphd_in_process

from fedphd_ray.config import Config, load_config
from fedphd_ray.errors import UserError
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs

EVERY_ROUND: dict[str, object] = {"checkpoint": {"every": 1, "keep": 2}}


def begin(config: Config, directory: Path) -> Summary:
    return runs.run(config.build(), directory, Recorder(), config_yaml=config.to_yaml())


def stopped(config: Config, directory: Path) -> Path:
    """A run as it is when its driver dies in round 4: checkpoints of rounds 2 and 3, and books that go on after them."""
    begin(config, directory)
    for delivered in (directory / "model", *directory.glob("clients/client-*")):
        shutil.rmtree(delivered, ignore_errors=True)  # where clients keep parts there is no whole one
    (directory / "summary.json").unlink()
    checkpoints = Path(config.checkpoint.path or directory / "checkpoints")
    shutil.rmtree(checkpoints / "round-000004")
    return directory


def resumed(directory: Path, *overrides: str, **options: Any) -> Summary:
    said: list[str] = []
    return runs.resume(load_config(directory / "config.yaml", overrides).build(), directory, Recorder(), said.append, **options)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return stopped(method("fedphd with kept moments", **EVERY_ROUND), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("seed=8", "seed: 8 instead of 7"),
        ("strategy={name: fedavg}", "strategy.name: 'fedavg' instead of 'fedphd'"),
        ("data.num_clients=8", "data.num_clients: 8 instead of 6"),
        ("schedule.rounds=3", "schedule.rounds: 3 instead of 4"),
        ("schedule.clients_per_round=3", "schedule.clients_per_round"),
        ("hierarchy.num_edges=3", "hierarchy.num_edges: 3 instead of 2"),
        ("model.widths=[32,32]", "model.widths"),
        ("local.learning_rate=0.5", "local.learning_rate: 0.5 instead of 0.001"),
        ("pruning.ratio=0.25", "pruning.ratio: 0.25 instead of 0.5"),
    ],
)
def test_an_edited_configuration_is_refused_by_its_keys(change: str, key: str, run: Path) -> None:
    before = contents(run)
    with pytest.raises(UserError, match=re.escape(key)):
        resumed(run, change)
    assert contents(run) == before


@pytest.mark.parametrize("name", METHODS)
def test_no_method_goes_on_with_other_settings(name: str, tmp_path: Path) -> None:
    directory = stopped(method(name, **EVERY_ROUND), tmp_path / "run")
    with pytest.raises(UserError, match=r"local\.batch_size: 7 instead of 12"):
        resumed(directory, "local.batch_size=7")
    assert resumed(directory, "runtime.round_timeout_seconds=77").model_sha256 == reference(name)


def test_more_rounds_go_on_from_a_finished_run(tmp_path: Path) -> None:
    config = method("fedphd", **EVERY_ROUND)
    begin(config, tmp_path / "run")
    longer = load_config(tmp_path / "run/config.yaml", ["schedule.rounds=6"])
    said: list[str] = []
    summary = runs.resume(longer.build(), tmp_path / "run", Recorder(), said.append)
    assert summary.rounds == 6
    assert any("goes on to round 6; it was planned for 4" in line for line in said)
    assert [line["round"] for line in read(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    # The former end was a synchronisation of the longer plan, too (period 2): nothing differs.
    assert summary.model_sha256 == begin(method("fedphd", schedule={"rounds": 6}), tmp_path / "whole").model_sha256


def read(path: Path) -> list[dict[str, object]]:
    from fedphd_ray.runtime.directory.progress import read_lines  # noqa: PLC0415

    return read_lines(path)


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_finished_run_is_finished(tmp_path: Path) -> None:
    for every in (0, 1):
        directory = tmp_path / f"every-{every}"
        summary = begin(method("fedphd", checkpoint={"every": every}), directory)
        before = contents(directory)
        assert resumed(directory) == summary
        assert contents(directory) == before


def test_a_place_of_checkpoints_belongs_to_one_run(tmp_path: Path) -> None:
    place = {"checkpoint": {"every": 1, "keep": 2, "path": str(tmp_path / "place")}}
    one = stopped(method("fedphd", **place), tmp_path / "one")
    with pytest.raises(UserError, match="those of another run"):
        begin(method("fedavg", **place), tmp_path / "two")
    assert not (tmp_path / "two/metrics.jsonl").exists()
    shutil.copytree(tmp_path / "place", tmp_path / "copy")
    other = stopped(method("fedphd", checkpoint={"every": 1, "path": str(tmp_path / "other")}), tmp_path / "three")
    shutil.rmtree(tmp_path / "other")
    (tmp_path / "copy").rename(tmp_path / "other")
    with pytest.raises(UserError, match="those of another run"):
        resumed(other)
    assert resumed(one).model_sha256 == reference("fedphd")


def test_rounds_without_a_checkpoint_are_a_question(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    with pytest.raises(UserError, match=r"none, though 4 rounds are in the run's books(.|\n)*--restart"):
        resumed(run)
    assert contents(run) == before
    assert resumed(run, restart=True).model_sha256 == reference("fedphd with kept moments")


def test_a_relative_place_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tiny(checkpoint={"path": "~/ckpt"}).checkpoint.path == str(tmp_path / "home/ckpt")
    directory = stopped(method("fedphd", checkpoint={"every": 1, "keep": 2, "path": "ckpt:1"}), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert resumed(directory).model_sha256 == reference("fedphd")
    assert (tmp_path / "here/ckpt:1/round-000004").is_dir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip, lambda path: path.write_bytes(b"\x00" * 500)])
@pytest.mark.parametrize("book", ["metrics.jsonl", "ledger/round-000002.parquet"])
def test_damaged_books_are_found(book: str, damage: Callable[[Path], None], run: Path) -> None:
    damage(run / book)
    if book == "metrics.jsonl" and damage is cut:
        (run / book).write_bytes((run / book).read_bytes()[:100])
    with pytest.raises(UserError, match=re.escape(book.partition("/")[0])):
        resumed(run)


def test_books_that_go_on_after_the_checkpoint_are_cut_there(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "half a li')
    assert resumed(run).model_sha256 == reference("fedphd with kept moments")
    assert [line["round"] for line in read(run / "metrics.jsonl")] == [1, 2, 3, 4]


def test_wall_time_and_progress_go_on(run: Path) -> None:
    recorder = Recorder()
    summary = runs.resume(load_config(run / "config.yaml").build(), run, recorder)
    rounds, sent = recorder.begun
    assert rounds == 3
    assert 0 < sum(sent.values()) < sum(summary.bytes_by_hop.values())
    assert summary.wall_seconds > sum(float(str(line["round_seconds"])) for line in read(run / "metrics.jsonl"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "ledger", "checkpoints", "client_states", ".lock", "model"])
def test_links_out_of_a_run_directory_are_not_followed(name: str, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    place = run / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(outside)
    said = fedphd_in_process("resume", run, code=2)
    assert "symbolic link" in said
    assert outside.read_text() == "precious"


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


NO_BOOKS = {"a pipe, not a file": os.mkfifo, "a directory, not a file": Path.mkdir, "more than the 1,073,741,824": huge}
BOOKS = ["metrics.jsonl", "quality.jsonl", "ledger/round-000002.parquet", "clients/round-000002.parquet"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = method("fedphd", **EVERY_ROUND, evaluation={"every": 2, "num_samples": 4, "steps": 2})
    return stopped(chosen, tmp_path_factory.mktemp("judged") / "run")


@pytest.mark.parametrize("found", NO_BOOKS)
@pytest.mark.parametrize("book", BOOKS)
def test_what_is_no_book_is_refused(book: str, found: str, judged: Path, tmp_path: Path) -> None:
    """Whichever command reads it."""
    run = tmp_path / "run"
    shutil.copytree(judged, run)
    (run / book).unlink()
    NO_BOOKS[found](run / book)
    assert found in fedphd_in_process("resume", run, code=2)
    if book.endswith(".jsonl"):
        assert found in fedphd_in_process("report", run, code=2)


def test_a_part_that_no_run_wrote_is_named(run: Path) -> None:
    (run / "ledger/round-x.parquet").write_bytes(b"")
    assert "round-x.parquet" in fedphd_in_process("resume", run, code=2)


def test_nothing_is_left_of_the_states_that_did_not_fit_into_memory(tmp_path: Path) -> None:
    small: dict[str, object] = {"runtime": {"client_state_gib": 1e-4}}
    begin(method("fedphd with kept moments", **EVERY_ROUND, **small), tmp_path / "run")
    assert not (tmp_path / "run/client_states").exists()


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(tiny().to_yaml())
    for argument in (tmp_path / "config.yaml", tmp_path, tmp_path / "none"):
        said = fedphd_in_process("resume", argument, code=2)
        assert "the directory of a run" in said
