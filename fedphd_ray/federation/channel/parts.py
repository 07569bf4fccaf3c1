"""A table that grows with the rounds of a run, as Parquet parts: each is whole, never changes, and is named by its last round."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedphd_ray.errors import UserError
from fedphd_ray.system.files import read_book, write_whole

PATTERN = "round-*.parquet"


class PartsTable:
    """Rows not yet written, as Arrow columns, and the parts that are.

    Args:
        schema: of every row.
        directory: where parts go; None keeps rows in memory (forecasts, tests).
        rows_per_part: so many are written without being asked for, so that memory does not grow with the rounds.
    """

    def __init__(self, schema: pa.Schema, directory: Path | None = None, rows_per_part: int = 100_000) -> None:
        self._schema = schema
        self._directory = directory
        self._rows_per_part = rows_per_part
        self._batches: list[pa.RecordBatch] = []
        self._hashes: dict[str, str] = {}

    def extend(self, round: int, rows: Sequence[tuple[Any, ...]]) -> None:
        """Adds rows of a round, each with a value per column."""
        columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(self._schema)]
        self._batches.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        if rows and self._directory is not None and sum(batch.num_rows for batch in self._batches) >= self._rows_per_part:
            self.flush(round)

    @property
    def unwritten(self) -> pa.Table:
        """The rows since the last flush."""
        return pa.Table.from_batches(self._batches, schema=self._schema)

    def flush(self, last_round: int) -> None:
        """Writes the rows that are not written yet as one part, named for the last round in it; nothing for no rows."""
        if self._directory is None:
            return
        if (table := self.unwritten).num_rows:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"round-{last_round:06d}.parquet"
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            write_whole(path, sink.getvalue().to_pybytes())
            self._hashes.pop(path.name, None)
        self._batches.clear()

    def rewind(self, round: int) -> tuple[int, str]:
        """Forgets every part after `round`; the number of those that stay, and their hash.

        A part ends with a checkpoint's round at the latest: none holds rows from before and after it.
        """
        self._batches.clear()
        for path in self.parts():
            if _last_round(path) > round:
                path.unlink()
        return self.sha256()

    def sha256(self) -> tuple[int, str]:
        """The number of parts, and a hash over their names and contents."""
        sha, parts = hashlib.sha256(), self.parts()
        for path in parts:
            if path.name not in self._hashes:  # a part never changes
                self._hashes[path.name] = hashlib.sha256(read_book(path)).hexdigest()
            sha.update(f"{path.name}:{self._hashes[path.name]};".encode())
        return len(parts), sha.hexdigest()

    def parts(self) -> list[Path]:
        """Files, oldest first."""
        return [] if self._directory is None else sorted(self._directory.glob(PATTERN))


def read_part(path: Path, schema: pa.Schema) -> pa.Table:
    """The rows of one file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return pq.read_table(pa.BufferReader(read_book(path)), schema=schema)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            str(path),
            expected="a part of a table, as a run writes it",
            found=str(error).partition("\n")[0],
            remedy="restore it from a copy",
        ) from None


def read_parts(directory: Path, schema: pa.Schema) -> pa.Table:
    """All rows that a run has written, oldest round first; none where there is no part.

    Raises:
        UserError: a part cannot be read.
    """
    return pa.concat_tables([schema.empty_table(), *(read_part(path, schema) for path in sorted(directory.glob(PATTERN)))])


def _last_round(path: Path) -> int:
    number = path.stem.removeprefix("round-")
    if not (number.isascii() and number.isdecimal()):
        raise UserError(
            str(path), expected="parts named by their last round", found=path.name, remedy="remove it: no run wrote it"
        )
    return int(number)
