"""The table of clients says who took part, where, with which probability, and what became of it."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from federations import Recorder, tiny

from fedphd_ray.config import Config, load_config
from fedphd_ray.errors import UserError
from fedphd_ray.federation.channel.ledger import read_ledger
from fedphd_ray.runtime.directory.participation import SCHEMA, read_clients
from fedphd_ray.runtime.driver import run as runs

BUFFERED = {"devices": {"preset": "mixed", "dropout": {"training": 0.3}}, "schedule": {"policy": {"name": "buffered", "size": 2}}}


def run(config: Config, directory: Path) -> list[dict[str, object]]:
    runs.run(config.build(), directory, Recorder(), config_yaml=config.to_yaml())
    table = read_clients(directory)
    assert table.schema == SCHEMA
    return list(table.to_pylist())


def test_rows_are_the_rounds_of_the_metrics(tmp_path: Path) -> None:
    config = tiny(checkpoint={"every": 1}, faults=[{"kind": "nan", "round": 2, "client": client} for client in (0, 1, 2)])
    recorder = Recorder()
    runs.run(config.build(), tmp_path, recorder, config_yaml=config.to_yaml())
    rows = read_clients(tmp_path).to_pylist()
    for record in recorder.rounds:
        own = [row for row in rows if row["round"] == record.round]
        assert {row["client"]: row["edge"] for row in own} == record.participants
        assert {row["client"] for row in own if row["status"] != "used"} == set(record.failures)
        assert sum(row["images"] for row in own if row["status"] == "used") == record.num_images
        assert sum(row["seconds"] for row in own) == pytest.approx(record.train_seconds)
    assert any(record.failures for record in recorder.rounds)
    assert {row["probability"] for row in rows if row["round"] == 1} == {0.5}  # nobody has seen anything yet
    later = [row["probability"] for row in rows if row["round"] == 2]
    assert all(0 < one <= 1 for one in later)
    assert len(set(later)) > 1


def test_without_a_choice_the_probability_is_one_and_a_flat_federation_has_no_edge(tmp_path: Path) -> None:
    flat = tiny(strategy={"name": "fedavg"}, hierarchy={"num_edges": 0, "cloud_period": 1}, checkpoint={"every": 1})
    assert {(row["edge"], row["probability"]) for row in run(flat, tmp_path)} == {(-1, 1.0)}


def test_clients_that_were_asked_in_vain_are_in_it_with_their_time(tmp_path: Path) -> None:
    rows = run(tiny(**BUFFERED, checkpoint={"every": 1}), tmp_path)
    status = Counter(row["status"] for row in rows)
    assert status["used"] == 8
    assert status["gone"]
    assert all(row["sim_ended"] >= row["sim_started"] >= 0 for row in rows if row["status"] != "used")  # type: ignore[operator]
    assert any(row["started_from"] < row["round"] for row in rows)  # type: ignore[operator]
    lost = {(row["round"], row["source"]) for row in read_ledger(tmp_path / "ledger").to_pylist() if row["lost"]}
    for round, name in lost:
        if name.startswith("client/"):
            assert any(row["round"] == round and f"client/{row['client']}" == name and row["status"] != "used" for row in rows)


@pytest.mark.parametrize("sections", [{}, BUFFERED], ids=["rounds", "buffered"])
def test_it_goes_on_with_the_run(sections: dict[str, object], tmp_path: Path) -> None:
    config = tiny(**sections, checkpoint={"every": 1, "keep": 3})
    rows = run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/round-000004")
    shutil.rmtree(tmp_path / "cut/checkpoints/round-000003")
    (tmp_path / "cut/summary.json").unlink()
    runs.resume(load_config(tmp_path / "cut/config.yaml").build(), tmp_path / "cut", Recorder())
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    again = [{key: value for key, value in row.items() if key != "seconds"} for row in read_clients(tmp_path / "cut").to_pylist()]
    assert again == timeless


def test_a_missing_part_is_found(tmp_path: Path) -> None:
    config = tiny(checkpoint={"every": 1, "keep": 3})
    run(config, tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "clients/round-000002.parquet").unlink()
    with pytest.raises(UserError, match=r"clients"):
        runs.resume(config.build(), tmp_path, Recorder())
