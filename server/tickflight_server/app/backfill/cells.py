"""The cells of a chunk, from text or from columns with types, into the types of our tables.

The rule of this file: a value either becomes exactly what the file says, or its row gets a reason; a column is tried
whole first, value by value only when that fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.schemas import DECIMAL, LABEL, TIMESTAMP, NumericType

TIME_MAX_US = 7_258_118_400_000_000  # 2200-01-01, the end of what the store takes
_MS_MIN, _US_MIN = 10**11, 10**14  # 1973 in either unit; in the other it lies far outside
_SHOWN = 60


class Cells:
    """A chunk's columns by name, and the reasons of the rows that do not fit, by row.

    Args:
        columns: text, or typed columns of a Parquet file.
        numeric: what numbers become.
    """

    def __init__(self, columns: Mapping[str, pa.Array], rows: int, numeric: NumericType) -> None:
        self.rows = rows
        self.faults: dict[int, str] = {}
        self.numeric = numeric
        self._columns = columns
        self._number = DECIMAL if numeric == "decimal" else pa.float64()

    @property
    def number_type(self) -> pa.DataType:
        """What numbers become."""
        return self._number

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def raw(self, name: str) -> pa.Array:
        """Return a column as the file has it."""
        return self._columns[name]

    def fault(self, row: int | np.integer[Any], reason: str) -> None:
        """Say why a row does not fit; the first reason counts."""
        self.faults.setdefault(int(row), reason)

    def good(self) -> pa.Array | None:
        """Return which rows have no fault, None if all have none."""
        if not self.faults:
            return None
        mask = np.ones(self.rows, bool)
        mask[list(self.faults)] = False
        return pa.array(mask)

    def require(self, name: str, array: pa.Array) -> pa.Array:
        """Return ``array``; rows where it is null are missing column ``name``."""
        if array.null_count:
            for row in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)):
                self.fault(row, f"{name} is missing")
        return array

    def text(self, name: str) -> pa.Array:
        """Return a column as text."""
        return _plain(self.raw(name)).cast(pa.string())

    def label(self, name: str, meaning: Callable[[str], str | None] | None = None, unknown: str = "") -> pa.Array:
        """Return a column of few distinct values; ``meaning`` gives each another one, None for what is ``unknown``."""
        column = self.raw(name)
        if not pa.types.is_dictionary(column.type):
            column = _plain(column).cast(pa.string()).dictionary_encode()
        values = column.dictionary.to_pylist()
        if meaning is None:
            return column.cast(LABEL)
        found = [meaning(v) if v is not None else None for v in values]
        bad = [i for i, (v, f) in enumerate(zip(values, found, strict=True)) if v is not None and f is None]
        indices = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(np.isin(indices, bad)) if bad else ():
            self.fault(row, f"{name} {shown(values[indices[row]])} {unknown}")
        return pa.array([f or "" for f in found], pa.string()).take(column.indices).dictionary_encode().cast(LABEL)

    def constant(self, value: str) -> pa.Array:
        """Return the same label for every row."""
        indices = pa.array(np.zeros(self.rows, np.int32))
        return pa.DictionaryArray.from_arrays(indices, pa.array([value], pa.string()))

    def number(self, name: str) -> pa.Array:
        """Return a column of prices or sizes in the store's type."""
        found, faults = cast_numbers(self.raw(name), self._number)
        for row, reason in faults.items():
            self.fault(row, f"{name} {reason}")
        return found

    def integer(self, name: str) -> pa.Array:
        """Return a column of whole numbers."""
        found, faults = _cast(_plain(self.raw(name)), pa.int64(), "is not a whole number")
        for row, reason in faults.items():
            self.fault(row, f"{name} {reason}")
        return found

    def flag(self, name: str) -> pa.Array:
        """Return a column of truth values: true or false in any case, 1 or 0."""
        column = _plain(self.raw(name))
        if pa.types.is_boolean(column.type):
            return column
        lower = pc.utf8_lower(column.cast(pa.string()))
        known = pc.is_in(lower, pa.array(["true", "false", "1", "0"]))
        for row in np.flatnonzero(~pc.or_(known, lower.is_null()).to_numpy(zero_copy_only=False)):
            self.fault(row, f"{name} {shown(column[int(row)].as_py())} is neither true nor false")
        truth = pc.is_in(lower, pa.array(["true", "1"]))
        return pc.if_else(lower.is_null(), pa.scalar(None, pa.bool_()), truth)

    def time(self, name: str, *, unit: str = "us") -> pa.Array:
        """Return a column of times as microseconds since 1970 (int64).

        Text of digits counts in ``unit``: "us", or "ms_us" for milliseconds or microseconds, told apart by size. Other
        text is a date and time in UTC.
        """
        column = _plain(self.raw(name))
        if pa.types.is_timestamp(column.type):
            micros = _instants(column)
        elif pa.types.is_integer(column.type):
            micros = column.cast(pa.int64())
        else:
            micros = self._time_of_text(name, column.cast(pa.string()))
        if unit == "ms_us":
            values = micros.fill_null(0).to_numpy(zero_copy_only=False)
            scaled = np.where((values >= _MS_MIN) & (values < _US_MIN), values * 1000, values)
            micros = pa.array(scaled, mask=micros.is_null().to_numpy(zero_copy_only=False))
        self._check_time(name, micros, low=_US_MIN if unit == "ms_us" else 0)
        return micros

    def _time_of_text(self, name: str, column: pa.Array) -> pa.Array:
        digits = pc.match_substring_regex(column, r"^-?[0-9]+$")
        if not pc.any(pc.invert(digits)).as_py():
            found, faults = _cast(column, pa.int64(), "is not a time")
        else:
            found, faults = _cast(column, TIMESTAMP, "is not a time", one=_time_of)
            found = found.cast(pa.int64())
        for row, reason in faults.items():
            self.fault(row, f"{name} {reason}")
        return found

    def _check_time(self, name: str, micros: pa.Array, low: int) -> None:
        limits = pc.min_max(micros)
        if limits["min"].as_py() is None or (limits["min"].as_py() >= low and limits["max"].as_py() < TIME_MAX_US):
            return
        values = micros.fill_null(low).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero((values < low) | (values >= TIME_MAX_US)):
            self.fault(row, f"{name} {values[row]} is outside the years 1970 to 2199")

    def numbers(self, name: str) -> pa.Array:
        """Return a column of lists of numbers, from lists or from JSON."""
        column = _plain(self.raw(name))
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = _lists_of_text(column, self, name)
        offsets, flat = _flatten(column)
        found, faults = cast_numbers(flat, self._number)
        for place, reason in faults.items():
            self.fault(int(np.searchsorted(offsets, place, side="right")) - 1, f"{name} {reason}")
        return _list_array(offsets, found, column)

    def texts(self, name: str) -> pa.Array:
        """Return a column of lists of texts, from lists or from JSON."""
        column = _plain(self.raw(name))
        if not pa.types.is_string(column.type):
            return column.cast(pa.list_(pa.string()))
        values: list[list[str | None] | None] = []
        for row, text in enumerate(column.to_pylist()):
            try:
                found = None if text is None else json.loads(text)
                if found is not None and not isinstance(found, list):
                    raise ValueError
                values.append(None if found is None else [None if v is None else str(v) for v in found])
            except ValueError:
                values.append(None)
                self.fault(row, f"{name} {shown(text)} is not a list")
        return pa.array(values, pa.list_(pa.string()))


