"""Tables of devices and of who was there when, CSV or Parquet. A cell that is no sensible number is named by row and column."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedphd_ray.errors import DataError
from fedphd_ray.system.files import MIB, read_regular

MOST_BYTES = 256 * MIB
Columns = dict[str, NDArray[np.float64]]


def read_columns(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> tuple[Columns, list[dict[str, object]]]:
    """Columns of numbers above zero, by name, and all rows as they stand.

    Args:
        path: a file with a header (CSV), or ending in .parquet.
        needed: columns that must be there.
        optional: columns that are read where they are there.

    Raises:
        DataError: the file cannot be read, lacks a column or rows, or has a cell that is no number above zero.
    """
    rows = list(_rows(path))
    there = list(rows[0]) if rows else []
    if missing := [name for name in needed if name not in there]:
        raise DataError(
            str(path),
            expected=f"rows with the columns {', '.join(needed)}",
            found=f"no column {', '.join(missing)}" if rows else "no row",
            remedy="docs/heterogeneity.md has the columns, and how FedScale's table is read",
        )
    wanted = [*needed, *(name for name in optional if name in there)]
    return {name: np.array([_number(path, row, name, number) for number, row in enumerate(rows, 1)]) for name in wanted}, rows


@lru_cache(maxsize=4)
def read_trace(path: Path, num_clients: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Clients, and the first and last round in which each is there [num_rows].

    Raises:
        DataError: see `read_columns`; or a cell is no whole number, a client not registered, or an end before its beginning.
    """
    names = ("client", "first_round", "last_round")
    rows = list(_rows(path))
    if not rows or any(name not in rows[0] for name in names):
        found = "no row" if not rows else f"the columns {', '.join(map(str, rows[0]))}"
        raise DataError(str(path), expected=f"rows with the columns {', '.join(names)}", found=found)
    cells = np.array([[_whole(path, row, name, number) for name in names] for number, row in enumerate(rows, 1)], np.int64)
    for number, (client, first, last) in enumerate(cells, 1):
        if client >= num_clients or not 1 <= first <= last:
            raise DataError(
                f"{path}, row {number}",
                expected=f"a client from 0 to {num_clients - 1}, and rounds from 1 with the last not before the first",
                found=f"client {client}, rounds {first} to {last}",
            )
    return cells[:, 0], cells[:, 1], cells[:, 2]


def _rows(path: Path) -> Iterator[dict[str, object]]:
    try:
        data = read_regular(path, MOST_BYTES)
        if path.suffix == ".parquet":
            yield from pq.read_table(pa.BufferReader(data)).to_pylist()
        else:
            yield from csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        found = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DataError(str(path), expected="a table: CSV with a header, or Parquet", found=str(found)) from None


def _number(path: Path, row: Mapping[str, object], name: str, number: int) -> float:
    cell = row.get(name)
    try:
        value = float(str(cell))
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf) or isinstance(cell, bool):
        raise DataError(
            f"{path}, row {number}, column {name}",
            expected="a number above zero",
            found="an empty cell" if cell in (None, "") else repr(cell),
        )
    return value


def _whole(path: Path, row: Mapping[str, object], name: str, number: int) -> int:
    cell = row.get(name)
    text = str(cell).strip()
    if isinstance(cell, bool) or not text.isdecimal() or len(text) > 15:
        raise DataError(
            f"{path}, row {number}, column {name}",
            expected="a whole number, not negative",
            found="an empty cell" if cell in (None, "") else repr(cell),
        )
    return int(text)
