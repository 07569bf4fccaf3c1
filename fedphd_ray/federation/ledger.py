"""The ledger: one row per transfer, written as Parquet, summed by any column."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fedphd_ray.errors import UserError
from fedphd_ray.files import read_regular, write_whole
from fedphd_ray.records import Transfer
from fedphd_ray.topology import Hop

SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("hop", pa.string()),
        ("source", pa.string()),
        ("destination", pa.string()),
        ("kind", pa.string()),
        ("codec", pa.string()),
        ("version", pa.int32()),
        ("num_params", pa.int64()),
        ("num_bytes", pa.int64()),
        ("sim_seconds", pa.float64()),
        ("attempt", pa.int32()),
        ("lost", pa.bool_()),
    ]
)
MOST_BYTES = 2**30  # of one part
COLUMNS = Transfer._fields


class Ledger:
    """Rows not yet written, as Arrow columns, and the totals of all rows there ever were.

    Args:
        directory: where Parquet parts go; None keeps rows in memory (forecasts, tests).
        hops: in the order in which their totals are told; others come after them.
        rows_per_part: so many are written without being asked for, so that memory does not grow with the rounds.
    """

    def __init__(self, directory: Path | None = None, hops: Sequence[Hop] = (), rows_per_part: int = 100_000) -> None:
        assert tuple(SCHEMA.names) == COLUMNS
        self._directory = directory
        self._hops = hops
        self._rows_per_part = rows_per_part
        self._batches: list[pa.RecordBatch] = []
        self._bytes_by_hop: dict[str, int] = defaultdict(int)
        self._hashes: dict[str, str] = {}

    def extend(self, transfers: Sequence[Transfer]) -> dict[str, int]:
        """Adds a round's rows and returns their bytes by hop."""
        added: dict[str, int] = defaultdict(int)
        for transfer in transfers:
            added[transfer.hop] += transfer.num_bytes
        columns = [pa.array([row[at] for row in transfers], field.type) for at, field in enumerate(SCHEMA)]
        self._batches.append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        if transfers and self._directory is not None and sum(batch.num_rows for batch in self._batches) >= self._rows_per_part:
            self.flush(transfers[-1].round)
        for hop, num_bytes in added.items():
            self._bytes_by_hop[hop] += num_bytes
        return dict(added)

    @property
    def bytes_by_hop(self) -> dict[str, int]:
        """Bytes per hop since the beginning of the run."""
        told = [hop for hop in self._hops if hop in self._bytes_by_hop]
        return {str(hop): self._bytes_by_hop[hop] for hop in dict.fromkeys([*told, *self._bytes_by_hop])}

    @property
    def unwritten(self) -> pa.Table:
        """The rows since the last flush."""
        return pa.Table.from_batches(self._batches, schema=SCHEMA)

    def flush(self, last_round: int) -> None:
        """Writes the rows that are not written yet as one part, named for the last round in it."""
        if self._directory is not None:
            self._write(self.unwritten, last_round)
            self._batches.clear()

    def rewind(self, round: int) -> tuple[int, str]:
        """Forgets every part after `round`; the number of those that stay, and their hash.

        A part ends with a checkpoint's round at the latest: none holds rows from before and after it.

        Raises:
            UserError: a part cannot be read.
        """
        self._batches.clear()
        self._bytes_by_hop.clear()
        for path in self._parts():
            if _last_round(path) > round:
                path.unlink()
        for path in self._parts():
            for hop, total in _sum_bytes(_read_part(path), "hop").items():
                self._bytes_by_hop[hop] += total
        return self.parts_sha256()

    def parts_sha256(self) -> tuple[int, str]:
        """The number of parts, and a hash over their names and contents."""
        sha, parts = hashlib.sha256(), self._parts()
        for path in parts:
            if path.name not in self._hashes:  # a part never changes
                self._hashes[path.name] = hashlib.sha256(read_regular(path, MOST_BYTES)).hexdigest()
            sha.update(f"{path.name}:{self._hashes[path.name]};".encode())
        return len(parts), sha.hexdigest()

    def _parts(self) -> list[Path]:
        return [] if self._directory is None else sorted(self._directory.glob("round-*.parquet"))

    def _write(self, table: pa.Table, last_round: int) -> None:
        """One part, beside and renamed; nothing for no rows."""
        if self._directory is None or not table.num_rows:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"round-{last_round:06d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_whole(path, sink.getvalue().to_pybytes())
        self._hashes.pop(path.name, None)


def read_ledger(directory: Path) -> pa.Table:
    """All rows of a run, as one Arrow table with `SCHEMA`'s columns."""
    return ds.dataset(directory, schema=SCHEMA, format="parquet").to_table().sort_by([("round", "ascending")])


def _last_round(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))


def _read_part(path: Path) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(read_regular(path, MOST_BYTES)), schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            str(path),
            expected="a part of a ledger, as a run writes it",
            found=str(error).partition("\n")[0],
            remedy="restore it from a copy",
        ) from None


def _sum_bytes(table: pa.Table, column: str) -> dict[str, int]:
    sums = table.group_by(column).aggregate([("num_bytes", "sum")])
    return dict(zip(sums[column].to_pylist(), sums["num_bytes_sum"].to_pylist(), strict=True))
