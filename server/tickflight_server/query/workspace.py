"""The users' own tables beside the market data: what is there, and the guard that keeps them to their schemas.

The rule of this file: a statement that changes objects runs in a transaction, and is taken back unless the server's
schemas are as they were; so no spelling of it can get round the check.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from tickflight_server.errors import PermissionDeniedError, ServerError
from tickflight_server.query.allowed import LIKE_FILES
from tickflight_server.query.builtins import builtins
from tickflight_server.query.connections import Connections
from tickflight_server.query.database import MACROS
from tickflight_server.query.macros import MARKET_MACROS
from tickflight_server.query.own_functions import OWN_FUNCTIONS
from tickflight_server.query.statement import Statement, StatementReader
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.query.trees import CATALOG, quoted
from tickflight_server.schemas import STORED

_OURS = ("market", "system", "main")
# What there is, asked by nothing that a user could have made anew under the same name.
_STATE: Mapping[str, str] = {
    "schema": "schema_name, schema_name FROM system.main.duckdb_schemas()",
    "table": "schema_name, table_name, comment FROM system.main.duckdb_tables()",
    "view": "schema_name, view_name, sql, comment FROM system.main.duckdb_views()",
    "sequence": "schema_name, sequence_name FROM system.main.duckdb_sequences()",
    "type": "schema_name, type_name FROM system.main.duckdb_types()",
    "function": "schema_name, function_name, macro_definition, comment FROM system.main.duckdb_functions()",
    "column": "schema_name, table_name, column_name, comment FROM system.main.duckdb_columns()",
}
# kinds that take long to list, and words without which no statement changes one
_SLOW: Mapping[str, tuple[str, ...]] = {"function": ("MACRO", "FUNCTION", "CASCADE"), "column": ("COMMENT",)}
_State = set[tuple[Any, ...]]
_MACROS = f"""
SELECT function_name, function_type, macro_definition FROM duckdb_functions()
WHERE database_name = '{CATALOG}' AND schema_name NOT IN ('market', 'system') AND function_type LIKE '%macro'
"""
_VIEWS = f"""
SELECT view_name, sql FROM duckdb_views()
WHERE NOT internal AND database_name IN ('{CATALOG}', 'temp') AND schema_name NOT IN ('market', 'system')
AND view_name NOT LIKE '\\_\\_%' ESCAPE '\\'
"""
_TABLES = f"""
SELECT schema_name, table_name AS name, 'table' AS kind, comment FROM duckdb_tables()
WHERE NOT internal AND database_name = '{CATALOG}' AND schema_name NOT IN ('market', 'system')
UNION ALL SELECT schema_name, view_name, 'view', comment FROM duckdb_views()
WHERE NOT internal AND database_name = '{CATALOG}' AND schema_name NOT IN ('market', 'system')
ORDER BY ALL
"""
_KEYS = f"""
SELECT schema_name, table_name, constraint_type, constraint_name, constraint_column_names, referenced_table,
       referenced_column_names
