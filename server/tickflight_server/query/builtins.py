"""The names that the installed engine brings: its functions, aggregates, views and types.

The rule of this file: they depend on the engine's version alone, so a process asks once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class Builtins:
    """Names as the engine writes them; ``functions``, ``macros`` and ``types`` in lower case.

    ``functions`` has ``aggregates`` and ``macros``, too.
    """

    functions: frozenset[str]
    aggregates: frozenset[str]
    macros: frozenset[str]
    views: frozenset[str]
    types: frozenset[str]


@functools.cache
def builtins() -> Builtins:
    """Return the engine's own names."""
    with duckdb.connect(":memory:") as database:
        functions = database.execute(
            "SELECT DISTINCT function_name, function_type FROM duckdb_functions() WHERE database_name = 'system'"
        ).fetchall()
        views = database.execute(
            "SELECT view_name FROM duckdb_views() WHERE database_name = 'system' AND schema_name = 'main'"
        ).fetchall()
        types = database.execute(
            "SELECT DISTINCT type_name FROM duckdb_types() WHERE database_name = 'system'"
        ).fetchall()
    return Builtins(
        frozenset(name.lower() for name, _ in functions),
        frozenset(name for name, kind in functions if kind == "aggregate"),
        frozenset(name.lower() for name, kind in functions if kind.endswith("macro")),
        frozenset(name for (name,) in views),
        frozenset(name.lower() for (name,) in types),
    )
