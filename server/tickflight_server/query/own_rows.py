"""Rows for the views of own table functions: who makes them, and what they may use for it.

The rule of this file: it knows of no function but by its name; a query gets rows for what it runs and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from tickflight_server.errors import NotFoundError, UnsupportedError
from tickflight_server.query.board import Board
from tickflight_server.query.callers import THE_SERVER, Caller
from tickflight_server.query.own_functions import OwnCall, Values, cancel_query_schema
from tickflight_server.query.parameter_types import UNTOLD
from tickflight_server.query.statement import Statement
from tickflight_server.query.stopping import Stops
from tickflight_server.schemas import STORED, TIMESTAMP, NumericType, TableSchema

_ARROW: Mapping[str, pa.DataType] = {
    "text": pa.string(),
    "time": TIMESTAMP,
    "count": pa.int64(),
    "interval": pa.month_day_nano_interval(),
}


@dataclass(frozen=True)
class Wanted:
    """A call of a query that runs.

    Rows with a ``seq`` above its table's in ``cuts`` are not for it; without cuts all are. What is done for it on other
    threads and connections is added to ``stops``, and let go with ``held``, which is closed after the last row.
    ``caller`` is who asks.
    """

    call: OwnCall
    values: Values
    cuts: Mapping[str, int] | None
    now_us: int
    stops: Stops
    held: ExitStack
    caller: Caller = THE_SERVER


Provider = Callable[[Wanted], pa.Table | pa.RecordBatchReader]
"""Makes a call's rows, in the columns that its function has for these values."""


class OwnRows:
    """Gives connections the rows of calls."""

    def __init__(
        self,
        numeric: NumericType,
        providers: Mapping[str, Provider],
        stored: Mapping[str, TableSchema] = STORED,
    ) -> None:
        self._numeric = numeric
        self._stored = stored
        self.providers = dict(providers)
        """Who makes a function's rows, by its name."""

    def schemas(self, calls: Mapping[OwnCall, Values]) -> dict[str, pa.Schema]:
        """Return the columns of each call's view."""
        return {call.view: call.known.schema(values, self._numeric, self._stored) for call, values in calls.items()}

    def give(
        self,
        connection: duckdb.DuckDBPyConnection,
        statement: Statement,
        values: Mapping[OwnCall, Values],
        wanted: Callable[[OwnCall, Values], Wanted],
    ) -> None:
        """Let ``connection`` see the rows of the calls of ``statement``, or none where it is only explained.

        Raises:
            UnsupportedError: nobody makes the rows of such a call here.
        """
        schemas = self.schemas(values)
        for call in statement.owns:
            if statement.explain and (statement.sql == statement.probe_sql or call.known.kind == "stream"):
                rows = schemas[call.view].empty_table()
            elif call.function in self.providers:
                rows = self.providers[call.function](wanted(call, values[call]))
                assert rows.schema.equals(schemas[call.view]), (rows.schema, schemas[call.view])
            else:
                raise UnsupportedError(f"{call.function}() is not offered here.")
            connection.register(call.view, rows)


def cancelling(board: Board) -> Provider:
    """Return what makes the row of ``cancel_query``, none if there is no such statement."""

    def cancel(wanted: Wanted) -> pa.Table:
        rows = []
        with suppress(NotFoundError):
            id_ = wanted.values["id"]
            rows.append({"id": id_, "cancelled": board.cancel(wanted.caller, id_)})
        return pa.Table.from_pylist(rows, schema=cancel_query_schema())

    return cancel


def refuse_streams(statement: Statement) -> None:
    """Refuse what cannot be fetched whole.

    Raises:
        UnsupportedError: the statement calls a function whose rows may not end.
    """
    for call in statement.owns:
        if call.known.kind == "stream":
            raise UnsupportedError(
                f"{call.function}() is not offered in a transaction that has written, or with temporary tables.",
                hint="Ask in a session of its own.",
            )


def parameter_fields(statement: Statement, schema: pa.Schema) -> pa.Schema:
    """Return the types of a statement's parameters, of which ``schema`` leaves those of calls' arguments open."""
    known: dict[str, pa.DataType] = {}
    for call in statement.owns:
        kinds = {p.name: p.kind for p in call.known.parameters}
        known |= {a.bound: _ARROW[kinds[a.name]] for a in call.arguments if a.bound and kinds[a.name] in _ARROW}
    return pa.schema([f.with_type(known.get(f.name.lower(), UNTOLD)) if f.type == UNTOLD else f for f in schema])
