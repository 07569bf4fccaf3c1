"""The ledger: one row per transfer, written as Parquet, summed by any column."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from fedphd_ray.federation.channel.parts import PartsTable, read_part, read_parts
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
COLUMNS = Transfer._fields


class Ledger:
    """A table of transfers, and the totals of all rows there ever were.

    Args:
        directory: where Parquet parts go; None keeps rows in memory (forecasts, tests).
        hops: in the order in which their totals are told; others come after them.
        rows_per_part: see `PartsTable`.
    """

    def __init__(self, directory: Path | None = None, hops: Sequence[Hop] = (), rows_per_part: int = 100_000) -> None:
        assert tuple(SCHEMA.names) == COLUMNS
        self._table = PartsTable(SCHEMA, directory, rows_per_part)
        self._hops = hops
        self._bytes_by_hop: dict[str, int] = defaultdict(int)

    def extend(self, transfers: Sequence[Transfer]) -> dict[str, int]:
        """Adds a round's rows and returns their bytes by hop."""
        added: dict[str, int] = defaultdict(int)
        for transfer in transfers:
            added[transfer.hop] += transfer.num_bytes
        self._table.extend(transfers[-1].round if transfers else 0, transfers)
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
        return self._table.unwritten

    def flush(self, last_round: int) -> None:
        """See `PartsTable.flush`."""
        self._table.flush(last_round)

    def rewind(self, round: int) -> tuple[int, str]:
        """See `PartsTable.rewind`; the totals are those of the parts that stay.

        Raises:
            UserError: a part cannot be read.
        """
        sealed = self._table.rewind(round)
        self._bytes_by_hop.clear()
        for path in self._table.parts():
            for hop, total in _sum_bytes(read_part(path, SCHEMA), "hop").items():
                self._bytes_by_hop[hop] += total
        return sealed

    def sha256(self) -> tuple[int, str]:
        """See `PartsTable.sha256`."""
        return self._table.sha256()


def read_ledger(directory: Path) -> pa.Table:
    """All rows of a run, as one Arrow table with `SCHEMA`'s columns.

    Raises:
        UserError: a part cannot be read.
    """
    return read_parts(directory, SCHEMA)


def _sum_bytes(table: pa.Table, column: str) -> dict[str, int]:
    sums = table.group_by(column).aggregate([("num_bytes", "sum")])
    return dict(zip(sums[column].to_pylist(), sums["num_bytes_sum"].to_pylist(), strict=True))
