"""Checkpoints hold exactly the run's state, and a resumed run ends in the same bits."""

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from federations import Recorder, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from fedphd_ray.config import Config, load_config
from fedphd_ray.errors import UserError
from fedphd_ray.federation.channel.ledger import Ledger, read_ledger
from fedphd_ray.runtime.directory.progress import read_lines
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.storage.checkpoint import CheckpointConfig, Checkpoints
from fedphd_ray.runtime.storage.places import ArrowStorage, LocalStorage, Storage, open_storage
from fedphd_ray.runtime.workers.local_backend import LocalBackend

EVERY_ROUND = {"checkpoint": {"every": 1, "keep": 2}}


def start(config: Config, directory: Path) -> Summary:
    return runs.run(config.build(), directory, Recorder(), config_yaml=config.to_yaml())


@pytest.mark.parametrize(
    "config",
    [
        tiny(**EVERY_ROUND, server={"ema_decay": 0.5}),
        tiny(**EVERY_ROUND, local={"optimizer_state": "per_client"}, hierarchy={"cloud_period": 3}),
        tiny(**EVERY_ROUND, strategy={"name": "fedavg"}, pruning={"mode": "at_init"}),
    ],
    ids=["average", "kept moments", "at init"],
)
def test_resumed_is_uninterrupted(config: Config, tmp_path: Path) -> None:
    whole = start(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    # As if the run had died in round 4, after its checkpoint of round 3: later lines and rows were written already.
    shutil.rmtree(tmp_path / "cut/checkpoints/round-000004")
    shutil.rmtree(tmp_path / "cut/model")
    (tmp_path / "cut/summary.json").unlink()
    again = load_config(tmp_path / "cut/config.yaml")
    assert again == config
    lines: list[str] = []
    resumed = runs.resume(again.build(), tmp_path / "cut", Recorder(), lines.append)
    assert lines == ["resumed after round 3"]
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.bytes_by_hop == whole.bytes_by_hop
    assert read_ledger(tmp_path / "cut/ledger").equals(read_ledger(tmp_path / "whole/ledger"))
    rounds = [json.loads(line)["round"] for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert rounds == [1, 2, 3, 4]


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    config = tiny(**EVERY_ROUND)
    whole = start(config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["round-000003", "round-000004", "run"]
    (tmp_path / "summary.json").unlink()
    newest = tmp_path / "checkpoints/round-000004/tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    lines: list[str] = []
    assert runs.resume(config.build(), tmp_path, Recorder(), lines.append).model_sha256 == whole.model_sha256
    assert any("round-000004 was passed over" in line and "damaged" in line for line in lines)
    (tmp_path / "summary.json").unlink()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for folder in (tmp_path / "checkpoints").glob("round-*"):
        (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match="a whole checkpoint"):
        runs.resume(config.build(), tmp_path, Recorder())
    for folder in (tmp_path / "checkpoints").glob("round-*"):
        (folder / "state.json").write_text('{"schema_version": 3, "other": 1}')
    with pytest.raises(UserError, match="the version of fedphd_ray that wrote it"):
        runs.resume(config.build(), tmp_path, Recorder())
    assert (tmp_path / "metrics.jsonl").read_bytes() == before  # nothing is thrown away unasked


def test_a_run_that_ended_before_its_first_round_begins_again(tmp_path: Path) -> None:
    config = tiny(checkpoint={"every": 0})
    whole = start(config, tmp_path)
    for name in ("summary.json", "metrics.jsonl"):
        (tmp_path / name).unlink()
    lines: list[str] = []
    assert runs.resume(config.build(), tmp_path, Recorder(), lines.append).model_sha256 == whole.model_sha256
    assert lines[-1] == "no checkpoint yet: from the beginning"
    assert [row["round"] for row in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


MEMORY = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory")))


@pytest.fixture(params=["local", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Both kinds of places; an object store stands in memory."""
    return LocalStorage(tmp_path / "deep/store") if request.param == "local" else ArrowStorage(MEMORY, f"/{tmp_path.name}")


def test_places_for_checkpoints(storage: Storage) -> None:
    assert storage.names() == []
    storage.write("one/file", b"1")
    storage.write("one/other", b"2")
    storage.write("two/file", b"3")
    storage.write("one/file", b"4")
    assert storage.names() == ["one", "two"]
    assert storage.names("one") == ["file", "other"]
    assert (storage.read("one/file", 10), storage.read("two/file", 10)) == (b"4", b"3")
    storage.remove("one/other")
    storage.remove("two")
    storage.remove("never")
    assert (storage.names("one"), storage.names()) == (["file"], ["one"])
    with pytest.raises(OSError, match="other"):
        storage.read("one/other", 10)


def test_a_run_goes_on_from_any_place(storage: Storage) -> None:
    config = tiny(checkpoint={"every": 1, "keep": 2}, local={"optimizer_state": "per_client"})
    experiment = config.build()
    checkpoints = Checkpoints(storage, config.checkpoint)
    backend = LocalBackend(experiment.host_setup())
    with Observer(experiment, backend, ledger=Ledger(), reporter=Recorder(), checkpoints=checkpoints) as observer:
        cloud = Cloud(experiment, backend, observer)
        state = cloud.run(cloud.begin())
    assert checkpoints.rounds() == ["round-000003", "round-000004"]
    found, warnings = Checkpoints(storage, config.checkpoint).load_newest(backend)
    assert found is not None
    restored = found[0]
    assert warnings == []
    assert restored.round == state.round == 4
    assert np.array_equal(restored.model.vector, state.model.vector)
    assert set(restored.client_states) == set(state.client_states)


def test_places_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"checkpoint\.path(.|\n)*nosuch://"):
        open_storage("nosuch://bucket/run")
    assert isinstance(open_storage("file:///tmp/run"), LocalStorage)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint, which holds client states too."""
    directory = tmp_path_factory.mktemp("saved")
    start(tiny(checkpoint={"every": 4, "keep": 1}, local={"optimizer_state": "per_client"}), directory)
    return directory / "checkpoints"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_noticed_and_nothing_worse(data: st.DataObject, saved: Path) -> None:
    """A flipped bit, a lost end or some garbage in any file of a checkpoint: it is passed over with a reason."""
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    garbage = data.draw(st.one_of(st.just(b""), st.binary(min_size=1, max_size=8)))
    flipped = bytes([content[position] ^ (1 << data.draw(st.integers(0, 7)))])
    damaged = content[:position] + (flipped + content[position + 1 :] if not garbage else garbage * data.draw(st.integers(0, 3)))
    backend = LocalBackend(tiny().build().host_setup())
    try:
        path.write_bytes(damaged)
        run = (saved / "run").read_bytes().decode("ascii", "replace")
        found, warnings = Checkpoints(LocalStorage(saved), CheckpointConfig(), run).load_newest(backend)
        state = None if found is None else found[0]
    except UserError:  # a flipped bit in the number of the schema, or in the run's name
        state, warnings = None, ["round-000004 was passed over: "]
    finally:
        path.write_bytes(content)
    if state is None:
        assert len(warnings) == 1
        assert warnings[0].startswith("round-000004 was passed over: ")
    else:  # white space of the manifest may change
        assert path.name in ("state.json", "run")
        assert state.round == 4


def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    start(tiny(**EVERY_ROUND), tmp_path)
    with pytest.raises(UserError, match="fedphd resume"):
        start(tiny(**EVERY_ROUND), tmp_path)
