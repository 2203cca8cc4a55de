"""Fitting a producer's batch to its table, and telling the rows that do not fit.

The rule of this file: a batch leaves here either exactly in the table's schema in memory, or its bad rows leave on
their own, each with a reason; no row disappears.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.errors import RowError
from tickflight_server.schemas import LABEL, STORED, TIMESTAMP, Column, NumericType, TableSchema

TIME_MIN_US = 0  # 1970-01-01
TIME_MAX_US = 7_258_118_400_000_000  # 2200-01-01
_ROW_TEXT_MAX = 64_000  # a rejected row's JSON is cut here


@dataclass(frozen=True)
class Fitted:
    """The rows that fit, in the table's schema in memory without ``seq``, and the others as a ``rejected`` batch."""

    batch: pa.RecordBatch
    rejected: pa.RecordBatch | None

    @property
    def rejected_rows(self) -> int:
        """How many rows did not fit."""
        return 0 if self.rejected is None else self.rejected.num_rows


def fit(
    table: TableSchema, batch: pa.RecordBatch, numeric: NumericType, *, now_us: int, producer: bytes = b""
) -> Fitted:
    """Bring ``batch`` into the shape of ``table``: columns by name, types widened, missing optional ones null.

    A missing ``receipt_timestamp`` is filled with ``now_us``.

    Raises:
        RowError: a column is unknown, a required one is missing, or a type cannot become the table's.
    """
    schema = table.arrow_input(numeric, memory=True)
    if not batch.schema.equals(schema):
        batch = _reshape(table, batch, schema, now_us)
    batch = _tidy_labels(batch)
    reasons = _find_faults(table, batch)
    if not reasons:
        return Fitted(batch, None)
    bad = np.zeros(batch.num_rows, dtype=bool)
    bad[list(reasons)] = True
    good = batch.filter(pa.array(~bad))
    return Fitted(good, rejected_batch(table, batch, reasons, numeric, now_us=now_us, producer=producer))


