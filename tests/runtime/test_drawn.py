"""Who the clients are, as it was drawn: in the run directory and in the picture."""

from pathlib import Path

import pyarrow.parquet as pq
from federations import Recorder, method

from fedphd_ray.report.holdings import figure
from fedphd_ray.runtime.directory.drawn import POPULATION_FILE, population_table
from fedphd_ray.runtime.driver import run as runs

DEVICES = {"classes": [{"name": "a", "macs_per_second": 1e9, "download_mbit": 8, "upload_mbit": 2, "latency_ms": 30}]}


def test_a_row_per_client() -> None:
    experiment = method("fedavg").build()
    table = population_table(experiment)
    assert table.column_names == ["client", "images", "label_counts"]
    assert table["client"].to_pylist() == list(range(6))
    assert table["images"].to_pylist() == experiment.population.num_samples.tolist()
    assert table["label_counts"].to_pylist() == experiment.population.label_counts.tolist()


def test_with_its_device_in_the_units_of_the_names() -> None:
    first = population_table(method("fedavg", devices=DEVICES).build()).to_pylist()[0]
    assert {key: first[key] for key in list(first)[3:]} == {
        "device": "a",
        "macs_per_second": 1e9,
        "memory_bytes": 1e6 * 2**30,
        "download_bits_per_second": 8e6,
        "upload_bits_per_second": 2e6,
        "latency_seconds": 0.03,
    }


def test_it_is_in_the_run_directory(tmp_path: Path) -> None:
    experiment = method("fedavg", devices=DEVICES).build()
    runs.run(experiment, tmp_path / "run", Recorder())
    assert pq.read_table(tmp_path / "run" / POPULATION_FILE).equals(population_table(experiment))


def test_the_picture_has_a_dot_per_client_and_quantity() -> None:
    experiment = method("fedavg", devices=DEVICES).build()
    counts = experiment.population.label_counts
    drawn = figure(counts, "who", experiment.devices).to_dict()["hconcat"]
    assert [len(panel["data"]["values"]) for panel in drawn[2:]] == [6, 6]
    assert {dot["value"] for dot in drawn[3]["data"]["values"]} == {2.0}
    assert [panel["encoding"]["color"]["legend"] for panel in drawn[2:]] == [None, {}]
    assert len(figure(counts, "who").to_dict()["hconcat"]) == 2
