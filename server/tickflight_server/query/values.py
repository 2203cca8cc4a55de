"""Values that keep their SQL type on their way to the engine.

The rule of this file: a value that Python has a type of its own for, and the engine the same, goes as it is; all others
are written as the engine reads them, beside the type that they are read as.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import duckdb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TypedValue:
    """A value of the engine's type ``sql_type``: a number, or text that the engine reads as one of that type."""

    value: int | float | str
    sql_type: str


def plain(value: Any) -> Any:
    """Return the number or text of a typed value, and any other as it is."""
    return value.value if isinstance(value, TypedValue) else value


def engine_value(value: Any) -> Any:
    """Return what duckdb's own interface takes for a bound value.

    A Python instant with a zone becomes what the tables hold, UTC without one: only then a filter on it prunes.
    """
    if isinstance(value, TypedValue):
        return duckdb.Value(value.value, _type(value.sql_type))
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


@lru_cache(maxsize=256)
def _type(name: str) -> Any:
    return duckdb.sqltype(name)


def microseconds(value: Any) -> int | None:
    """Return a time as microseconds since 1970, None if it is none; without a zone it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
