"""The ledger: totals, files, and going back."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from fedphd_ray.federation.channel.ledger import SCHEMA, Ledger, read_ledger
from fedphd_ray.federation.channel.links import Counts, Link, Marks, Parameters
from fedphd_ray.records import Kind, Transfer
from fedphd_ray.topology import Hop


def rows(round: int) -> list[Transfer]:
    model = {Kind.MODEL: Parameters.whole(torch.zeros(100), 0)}
    down = [row for name in ("client/1", "client/2") for row in Link(round, Hop("edge_to_client"), "edge/1", name).rows(model)]
    counts = {Kind.STATISTICS: Counts(np.zeros(10, np.int64))}
    return down + Link(round, Hop("client_to_edge"), "client/1", "edge/1").rows(counts)


def test_sizes() -> None:
    link = Link(1, Hop("edge_to_client"), "edge/1", "client/1")
    model = Parameters.whole(torch.empty(701_345, device="meta"), 0)
    assert [row.num_bytes for row in link.rows({Kind.MODEL: model, Kind.STATISTICS: Counts(np.zeros(10, np.int64))})] == [
        2_805_380,
        80,
    ]
    sizes = [link.rows({Kind.PLAN: Marks(channels, 1)})[0].num_bytes for channels in (0, 1, 8, 9)]
    assert sizes == [0, 1, 1, 2]


def test_totals_by_hop_and_round() -> None:
    ledger = Ledger()
    assert ledger.extend(rows(1)) == {"edge_to_client": 800, "client_to_edge": 80}
    ledger.extend(rows(2))
    assert ledger.bytes_by_hop == {"edge_to_client": 1600, "client_to_edge": 160}


def test_files_hold_every_row_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for round in (1, 2, 3):
        ledger.extend(rows(round))
        ledger.flush(round)
    ledger.flush(3)
    table = read_ledger(tmp_path)
    assert table.schema.equals(SCHEMA)
    assert table.num_rows == 9
    assert table["round"].to_pylist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert sum(table["num_bytes"].to_pylist()) == sum(ledger.bytes_by_hop.values())
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_many_rows_are_written_without_being_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, rows_per_part=6)
    for round in (1, 2, 3):
        ledger.extend(rows(round))
    assert [path.name for path in tmp_path.iterdir()] == ["round-000002.parquet"]
    assert ledger.unwritten.num_rows == 3
    assert sum(ledger.bytes_by_hop.values()) == 3 * 880


def test_rewinding_counts_nothing_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for round in (1, 2, 3, 4):
        ledger.extend(rows(round))
        if round % 2 == 0:
            ledger.flush(round)
    again = Ledger(tmp_path)
    whole = again.sha256()
    assert again.rewind(2)[0] == 1  # a checkpoint ends a part: the second one goes as a whole
    assert again.bytes_by_hop == {"client_to_edge": 160, "edge_to_client": 1600}
    for round in (3, 4):
        again.extend(rows(round))
    again.flush(4)
    assert again.sha256() == whole
    assert read_ledger(tmp_path).num_rows == 12
    again.rewind(0)
    assert again.bytes_by_hop == {}
    assert not list(tmp_path.glob("*.parquet"))


def test_parts_are_plain_parquet(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.extend(rows(1))
    ledger.flush(1)
    table = pq.read_table(tmp_path / "round-000001.parquet")
    assert table["destination"].to_pylist() == ["client/1", "client/2", "edge/1"]
    assert table["kind"].to_pylist() == ["model", "model", "statistics"]