def _reshape(table: TableSchema, batch: pa.RecordBatch, schema: pa.Schema, now_us: int) -> pa.RecordBatch:
    names = batch.schema.names
    unknown = [n for n in names if schema.get_field_index(n) < 0 and n != "seq"]
    if unknown or len(set(names)) != len(names):
        raise RowError(
            f"table {table.name} has no column {unknown[0]!r}." if unknown else "a column is given twice.",
            hint=f"Its columns are {', '.join(schema.names)}.",
        )
    if "seq" in names:
        raise RowError("column 'seq' is given by the server.", hint="Leave it out.")
    columns = []
    for column, field in zip(table.columns, schema, strict=False):
        index = batch.schema.get_field_index(column.name)
        if index >= 0:
            columns.append(_cast(table, column, batch.column(index), field.type))
        elif column.name == "receipt_timestamp":
            columns.append(pa.repeat(pa.scalar(now_us, pa.int64()), batch.num_rows).cast(field.type))
        elif column.required:
            raise RowError(f"column {column.name!r} of table {table.name} is missing.", hint="Every row needs it.")
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(table: TableSchema, column: Column, array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type.equals(target):
        return array
    try:
        if target.equals(LABEL):
            if pa.types.is_dictionary(array.type):
                array = array.cast(pa.dictionary(array.type.index_type, pa.string()))
                return array.cast(LABEL) if not array.type.equals(LABEL) else array
            return array.cast(pa.string()).dictionary_encode().cast(LABEL)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if target.equals(TIMESTAMP):
            return _cast_time(array)
        if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
            array = _list_of_view(array)
        return array.cast(target)
    except pa.ArrowException as error:
        raise RowError(
            f"column {column.name!r} of table {table.name} cannot become {target} from {array.type}: "
            f"{str(error).splitlines()[0]}.",
            hint=f"Send it as {column.arrow_type('float64')}.",
        ) from None


def _list_of_view(array: pa.Array) -> pa.Array:
    """Return a list view as a list: the cast of pyarrow 26.0.1 makes an offset too few and reads behind its end."""
    ends = np.cumsum(pc.list_value_length(array).fill_null(0).to_numpy())
    offsets = pa.array(np.r_[0, ends], pa.int64())
    return pa.LargeListArray.from_arrays(offsets, array.flatten(), mask=array.is_null())


def _cast_time(array: pa.Array) -> pa.Array:
    if not pa.types.is_timestamp(array.type):
        return array.cast(TIMESTAMP)
    if array.type.tz is not None:
        # the instant is what counts: a zoned timestamp is stored as UTC microseconds already
        array = array.cast(pa.timestamp(array.type.unit, "UTC")).cast(pa.int64()).cast(pa.timestamp(array.type.unit))
    # nanoseconds are cut off; a number of seconds too large for microseconds is an error and does not wrap around
    return pc.cast(array, options=pc.CastOptions(TIMESTAMP, allow_time_truncate=True))


def _tidy_labels(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return ``batch`` with no null among the entries of a dictionary, and no more entries than rows.

    Arrow cannot unify dictionaries that hold nulls, used or not; and a slice would carry its parent's whole dictionary
    into the log.
    """
    for number, field in enumerate(batch.schema):
        if field.type.equals(LABEL):
            column = batch.column(number)
            entries = column.dictionary
            if entries.null_count or len(entries) > len(column):
                batch = batch.set_column(number, field, column.dictionary_decode().dictionary_encode())
    return batch


def _find_faults(table: TableSchema, batch: pa.RecordBatch) -> dict[int, str]:
    """Return the reason by row number for every row that does not fit."""
    faults: dict[int, str] = {}
    for column, array in zip(table.columns, batch.columns, strict=False):
        if column.required and array.null_count:
            for row in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)):
                faults.setdefault(int(row), f"column {column.name!r} is null")
        if column.kind == "time" and column.required:
            limits = pc.min_max(array)
            low, high = limits["min"], limits["max"]
            if low.is_valid and (low.value < TIME_MIN_US or high.value >= TIME_MAX_US):
                values = array.cast(pa.int64()).fill_null(TIME_MIN_US).to_numpy(zero_copy_only=False)
                for row in np.flatnonzero((values < TIME_MIN_US) | (values >= TIME_MAX_US)):
                    faults.setdefault(int(row), f"column {column.name!r} is outside the years 1970 to 2199")
        if column.name in ("exchange", "symbol"):
            _find_empty(column.name, array, faults)
    return faults


def _find_empty(name: str, array: pa.Array, faults: dict[int, str]) -> None:
    empty = [i for i, v in enumerate(array.dictionary.to_pylist()) if not v or "\0" in v]
    if empty:
        indices = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(np.isin(indices, empty)):
            faults.setdefault(int(row), f"column {name!r} is empty or holds a zero character")


def rejected_batch(
    table: TableSchema,
    batch: pa.RecordBatch,
    reasons: dict[int, str],
    numeric: NumericType,
    *,
    now_us: int,
    producer: bytes,
) -> pa.RecordBatch:
    """Return the rows of ``batch`` named in ``reasons`` as rows of table ``rejected``."""
    bad = batch.take(pa.array(sorted(reasons), pa.int64()))
    # times go to text in Arrow: Python has none before the year 1 or after 9999
    texts = [c.cast(pa.string()) if c.type.equals(TIMESTAMP) else c for c in bad.columns]
    rows = pa.RecordBatch.from_arrays(texts, names=bad.schema.names).to_pylist()
    records = [
        {
            "exchange": _name(row["exchange"]),
            "symbol": _name(row["symbol"]),
            "table": table.name,
            "reason": reasons[number],
            "row": _row_text(row),
            "producer": producer.hex() or None,
            "timestamp": now_us,
            "receipt_timestamp": now_us,
        }
        for number, row in zip(sorted(reasons), rows, strict=True)
    ]
    schema = STORED["rejected"].arrow_input(numeric, memory=True)
    columns = [
        pa.array([r[f.name] for r in records], pa.int64()).cast(TIMESTAMP)
        if f.type.equals(TIMESTAMP)
        else pa.array([r[f.name] for r in records], f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _name(value: str | None) -> str:
    """Return an exchange or symbol that can name a partition, for a row that may have been rejected for its lack."""
    return value if value and "\0" not in value else "-"


def _row_text(row: dict[str, Any]) -> str:
    try:
        text = json.dumps(row, default=str, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinities: they become texts
        text = json.dumps(json.loads(json.dumps(row, default=str), parse_constant=str))
    return text[:_ROW_TEXT_MAX]