FROM duckdb_constraints()
WHERE database_name = '{CATALOG}' AND constraint_type IN ('PRIMARY KEY', 'FOREIGN KEY')
ORDER BY schema_name, table_name, constraint_name
"""


@dataclass(frozen=True)
class UserTable:
    """A table or view of the users, and the schema of ``SELECT *``."""

    schema: str
    name: str
    kind: str
    arrow: pa.Schema
    comment: str


@dataclass(frozen=True)
class Key:
    """A primary key, or a foreign key when it references a table."""

    schema: str
    table: str
    name: str
    columns: tuple[str, ...]
    referenced: str | None = None
    referenced_columns: tuple[str, ...] = ()


class Workspace:
    """What users have made in an engine's database.

    Args:
        connections: those of the database.
        give_empty: lets views over the server's tables bind on a connection.
    """

    def __init__(self, connections: Connections, give_empty: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        self._connections = connections
        self._give_empty = give_empty
        self._lock = threading.Lock()
        self.version = 0
        """Another number whenever the views and macros are others."""
        # what macros, and the users' views, read by name
        self._refused: frozenset[str] = frozenset()
        """Views and macros of an older version of the server, which call what is not offered any more."""
        self._calls = {m.name: frozenset(("market", table) for table in m.reads) for m in MARKET_MACROS.values()}
        with self.connection() as connection:
            self.refresh(connection)
        self._functions = builtins().functions.union(MACROS, MARKET_MACROS, OWN_FUNCTIONS)
        self._relations = builtins().views.union(STORED, SYSTEM_TABLES)

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection of its own to the block."""
        connection = self._connections.connect()
        try:
            yield connection
        finally:
            connection.close()

    def schemas(self) -> set[str]:
        """Return the names of all schemas of the catalog."""
        with self.connection() as connection:
            rows = connection.execute(
                f"SELECT schema_name FROM duckdb_schemas() WHERE database_name = '{CATALOG}' AND NOT internal"
            ).fetchall()
        return {name for (name,) in rows} - {"main"}

    def zone(self, name: str) -> str | None:
        """Return a time zone's name as the engine writes it, None if it knows none."""
        with self.connection() as connection:
            row = connection.execute(
                "SELECT name FROM pg_timezone_names() WHERE lower(name) = lower(?)", [name]
            ).fetchone()
        return None if row is None else str(row[0])

    def tables(self) -> list[UserTable]:
        """Return all tables and views, sorted; a view that does not bind any more has no columns."""
        with self.connection() as connection:
            self._give_empty(connection)
            found = connection.execute(_TABLES).fetchall()
            return [
                UserTable(schema, name, kind, _arrow(connection, schema, name), comment or "")
                for schema, name, kind, comment in found
            ]

    def keys(self) -> list[Key]:
        """Return the primary and foreign keys of all tables."""
        with self.connection() as connection:
            rows = connection.execute(_KEYS).fetchall()
        return [
            Key(
                schema, table, name or "", tuple(columns), other if kind == "FOREIGN KEY" else None, tuple(theirs or ())
            )
            for schema, table, kind, name, columns, other, theirs in rows
        ]

    # --- what views and macros read

    def refresh(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Look again at the views and macros that ``connection`` sees; those that are gone are kept, and do no harm."""
        views = connection.execute(_VIEWS).fetchall()
        macros = connection.execute(_MACROS).fetchall()
        every = frozenset(("", name) for name in (*STORED, *SYSTEM_TABLES))
        calls: dict[str, frozenset[tuple[str, str]]] = {name.lower(): every for name, _, _ in macros}
        with self._lock:
            self._connections.macros |= {name.lower() for name, kind, _ in macros if kind == "table_macro"}
        refused = set()
        with self._connections.reader() as reader:
            for name, sql in views:
                query = sql.partition(" AS ")[2].strip().rstrip(";")
                calls[name.lower()] = _tables_of(reader, query, every)
                refused |= {name.lower()} if _is_refused(reader, query) else set()
            for name, kind, body in macros:
                query = body if kind == "table_macro" else f"SELECT {body}"
                refused |= {name.lower()} if _is_refused(reader, query) else set()
        with self._lock:
            self._refused = (self._refused - calls.keys()) | refused
            # what a name read before, it may read again: in another session, or when a transaction is rolled back
            self._calls = self._calls | {name: self._calls.get(name, frozenset()) | calls[name] for name in calls}
            self.version += 1

    def names(self, statement: Statement) -> bool:
        """Return whether ``statement`` names anything that users have made, or may have."""
        ours = all(n in STORED or n in SYSTEM_TABLES for _, n in statement.tables)
        return not ours or not statement.functions.isdisjoint(self._calls)

    def reads(self, statement: Statement) -> frozenset[tuple[str, str]]:
        """Return the tables that ``statement`` refers to, through the users' views and macros, too.

        Raises:
            PermissionDeniedError: one of them was made when more was offered.
        """
        calls = self._calls
        if not calls:
            return statement.tables
        found = set(statement.tables)
        pending = [name for _, name in statement.tables] + list(statement.functions)
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in seen and name in calls:
                seen.add(name)
                if name in self._refused:
                    raise PermissionDeniedError(
                        f"{name[:100]} calls what is not offered here any more.", hint="Drop it, and make another."
                    )
                found |= calls[name]
                pending += [n for _, n in calls[name]]
        return frozenset(found)

    # --- the guard

    @contextmanager
    def guarded(self, connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[None]:
        """Run the block, which changes objects in an open transaction; refuse it if the server's own are touched.

        Raises:
            PermissionDeniedError: they are; the caller rolls back.
        """
        kinds = [kind for kind in _STATE if kind not in _SLOW or any(word in sql.upper() for word in _SLOW[kind])]
        before = _state(connection, kinds)
        yield
        after = _state(connection, kinds)
        if _servers(after) != _servers(before):
            raise PermissionDeniedError(
                "schemas market, system, main and workspace are the server's: they cannot be changed or dropped.",
                hint="Make tables in schema workspace, or in a schema of your own.",
            )
        for kind, database, schema, name, *_ in after - before:
            self._check_name(kind, database, schema, name)

    def _check_name(self, kind: str, database: str, schema: str, name: str) -> None:
        """Refuse a new object that would be found where one of the server's or the engine's is meant."""
        if kind in ("table", "view") and re.search(LIKE_FILES, name):  # no query could name it
            raise PermissionDeniedError(
                f"{name[:100]!r} reads like the name of a file.", hint=r"Leave out . / \ : * and ?"
            )
        known = name.lower()
        if kind == "function":
            hides = known in self._functions or known in self._relations
        else:
            hides = known in self._relations and (database == "temp" or schema == "workspace")
        if hides or known.startswith("__"):
            raise PermissionDeniedError(f"{name[:100]} is a name of the server's.", hint="Give it another name.")


def _state(connection: duckdb.DuckDBPyConnection, kinds: Iterable[str]) -> _State:
    # all is fetched: a connection is busy until then
    return {
        (kind, *row)
        for kind in kinds
        for row in connection.execute(
            f"SELECT database_name, {_STATE[kind]} WHERE database_name = '{CATALOG}' OR database_name = 'temp'"
        ).fetchall()
    }


def _servers(state: _State) -> _State:
    """Return what no user may change."""
    return {
        (kind, database, schema, *rest)
        for kind, database, schema, *rest in state
        if database == CATALOG and (schema in _OURS or (kind, schema) == ("schema", "workspace"))
    }


def _arrow(connection: duckdb.DuckDBPyConnection, schema: str, name: str) -> pa.Schema:
    try:
        return connection.sql(f"SELECT * FROM {quoted(CATALOG, schema, name)} LIMIT 0").to_arrow_reader(1).schema
    except duckdb.Error:
        return pa.schema([])


def _tables_of(reader: StatementReader, query: str, every: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Return what a view's query reads; everything if it cannot be read."""
    try:
        statement = reader.read(query)
    except ServerError:
        return every
    return statement.tables | {("", name) for name in statement.functions}


def _is_refused(reader: StatementReader, query: str) -> bool:
    """Return whether a view's query or a macro's body names what is not for users."""
    try:
        reader.read(query)
    except PermissionDeniedError:
        return True
    except ServerError:
        return False  # it does not bind or parse by itself
    return False
