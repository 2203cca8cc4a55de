"""Values that keep their SQL type on their way to the engine.

The rule of this file: a value that Python has a type of its own for, and the engine the same, goes as it is; all others
are written as the engine reads them, beside the type that they are read as.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import duckdb


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
