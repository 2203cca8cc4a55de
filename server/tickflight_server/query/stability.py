"""Whether a query gives the same for the same rows, by what it calls.

The rule of this file: the engine's own list of functions says so, and a macro is what its text is; what is not known
there may give another result every time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import duckdb

from tickflight_server.query.binding import parse
from tickflight_server.query.connections import Connections
from tickflight_server.query.trees import CATALOG, walk

# what the engine takes for a call where no column has the name
_VALUES = frozenset(
    {
        *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"),
        *("current_user", "session_user", "user", "current_role", "current_catalog", "current_schema"),
    }
)
_FUNCTIONS = f"""
SELECT lower(function_name), schema_name = 'market' AND database_name = '{CATALOG}' AS ours, function_type,
       coalesce(stability, '') = 'CONSISTENT' AS consistent, macro_definition
FROM duckdb_functions()
WHERE function_type IN ('scalar', 'aggregate', 'window', 'macro')
  AND (database_name = 'system' OR (database_name = '{CATALOG}' AND schema_name = 'market'))
"""


class Stability:
    """What functions of the engine and macros of the server are stable.

    Args:
        connections: those of the engine's database; its functions are looked through when they are first asked for.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lock = threading.Lock()
        self._stable: Mapping[str, bool] | None = None

    def unstable(self, tree: Any) -> str | None:
        """Return the first name in ``tree`` that may give another value for the same rows, None if there is none."""
        with self._lock:
            if self._stable is None:
                self._stable = self._look()
        return _first_unstable(tree, self._stable)

    def _look(self) -> Mapping[str, bool]:
        connection = self._connections.connect()
        try:
            rows = connection.execute(_FUNCTIONS).fetchall()
            ours = {name for name, own, *_ in rows if own}
            stable: dict[str, bool] = {}
            macros: dict[str, list[Any]] = {}
            for name, own, kind, consistent, definition in rows:
                if own or name not in ours:  # the server's hide the engine's
                    if kind == "macro":
                        macros.setdefault(name, []).append(definition)
                    else:
                        stable[name] = consistent and stable.get(name, True)
            _add_macros(connection, macros, stable)
            return stable
        finally:
            connection.close()


def _add_macros(
    connection: duckdb.DuckDBPyConnection, macros: Mapping[str, list[Any]], stable: dict[str, bool]
) -> None:
    """Say of each macro whether it is stable: once those that it calls are known to be."""
    trees = {name: [parse(connection, f"SELECT {text}") for text in texts] for name, texts in macros.items()}
    found = True
    while found:
        found = False
        for name, parsed in trees.items():
            if name not in stable and all(_is_plain(tree, stable) for tree in parsed):
                stable[name] = found = True


def _is_plain(tree: Any, stable: Mapping[str, bool]) -> bool:
    if tree is None or any(part.get("class") == "SUBQUERY" for part in walk(tree)):
        return False
    return _first_unstable(tree, stable) is None


def _first_unstable(tree: Any, stable: Mapping[str, bool]) -> str | None:
    for part in walk(tree):
        kind = part.get("class")
        if kind in ("FUNCTION", "WINDOW"):
            name = str(part.get("function_name", "")).lower()
            if name and not stable.get(name, False):
                return name
        elif kind == "COLUMN_REF":
            names = part["column_names"]
            if len(names) == 1 and names[0].lower() in _VALUES:
                return str(names[0]).lower()
    return None
