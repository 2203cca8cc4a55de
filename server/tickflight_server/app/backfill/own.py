"""Our own layout: the columns of a table, as ``export`` writes them, in CSV, Parquet or Arrow.

The rule of this file: columns go by name; ``seq`` is not taken, since the server gives it anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from tickflight_server.app.backfill.cells import Cells
from tickflight_server.app.backfill.files import SourceFile
from tickflight_server.app.backfill.layout import Layout, Rows, Wishes, batch_of
from tickflight_server.errors import InputError
from tickflight_server.schemas import MARKET, Column, TableSchema

TABLE_KEY = b"tickflight.table"
"""Key of a Parquet or Arrow file's metadata that holds its table's name."""

_FREE = frozenset({"seq", "receipt_timestamp"})
_CELLS: Mapping[str, Callable[[Cells, str], pa.Array]] = {
    "label": lambda cells, name: cells.label(name),
    "text": lambda cells, name: cells.text(name),
    "number": lambda cells, name: cells.number(name),
    "time": lambda cells, name: cells.time(name),
    "int": lambda cells, name: cells.integer(name),
    "flag": lambda cells, name: cells.flag(name),
    "numbers": lambda cells, name: cells.numbers(name),
    "texts": lambda cells, name: cells.texts(name),
}


def is_own(columns: tuple[str, ...]) -> bool:
    """Whether columns are some of one of our tables, and name the rows' time at least."""
    return "timestamp" in columns and any(set(columns) <= _names(t) for t in MARKET.values())


def own_layout(
    file: SourceFile, columns: tuple[str, ...], wishes: Wishes, metadata: Mapping[bytes, bytes] | None = None
) -> Layout:
    """Return the layout of a file with a table's columns.

    Raises:
        InputError: the table cannot be told, or a column is not one of it.
    """
    table = MARKET[_table(file, columns, wishes, metadata or {})]
    unknown = [c for c in columns if c not in _names(table)]
    if unknown or len(set(columns)) != len(columns):
        what = f"a column {unknown[0]!r}, which table {table.name} has not" if unknown else "a column twice"
        raise InputError(
            f"{file.path} has {what}.", hint=f"Its columns are {', '.join(c.name for c in table.columns)}."
        )
    given = {"exchange": wishes.exchange, "symbol": wishes.symbol}
    for name in table.required:
        if name not in columns and name not in _FREE and not given.get(name):
            hint = f"Give --{name}." if name in given else "Every row needs it."
            raise InputError(f"{file.path} has no column {name!r}.", hint=hint)
    used = tuple(c.name for c in table.columns if c.name in columns and c.name != "seq" and not given.get(c.name))
    lists = any(c.kind in ("numbers", "texts") for c in table.columns)

    def convert(cells: Cells) -> list[Rows]:
        return [(table.name, _rows(cells, table, used, given))]

    return Layout(
        name="tickflight",
        columns=columns,
        used=used,
        header=True,
        tables=(table.name,),
        mapping=given,
        convert=convert,
        quoted=True,
        chunk_bytes=(4 if lists else 8) << 20,
    )


def _rows(cells: Cells, table: TableSchema, used: tuple[str, ...], given: Mapping[str, str | None]) -> pa.RecordBatch:
    arrays: dict[str, pa.Array] = {}
    for column in table.columns:
        constant = given.get(column.name)
        if constant:
            arrays[column.name] = cells.constant(constant)
        elif column.name in used:
            arrays[column.name] = _column(cells, column)
    if "receipt_timestamp" not in arrays:
        arrays["receipt_timestamp"] = arrays["timestamp"]
    return batch_of(cells, arrays)


def _column(cells: Cells, column: Column) -> pa.Array:
    array = _CELLS[column.kind](cells, column.name)
    if column.required:
        cells.require(column.name, array)
        if column.name in ("exchange", "symbol"):
            _refuse_empty(cells, column.name, array)
    return array


def _refuse_empty(cells: Cells, name: str, array: pa.Array) -> None:
    empty = [i for i, v in enumerate(array.dictionary.to_pylist()) if not v or "\0" in v]
    if empty:
        indices = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(np.isin(indices, empty)):
            cells.fault(row, f"{name} is empty or holds a zero character")


def _names(table: TableSchema) -> set[str]:
    return {c.name for c in table.columns}


def _table(file: SourceFile, columns: tuple[str, ...], wishes: Wishes, metadata: Mapping[bytes, bytes]) -> str:
    if wishes.table is not None:
        name = wishes.table.removeprefix("market.")
        if name not in MARKET:
            raise InputError(f"there is no table {wishes.table}.", hint=f"Tables are {', '.join(MARKET)}.")
        return name
    named = metadata.get(TABLE_KEY, b"").decode("utf-8", "replace")
    if named in MARKET:
        return named
    word = re.match(r"[a-z0-9_]+?(?=$|[-.]|_\d)", file.name)
    named = word[0] if word and word[0] in MARKET else ""
    if named and set(columns) <= _names(MARKET[named]):
        return named
    exact = [n for n, t in MARKET.items() if _names(t) - _FREE == set(columns) - _FREE]
    if len(exact) == 1:
        return exact[0]
    if named:
        return named  # and its columns are not: the caller says which one
    raise InputError(f"{file.path} does not say which table it is of.", hint=f"Give --table: {', '.join(MARKET)}.")
