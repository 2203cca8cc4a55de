"""Arrow values as the engine takes them, with their types.

The rule of this file: a value arrives as what it was or is refused; nothing is rounded and nothing goes through a
Python type that holds less. What Python and the engine both have (text, bytes, flags, doubles, dates, instants to the
microsecond without zone) goes as that; the rest as ``TypedValue``, written as the engine reads it. Nulls are None: the
engine's interface has no null of a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.errors import StatementError
from tickflight_server.flight.duckdb_types import UNKNOWN, type_name
from tickflight_server.query.trees import quoted
from tickflight_server.query.values import TypedValue

_PER_SECOND: Final[Mapping[str, int]] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NAIVE: Final[Mapping[str, str]] = {"s": "TIMESTAMP_S", "ms": "TIMESTAMP_MS", "us": "TIMESTAMP", "ns": "TIMESTAMP_NS"}
_DIGITS_MAX = 38  # of the engine's decimals
_FAR = (1 << 63) - 1  # the engine's infinity, for times; the least is its negative
_US_MIN, _NS_MIN = -9_223_372_022_400_000_000, -9_223_286_400_000_000_000  # 290309-12-22 BC, 1677-09-22
_DATE_MIN, _DATE_MAX = -(1 << 31) + 2, (1 << 31) - 2
_EPOCH_DAY, _LAST_DAY = date(1970, 1, 1).toordinal(), date.max.toordinal()
_EPOCH = datetime(1970, 1, 1)
_LEAST_US, _LAST_US = ((t - _EPOCH) // timedelta(microseconds=1) for t in (datetime.min, datetime.max))


class _UnfitError(Exception):
    """The engine has no such value; the text says why."""


def values_of(column: pa.Array, wanted: pa.DataType | None, name: str) -> list[Any]:
    """Return what to bind for each value of a column, in the type ``wanted`` where that changes no value.

    An instant with a zone keeps it, unless ``wanted`` has none: it becomes what the tables hold, UTC. ``wanted`` is
    None where nothing is known of the statement: then so does every such instant, and an int64, which is what many
    clients send for any integer, goes as a number that the engine finds a type for.

    Raises:
        StatementError: the engine cannot hold a value of parameter ``name``.
    """
    try:
        return _values(column, wanted)
    except (_UnfitError, pa.ArrowException, ValueError, OverflowError, NotImplementedError) as error:
        raise StatementError(
            f"a value of type {column.type} cannot be bound to ${name}: {str(error).splitlines()[0].rstrip('.')}."
        ) from None


def _values(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    column = _decoded(column)
    kind = column.type
    if kind in (pa.bool_(), pa.string(), pa.binary(), pa.null()):
        return list(column.to_pylist())
    for applies, convert in _CONVERTERS:
        if applies(kind):
            return convert(column, wanted)
    raise _UnfitError("SQL has no such type")


def _decoded(column: pa.Array) -> pa.Array:
    """Return the column without encodings that are only Arrow's."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _decoded(column.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _decoded(pc.run_end_decode(column))
    if isinstance(kind, pa.BaseExtensionType):
        if kind in (pa.uuid(), pa.json_()):
            return column
        storage = column.storage
        return storage.cast(pa.bool_()) if kind == pa.bool8() else _decoded(storage)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    return column


def _typed(values: list[Any], sql_type: str) -> list[Any]:
    return [None if value is None else TypedValue(value, sql_type) for value in values]


