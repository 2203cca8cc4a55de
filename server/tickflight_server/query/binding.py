"""What the engine's binder says about a statement that is not run: its parameters' types and its result's columns.

The rule of this file: everything that is the engine's own and not documented stands here, and nothing here raises for
what the engine says; the engine binds a statement again when it runs, and reports it then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import _duckdb
import duckdb
import pyarrow as pa

UNKNOWN = "UNKNOWN"
"""The engine's name for the type of what it cannot tell before values are bound."""


@dataclass(frozen=True)
class Bound:
    """A bound statement. ``parameters`` are type names by parameter, in lower case.

    ``rows`` says that it returns rows, ``changes`` that the rows it has are only a count of what it changed;
    ``writes`` that running it changes a database.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    parameters: Mapping[str, str]
    rows: bool
    changes: bool
    writes: bool

    @property
    def complete(self) -> bool:
        """Whether the types of all columns are known."""
        return not any(UNKNOWN in kind for kind in self.types)


def bind(connection: duckdb.DuckDBPyConnection, sql: str, values: Any = None) -> Bound | None:
    """Bind one statement without running it; None where it does not bind.

    With ``values`` its parameters have their types. It takes about 0.2 ms.
    """
    try:
        names, types, parameters, kind, _, writes = connection._bind(sql, with_writes=True, values=values)
    except (duckdb.Error, RuntimeError, AttributeError, TypeError):
        return None  # a later engine may have it under another name: then the parameters are text
    known = {name.lower(): str(type_) for name, type_ in parameters}
    return Bound(
        tuple(names), tuple(map(str, types)), known, kind == "query_result", kind == "changed_rows", bool(writes)
    )


def arrow_schema(connection: duckdb.DuckDBPyConnection, names: Sequence[str], types: Sequence[str]) -> pa.Schema | None:
    """Return the Arrow schema that the engine gives to columns of these types; None if it has no such type."""
    try:
        return _duckdb._arrow_schema(list(names), [connection.sqltype(t) for t in types], connection=connection)
    except (duckdb.Error, RuntimeError):
        return None


def columns(connection: duckdb.DuckDBPyConnection, sql: str, values: Any = None) -> pa.Schema | None:
    """Return the schema of the rows that a query gives with these values, without planning or running it.

    None where only a run tells: it does not bind, or is no plain query. It takes about 0.03 ms.
    """
    try:
        names, types, _, kind, deferred, _ = connection._bind(sql, with_writes=True, values=values)
        if kind != "query_result" or deferred or any(UNKNOWN in str(t) for t in types):
            return None
        schema = _duckdb._arrow_schema(list(names), list(types), connection=connection)
    except (duckdb.Error, RuntimeError, AttributeError, TypeError, ValueError):
        return None
    # columns of one name keep it
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def stream(connection: duckdb.DuckDBPyConnection, sql: str, values: Any, rows: int) -> pa.RecordBatchReader:
    """Run one statement; return a reader of its rows in batches of ``rows``, whose first is there.

    A relation would bind it twice before it runs it. The connection can do nothing else until the reader is closed.

    Raises:
        duckdb.Error: it does not bind, or fails.
    """
    submit = getattr(connection, "_submit", None)
    if submit is None:  # a later engine may have it under another name
        return connection.sql(sql, params=values).to_arrow_reader(rows)
    return submit(sql, values, "stream", rows).arrow_reader()


def parse(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """Return the engine's tree of one statement, None where it has none for it.

    It has none for statements that are no query; INSERT, UPDATE and DELETE are parsed as part of one.
    """
    for text in (sql, f"WITH __d AS (\n{sql}\n) SELECT 1"):
        try:
            row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()[0]
            answer = json.loads(row[0])
        except (duckdb.Error, RecursionError):
            return None
        if not answer["error"]:
            return answer if len(answer["statements"]) == 1 else None
    return None


def unparse(connection: duckdb.DuckDBPyConnection, tree: Any) -> str | None:
    """Return the text of a tree that ``parse`` gave; None where the engine cannot write it."""
    try:
        row = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()[0]
    except (duckdb.Error, RecursionError):
        return None
    return str(row[0])
