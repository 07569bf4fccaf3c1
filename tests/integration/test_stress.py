"""`fedphd stress`: every combination once, resumable, with figures that equal the runs' own."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from federations import TINY
from rich.console import Console

from fedphd_ray.config import load_config
from fedphd_ray.errors import ConfigError
from fedphd_ray.experiments import stress as grids
from fedphd_ray.experiments.contenders import contenders
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.report.progress import ConsoleProgress
from fedphd_ray.report.stress import write_stress
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.views.grid_page import write_grid_page

FAST = {"name": "fast", "share": 0.5, "macs_per_second": 1e9, "download_mbit": 50, "upload_mbit": 10}
SLOW = {"name": "slow", "share": 0.5, "macs_per_second": 1e8, "download_mbit": 5, "upload_mbit": 1}
GRID = ["schedule.policy={name: wait},{name: deadline, seconds: 2}", "devices.classes.1.share=0,0.5"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    quick = {
        "evaluation": {"every": 2, "num_samples": 12, "steps": 2, "chunk_size": 12},
        "checkpoint": {"every": 2},
        "devices": {"classes": [FAST, SLOW], "dropout": {"upload": 0.1}},
    }
    path.write_text(yaml.safe_dump(TINY | quick))
    return path


def stressed(config: Path, out: Path, seeds: int = 2) -> tuple[list[grids.Measured], list[str]]:
    said: list[str] = []
    runs = grids.planned(config, [], grids.axes(GRID), contenders("fedphd,hierfavg"), seeds)
    console = Console(quiet=True)
    measured = grids.stress(runs, out, lambda title, chosen: ConsoleProgress(console, 4, title), said.append)
    return measured, said


def test_a_grid_of_cells(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    measured, said = stressed(config, out)
    assert len(measured) == 2 * 2 * 2 * 2
    assert len({(run.cell.name, run.strategy, run.seed) for run in measured}) == 16
    assert any(line.startswith("run 16 of 16, about") for line in said)
    for run in measured:
        directory = out / run.cell.name / run.strategy / f"seed-{run.seed}"
        summary, chosen = Summary.read(directory), load_config(directory / "config.yaml")
        assert summary is not None
        assert (run.sim_seconds, run.fid) == (summary.sim_seconds, summary.fid)
        cost = forecast(chosen.build())
        assert cost.simulated is not None
        flights = [flight for round in cost.simulated.flights for flight in round]
        assert sum(run.used.values()) == sum(not flight.fate for flight in flights)
        assert sum(run.unused.values()) == sum(bool(flight.fate) for flight in flights)
        assert (run.lost_bytes > 0) == any(flight.fate for flight in flights)
        assert sum(run.clients.values()) == 6
        assert ("slow" in run.clients) == (run.cell.values["devices.classes.1.share"] == "0.5")
    late = [run for run in measured if "deadline" in run.cell.told and "slow" in run.clients]
    assert all(run.unused["slow"] > 0 for run in late)  # something is stressed in these cells
    target = grids.target_of(measured)
    report = write_stress(measured, target, out, "title", "command")
    assert report.count("\n| {name:") == 8
    assert "| FID | simulated time | time to FID" in report
    without = write_stress([replace(run, sim_seconds=0.0) for run in measured], target, out, "title", "command")
    assert "| FID | updates used | cloud | clients |\n" in without
    assert "imulated" not in without
    write_stress(measured, target, out, "title", "command")
    table = pq.read_table(out / "stress.parquet").to_pylist()
    assert [row["fid"] for row in table] == [run.fid for run in measured]
    assert [row["client_to_edge_bytes"] for row in table] == [run.bytes_by_hop["client_to_edge"] for run in measured]
    assert pq.read_table(out / "participation.parquet").num_rows == sum(len(run.clients) for run in measured)
    for name in ("stress.svg", "stress.png", "participation.svg", "participation.png", "pareto.svg", "pareto.png"):
        assert (out / name).stat().st_size > 5_000
    write_grid_page(measured, target, out / "stress.html", "title <b>", "command")
    page = (out / "stress.html").read_text()
    assert len(page) < 2_000_000
    assert page.count("<td>{name:") == 8
    assert "title &lt;b&gt;" in page
    assert all(word in page for word in ("Heat maps", "Bytes against quality", "Who took part", "const specs = [{"))
    # What is finished is not run again, and gives the same.
    again, said = stressed(config, out)
    assert again == measured
    assert sum("finished before" in line for line in said) == 16


def test_time_to_quality() -> None:
    cell = grids.Cell("cell-001", {})
    reached = {0: (0.0, 50.0), 2: (10.0, 20.0), 4: (30.0, 12.0)}
    run = grids.Measured(cell, "x", 1, 12.0, 1.0, 30.0, reached, 0, 0, {}, 0, 0, {}, {}, {}, 1.0)
    assert [run.seconds_to(target) for target in (60, 20, 15)] == [0.0, 10.0, 30.0]
    assert math.isnan(run.seconds_to(11))
    assert grids.target_of([run]) == 12.0


def test_axes_are_read_as_yaml() -> None:
    first, second = grids.axes(["schedule.policy={name: wait},{name: buffered, size: 4}", "local.epochs=1,2"])
    assert first.values == ("{name: wait}", "{name: buffered, size: 4}")
    assert (second.key, second.values) == ("local.epochs", ("1", "2"))


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (["local.epochs"], "key=value,value"),
        (["local.epochs="], "key=value,value"),
        (["=1,2"], "key=value,value"),
        (["local.epochs=1,1"], "every value once"),
        (["local.epochs=1", "local.epochs=2"], "every key once"),
        (["local.epochs=[1"], "--grid local.epochs"),
        (["local.epoch=1,2"], "epochs"),
        (["local.epochs=1,0"], "local.epochs=0"),
        (["devices.classes.7.share=1,2"], "position from 0 to 1"),
        (["seed=1,2", "local.batch_size=" + ",".join(map(str, range(1, 5002)))], "at most 10,000 runs"),
    ],
)
def test_grids_that_are_none(config: Path, grid: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        grids.planned(config, [], grids.axes(grid), contenders("fedphd"), 1)
    assert told in str(refused.value)