def _integers(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    own = type_name(column.type)
    values = column.to_pylist()
    if wanted is None and column.type == pa.int64():
        return list(values)
    if wanted is None or not pa.types.is_integer(wanted) or wanted == column.type:
        return _typed(values, own)
    bits = wanted.bit_width
    signed = pa.types.is_signed_integer(wanted)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    other = type_name(wanted)
    return [None if v is None else TypedValue(v, other if low <= v <= high else own) for v in values]


def _floats(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    if not pa.types.is_float64(column.type):
        return _typed(column.cast(pa.float32()).to_pylist(), "FLOAT")
    values = column.to_pylist()
    if wanted is None or not pa.types.is_float32(wanted):
        return list(values)
    # the engine has functions that take a FLOAT and no DOUBLE
    narrow = column.cast(pa.float32(), safe=False).to_pylist()
    return [TypedValue(n, "FLOAT") if v is not None and n == v else v for n, v in zip(narrow, values, strict=True)]


def _decimals(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    return [None if value is None else _decimal(value, column.type) for value in column.to_pylist()]


def _decimal(value: Decimal, kind: pa.DataType) -> TypedValue:
    precision, scale = max(kind.precision, kind.scale), max(kind.scale, 0)
    if kind.scale < 0:
        precision -= kind.scale
    if precision > _DIGITS_MAX:
        precision = _DIGITS_MAX
        if scale > precision or abs(value) >= Decimal(10) ** (precision - scale):
            raise _UnfitError(f"SQL's decimals have {_DIGITS_MAX} digits")
    return TypedValue(format(value, "f"), f"DECIMAL({precision},{scale})")


def _dates(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    days = column.cast(pa.date32()).cast(pa.int32()).to_pylist()
    return [None if day is None else _date(day) for day in days]


def _date(day: int) -> date | TypedValue:
    if 0 < day + _EPOCH_DAY <= _LAST_DAY:
        return date.fromordinal(day + _EPOCH_DAY)
    if not _DATE_MIN <= day <= _DATE_MAX:
        raise _UnfitError("the date is out of SQL's range")
    return TypedValue(_date_text(day), "DATE")


def _date_text(day: int) -> str:
    """Return a day since 1970 as the engine reads it, in any year: the civil calendar, its year beginning in March."""
    era, of_era = divmod(day + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * of_year + 2) // 153
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = year_of_era + era * 400 + (month <= 2)
    text = f"{year if year > 0 else 1 - year:04}-{month:02}-{of_year - (153 * month_from_march + 2) // 5 + 1:02}"
    return text if year > 0 else f"{text} (BC)"


def _clock(ticks: int, per_second: int) -> str:
    """Return a time of day as text."""
    seconds, fraction = divmod(ticks, per_second)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:0{len(str(per_second)) - 1}}" if per_second > 1 else text


def _timestamps(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    kind = column.type
    asked = wanted if wanted is not None and pa.types.is_timestamp(wanted) else None
    zoned = kind.tz is not None and wanted is not None and (asked is None or asked.tz is not None)
    unit = asked.unit if asked is not None else None
    values = column.cast(pa.int64()).to_pylist()
    return [None if value is None else _timestamp(value, kind.unit, unit, zoned) for value in values]


def _timestamp(value: int, unit: str, asked: str | None, zoned: bool) -> Any:
    """Return an instant in the unit that is asked for, if it is the same there."""
    if abs(value) == _FAR:
        text = "infinity" if value > 0 else "-infinity"
        return TypedValue(text, "TIMESTAMP WITH TIME ZONE" if zoned else _NAIVE[unit])
    if zoned and unit != "ns":
        asked = "us"
    if asked is not None and asked != unit:
        scaled, rest = divmod(value * _PER_SECOND[asked], _PER_SECOND[unit])
        if not rest and (asked != "ns" or _NS_MIN <= scaled < _FAR):
            value, unit = scaled, asked
    per_second = _PER_SECOND[unit]
    if unit == "us" and not zoned and _LEAST_US <= value <= _LAST_US:
        return _EPOCH + timedelta(microseconds=value)
    fits = _NS_MIN <= value < _FAR if unit == "ns" else _US_MIN <= value * (10**6 // per_second) < _FAR
    if not fits:
        raise _UnfitError("the time is out of SQL's range")
    day, ticks = divmod(value, 86_400 * per_second)
    text = f"{_date_text(day)} {_clock(ticks, per_second)}"
    if zoned:
        return TypedValue(f"{text}+00", "TIMESTAMPTZ_NS" if unit == "ns" else "TIMESTAMP WITH TIME ZONE")
    return TypedValue(text, _NAIVE[unit])


def _times(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    unit = column.type.unit
    values = column.cast(pa.int32() if unit in ("s", "ms") else pa.int64()).to_pylist()
    coarse = wanted is not None and pa.types.is_time(wanted) and wanted.unit != "ns"
    return [None if value is None else _time(value, unit, coarse) for value in values]


def _time(value: int, unit: str, coarse: bool) -> TypedValue:
    per_second = _PER_SECOND[unit]
    if not 0 <= value <= 86_400 * per_second:
        raise _UnfitError("it is no time of day")
    if coarse and unit == "ns" and not value % 1000:
        value, unit, per_second = value // 1000, "us", 10**6
    return TypedValue(_clock(value, per_second), "TIME_NS" if unit == "ns" else "TIME")


def _durations(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    scale = _PER_SECOND[column.type.unit]
    values = column.cast(pa.int64()).to_pylist()
    return [None if v is None else _interval(0, 0, v * 10**9 // scale) for v in values]


def _intervals(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    return [None if v is None else _interval(v.months, v.days, v.nanoseconds) for v in column.to_pylist()]


def _interval(months: int, days: int, nanoseconds: int) -> TypedValue:
    microseconds, rest = divmod(nanoseconds, 1000)
    if rest:
        raise _UnfitError("SQL's intervals end at the microsecond")
    if abs(microseconds) >= _FAR:
        raise _UnfitError("the interval is out of SQL's range")
    return TypedValue(f"{months} months {days} days {microseconds} microseconds", "INTERVAL")


def _extended(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    if column.type == pa.uuid():
        return [None if v is None else TypedValue(str(v), "UUID") for v in column.to_pylist()]
    return _typed(column.storage.cast(pa.string()).to_pylist(), "JSON")


def _nested(column: pa.Array, wanted: pa.DataType | None) -> list[Any]:
    kind = _sql_type(column.type)
    return [None if text == _NULL else TypedValue(text, kind) for text in _texts(column)]


_NULL = "NULL"


def _texts(column: pa.Array) -> list[str]:
    """Return each value as it is written inside a list."""
    column = _decoded(column)
    kind = column.type
    if pa.types.is_struct(kind):
        names = [_quoted(field.name) for field in kind]
        rows = zip(*map(_texts, column.flatten()), strict=True) if names else iter([()] * len(column))
        fields = (", ".join(f"{n}: {v}" for n, v in zip(names, row, strict=True)) for row in rows)
        return [
            f"{{{text}}}" if valid.as_py() else _NULL for text, valid in zip(fields, column.is_valid(), strict=True)
        ]
    if pa.types.is_map(kind):
        return [_map_text(scalar.values) if scalar.is_valid else _NULL for scalar in column]
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return [f"[{', '.join(_texts(scalar.values))}]" if scalar.is_valid else _NULL for scalar in column]
    # what has a zone keeps it inside: the column that it is compared with is not one to prune by
    return [_text(value) for value in _values(column, kind)]


def _map_text(entries: pa.Array) -> str:
    keys, values = map(_texts, entries.flatten())
    return "{" + ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True)) + "}"


def _text(value: Any) -> str:
    if isinstance(value, TypedValue):
        value = value.value
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, bytes):
        return _quoted("".join(f"\\x{byte:02X}" for byte in value))
    return _quoted(str(value))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _sql_type(kind: pa.DataType) -> str:
    """Return the type of a nested column, every field name quoted."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _sql_type(kind.value_type)
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            raise _UnfitError("SQL has no struct without fields")
        fields = (f"{quoted(f.name)} {_sql_type(f.type)}" for f in kind)
        return f"STRUCT({', '.join(fields)})"
    if pa.types.is_map(kind):
        return f"MAP({_sql_type(kind.key_type)}, {_sql_type(kind.item_type)})"
    if pa.types.is_fixed_size_list(kind):
        return f"{_sql_type(kind.value_type)}[{kind.list_size}]"
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_float16(kind):
        return "FLOAT"
    if pa.types.is_decimal(kind) and not (0 <= kind.scale <= kind.precision <= _DIGITS_MAX):
        raise _UnfitError(f"SQL's decimals have {_DIGITS_MAX} digits")
    name = "INTEGER" if pa.types.is_null(kind) else type_name(kind)
    if name == UNKNOWN and not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()):
        raise _UnfitError(f"SQL has no type for {kind}")
    return name


_Converter = Callable[[pa.Array, pa.DataType | None], list[Any]]
_CONVERTERS: Final[tuple[tuple[Callable[[pa.DataType], bool], _Converter], ...]] = (
    (pa.types.is_integer, _integers),
    (pa.types.is_floating, _floats),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_date, _dates),
    (pa.types.is_time, _times),
    (pa.types.is_duration, _durations),
    (lambda kind: kind == pa.month_day_nano_interval(), _intervals),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), _extended),
    (lambda kind: pa.types.is_nested(kind) and not pa.types.is_union(kind), _nested),
)
