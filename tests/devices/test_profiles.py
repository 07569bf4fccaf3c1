"""Populations of devices: drawn by the seed, from classes, presets or tables; what is no figure is named by row and column."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from federations import tiny

from fedphd_ray.devices.availability import Bernoulli, Diurnal, Markov, Trace
from fedphd_ray.devices.profiles import PRESETS, DevicesConfig
from fedphd_ray.errors import ConfigError, DataError

HEADER = "class,macs_per_second,memory_gib,download_mbit,upload_mbit,latency_ms\n"


def table(path: Path, text: str) -> DevicesConfig:
    path.write_text(text)
    return DevicesConfig(file=str(path))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_drawn_by_the_seed(preset: str) -> None:
    config = DevicesConfig(preset=preset)  # type: ignore[arg-type]
    first, again, other = (config.build(200, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.speed, again.speed)
    assert not np.array_equal(first.speed, other.speed)
    for values in (first.speed, first.memory_bytes, first.download, first.upload, first.latency, first.node_download):
        assert np.all(np.isfinite(values) & (values > 0))
    assert set(first.kinds) == {str(own["name"]) for own in PRESETS[preset]}


def test_shares_and_distributions_are_what_they_say() -> None:
    slow = {"name": "slow", "share": 0.25, "macs_per_second": {"distribution": "log_normal", "median": 1e9, "sigma": 0.5}}
    links = {
        "download_mbit": {"distribution": "uniform", "low": 1, "high": 3},
        "upload_mbit": {"distribution": "zipf", "largest": 8, "ranks": 4},
    }
    fast = {"name": "fast", "share": 0.75, "macs_per_second": 1e10}
    devices = DevicesConfig(classes=[slow | links, fast | links]).build(20_000, 1, 0)  # type: ignore[arg-type]
    kinds = np.array(devices.kinds)
    assert (kinds == "slow").mean() == pytest.approx(0.25, abs=0.01)
    own = devices.speed[kinds == "slow"]
    assert np.median(own) == pytest.approx(1e9, rel=0.05)
    assert np.log(own).std() == pytest.approx(0.5, rel=0.05)
    assert np.all(devices.speed[kinds == "fast"] == 1e10)
    assert devices.download.mean() == pytest.approx(2e6, rel=0.01)
    assert np.unique(devices.upload).tolist() == pytest.approx([2e6, 8e6 / 3, 4e6, 8e6])


def test_another_share_moves_nobody_elses_figures() -> None:
    def drawn(share: float) -> tuple[np.ndarray, np.ndarray]:
        wide = {"distribution": "log_normal", "median": 1e9, "sigma": 1.0}
        links = {"macs_per_second": wide, "download_mbit": 1, "upload_mbit": 1}
        classes = [{"name": "a", "share": share} | links, {"name": "b", "share": 1 - share} | links]
        devices = DevicesConfig(classes=classes).build(300, 1, 5)  # type: ignore[arg-type]
        return np.array(devices.kinds), devices.speed

    (kinds, speed), (others, speeds) = drawn(0.3), drawn(0.4)
    same = kinds == others
    assert 0 < (~same).sum() < 60
    assert np.array_equal(speed[same], speeds[same])


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    text = HEADER + "a,1e9,2,8,4,30\nb,2e9,4,16,8,60\n"
    devices = table(tmp_path / "d.csv", text).build(50, 1, 0)
    assert set(devices.kinds) == {"a", "b"}
    first = devices.kinds.index("a")
    assert (devices.speed[first], devices.download[first], devices.upload[first]) == (1e9, 8e6, 4e6)
    assert devices.latency[first] == pytest.approx(0.03)
    rows = [{"macs_per_second": 1e9, "download_mbit": 8.0, "upload_mbit": 4.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    assert DevicesConfig(file=str(tmp_path / "d.parquet")).build(3, 1, 0).latency[0] == pytest.approx(0.02)


def test_fedscales_table(tmp_path: Path) -> None:
    """Milliseconds per image of a network of 3e8 MACs, and kbit/s in both directions."""
    devices = table(tmp_path / "d.csv", "computation,communication\n30,2000\n").build(2, 1, 0)
    assert devices.speed.tolist() == pytest.approx([1e10] * 2)
    assert devices.download.tolist() == devices.upload.tolist() == pytest.approx([2e6] * 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADER + "a,1e9,2,8,4,30\nb,,4,16,8,60\n", ["row 2", "macs_per_second", "an empty cell"]),
        (HEADER + "a,1e9,2,-8,4,30\n", ["row 1", "download_mbit", "'-8'"]),
        (HEADER + "a,1e9,2,8,fast,30\n", ["row 1", "upload_mbit", "'fast'"]),
        (HEADER + "a,1e9,2,8,0,30\n", ["row 1", "upload_mbit", "'0'"]),
        (HEADER + "a,1e9,2,8,nan,30\n", ["row 1", "upload_mbit", "'nan'"]),
        (HEADER, ["no row"]),
        ("speed\n3\n", ["no column macs_per_second, download_mbit, upload_mbit"]),
        ("", ["no row"]),
    ],
)
def test_bad_cells_are_named(text: str, told: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        table(tmp_path / "d.csv", text).build(2, 1, 0)
    assert all(word in str(refused.value) for word in told), str(refused.value)


@pytest.mark.parametrize("name", ["a folder", "not Parquet.parquet", "not text.csv", "missing.csv"])
def test_files_that_are_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a folder":
        path.mkdir()
    elif "missing" not in name:
        path.write_bytes(b"\xff\xfe\x00PAR1")
    with pytest.raises(DataError, match="a table: CSV with a header, or Parquet"):
        DevicesConfig(file=str(path)).build(2, 1, 0)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("0,1,2\n1,,4\n", ["row 2", "first_round", "an empty cell"]),
        ("0,1,two\n", ["row 1", "last_round", "'two'"]),
        ("-1,1,2\n", ["row 1", "client", "'-1'"]),
        ("9,1,2\n", ["row 1", "0 to 2", "client 9"]),
        ("0,3,2\n", ["row 1", "rounds 3 to 2"]),
        ("0,0,2\n", ["row 1", "rounds 0 to 2"]),
    ],
)
def test_bad_traces_are_named(rows: str, told: list[str], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("client,first_round,last_round\n" + rows)
    with pytest.raises(DataError) as refused:
        Trace(name="trace", path=str(path)).present(1, 3, 1, 0)
    assert all(word in str(refused.value) for word in told), str(refused.value)


def test_a_trace_begins_again_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("client,first_round,last_round\n0,1,2\n1,3,4\n0,4,4\n")
    there = [np.flatnonzero(Trace(name="trace", path=str(path)).present(round, 3, 1, 0)).tolist() for round in range(1, 8)]
    assert there == [[0], [0], [1], [0, 1], [0], [0], [1]]


def test_presence_has_its_probabilities_and_is_the_same_every_time() -> None:
    bernoulli, markov = Bernoulli(name="bernoulli", probability=0.3), Markov(name="markov", leave=0.2, join=0.3)
    assert bernoulli.present(4, 20_000, 2, 1).mean() == pytest.approx(0.3, abs=0.01)
    walk = [markov.present(round, 5_000, 2, 1) for round in range(1, 40)]
    assert np.mean(walk) == pytest.approx(0.6, abs=0.01)
    left = np.mean([(before & ~now).sum() / before.sum() for before, now in pairwise(walk)])
    assert left == pytest.approx(0.2, abs=0.01)
    assert np.array_equal(markov.present(7, 5_000, 2, 1), walk[6])  # asked again, after later rounds
    assert not np.array_equal(markov.present(7, 5_000, 2, 2), walk[6])


def test_days_come_to_regions_one_after_another() -> None:
    rule = Diurnal(name="diurnal", period_rounds=24, least=0.0, most=1.0)
    share = [[rule.present(round, 4_000, 2, 0)[region::2].mean() for region in (0, 1)] for round in (12, 24)]
    assert share[0] == pytest.approx([1.0, 0.0], abs=0.01)
    assert share[1] == pytest.approx([0.0, 1.0], abs=0.01)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"devices": {}}, "one of preset, classes and file"),
        ({"devices": {"preset": "phones", "file": "x.csv"}}, "preset and file"),
        ({"devices": {"classes": [{"name": "x", "macs_per_second": 0, "download_mbit": 1, "upload_mbit": 1}]}}, "above 0"),
        ({"devices": {"preset": "phones", "edges": {"client_mbit": 0}}}, "above 0"),
        ({"devices": {"preset": "phones", "dropout": {"training": 1.5}}}, "1"),
        ({"schedule": {"policy": {"name": "deadline", "seconds": 5}}}, "no section devices"),
        (
            {
                "devices": {"preset": "phones"},
                "strategy": {"name": "feddiffuse", "mode": "usplit"},
                "schedule": {"policy": {"name": "buffered", "size": 2}},
            },
            "share the parts of the model",
        ),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny(**sections)
    assert told in str(refused.value)
