"""Lets the engine's allocator give memory that is free back to the system, from threads of its own.

The rule of this file: it is for all databases of the process, and any database that is closed ends it (measured with
DuckDB 2.0), so it is asked for again and again. Without it the memory of a query's end stays until another wants it.
"""

from __future__ import annotations

import functools
import threading

import duckdb

_LOCK = threading.Lock()


def give_back_from_now_on() -> None:
    """Let the allocator have its threads; costs nothing where it has them."""
    with _LOCK:
        _keeper().execute("SET GLOBAL allocator_background_threads = true")


@functools.cache
def _keeper() -> duckdb.DuckDBPyConnection:
    """Return a database that is never closed and reaches nothing; those of statements are locked."""
    return duckdb.connect(":memory:", config={"threads": "1", "enable_external_access": "false"})