def shown(value: Any) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def cast_numbers(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Return numbers in the store's type, and the reasons of those that do not fit, which are null, by place."""
    column = _plain(column)
    if kind.equals(DECIMAL) and pa.types.is_floating(column.type):
        column = column.cast(pa.string())  # its shortest text is what was written; its binary expansion is not
    found, faults = _cast(column, kind, "is not a number" if kind.equals(pa.float64()) else _NOT_DECIMAL)
    if kind.equals(pa.float64()) and not pc.all(pc.is_finite(found)).as_py() and len(found):
        finite = pc.is_finite(found).fill_null(True).to_numpy(zero_copy_only=False)
        for place in np.flatnonzero(~finite):
            faults[int(place)] = f"{shown(column[int(place)].as_py())} is not a finite number"
        found = pc.if_else(pa.array(finite), found, pa.scalar(None, kind))
    return found, faults


_NOT_DECIMAL = "is not a number with at most 20 digits before the point and 18 behind it"


def _cast(
    column: pa.Array, kind: pa.DataType, complaint: str, one: Callable[[Any], Any] | None = None
) -> tuple[pa.Array, dict[int, str]]:
    """Cast a column; what cannot be cast is null and has a reason, by place."""
    try:
        return column.cast(kind), {}
    except pa.ArrowException:
        pass
    values: list[Any] = []
    faults: dict[int, str] = {}
    for place, scalar in enumerate(column):
        try:
            values.append(one(scalar.as_py()) if one and scalar.is_valid else scalar.cast(kind).as_py())
        except (pa.ArrowException, ValueError, OverflowError):
            values.append(None)
            faults[place] = f"{shown(scalar.as_py())} {complaint}"
    return pa.array(values, kind), faults


def _time_of(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _instants(column: pa.Array) -> pa.Array:
    """Return microseconds of a timestamp column; a zone only says how it is shown."""
    unit = column.type.unit
    values = column.cast(pa.timestamp(unit, "UTC")).cast(pa.int64()) if column.type.tz else column.cast(pa.int64())
    plain = values.cast(pa.timestamp(unit))
    return pc.cast(plain, options=pc.CastOptions(TIMESTAMP, allow_time_truncate=True)).cast(pa.int64())


def _lists_of_text(column: pa.Array, cells: Cells, name: str) -> pa.Array:
    """Return lists of the texts of the numbers in JSON lists."""
    column = column.cast(pa.string())
    shaped = pc.match_substring_regex(column, r"^\[[^\[\]{}]*\]$")
    for row in np.flatnonzero(~shaped.fill_null(True).to_numpy(zero_copy_only=False)):
        cells.fault(row, f"{name} {shown(column[int(row)].as_py())} is not a list of numbers")
    column = pc.if_else(shaped, column, pa.scalar(None, pa.string()))
    inner = pc.replace_substring_regex(pc.utf8_slice_codeunits(column, 1, -1), r'[" ]', "")
    parts = pc.split_pattern(inner, ",")
    counts = pc.list_value_length(parts).fill_null(0).to_numpy(zero_copy_only=False)
    empty = pc.equal(inner, "").fill_null(False).to_numpy(zero_copy_only=False)
    flat = parts.flatten()
    kept = np.repeat(~empty, counts)
    flat = flat.filter(pa.array(kept))
    flat = pc.if_else(pc.equal(flat, "null"), pa.scalar(None, pa.string()), flat)
    offsets = np.r_[0, np.cumsum(np.where(empty, 0, counts))]
    return _list_array(offsets, flat, column)


def _flatten(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    counts = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return np.r_[0, np.cumsum(counts)], column.flatten()


def _list_array(offsets: np.ndarray, flat: pa.Array, like: pa.Array) -> pa.Array:
    """Return lists of ``flat`` at ``offsets``, null where ``like`` is."""
    mask = like.is_null() if like.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=pa.list_(flat.type), mask=mask)
