"""Runs what changes the users' tables: statements, and rows from a client.

The rule of this file: a statement runs exactly once, and all of its rows of values or none; market data only comes in
through the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

import duckdb
import pyarrow as pa

from tickflight_server.errors import InputError, NotFoundError, PermissionDeniedError, ServerError, TransactionError
from tickflight_server.query.connections import look_as
from tickflight_server.query.database import engine_parameters, set_now
from tickflight_server.query.engine import Engine
from tickflight_server.query.narrowing import with_narrowing
from tickflight_server.query.planning import Started
from tickflight_server.query.probe import Filters
from tickflight_server.query.session import Options, Seat, SqlSession, Transaction
from tickflight_server.query.statement import Parameters
from tickflight_server.query.stopping import Stopper
from tickflight_server.query.trees import CATALOG, quoted
from tickflight_server.query.workspace import Workspace
from tickflight_server.query.writing import Writing, first_word

_INCOMING = "__incoming"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What a statement did: how many rows it changed, and what it gave back, None if nothing."""

    rows: int
    table: pa.Table | None = None


@dataclass(frozen=True)
class Target:
    """Where ingested rows go, and what is done if the table is there, or is not."""

    name: str
    schema: str = "workspace"
    temporary: bool = False
    if_missing: Literal["create", "fail"] = "create"
    if_there: Literal["fail", "append", "replace"] = "fail"

    @property
    def path(self) -> str:
        """The table's full name, quoted."""
        place = ("temp", "main") if self.temporary else (CATALOG, self.schema)
        return quoted(*place, self.name)


class Writer:
    """Runs on an engine what is no query."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._workspace = engine.workspace

    def write(
        self,
        writing: Writing,
        rows: Sequence[Parameters] = ((),),
        *,
        session: SqlSession,
        transaction: Transaction | None = None,
        cuts: Mapping[str, int] | None = None,
        started: Started | None = None,
        options: Options | None = None,
    ) -> Outcome:
        """Run a statement that is no query, once for each of ``rows`` of values, all or none.

        With ``cuts`` it reads of each stored table the rows with ``seq`` up to the table's. ``options`` are the
        session's, and say who asks.

        Raises:
            PermissionDeniedError: it would change what is the server's.
            TransactionError: the transaction conflicts with another, or was aborted.
            ServerError: the engine failed.
        """
        if writing.kind == "setting":
            session.run_setting(writing.sql, self._workspace)
            return Outcome(0)
        if writing.kind == "transaction":
            return _run_transaction(writing.sql, session, transaction)

        options = options or session.options

        def run(connection: duckdb.DuckDBPyConnection) -> Outcome:
            return _run_writing(connection, writing, rows, self._workspace)

        filters: dict[str, Filters | None] = {}

        def opened(connection: duckdb.DuckDBPyConnection, held: ExitStack) -> None:
            set_now(connection, self._engine.clock.now_us())
            if len(rows) == 1 and not rows[0]:
                filters.update(self._filters(writing, options, started))
            self._engine.opening.give_writing(connection, writing, filters, cuts, held, options)

        try:
            return self._within(session, transaction, writing.temporary, started, options, opened, run)
        except ServerError as error:
            raise with_narrowing(error, writing.reads, self._engine.store, cuts, filters) from None

    def ingest(
        self,
        target: Target,
        reader: pa.RecordBatchReader,
        *,
        session: SqlSession,
        transaction: Transaction | None = None,
        started: Started | None = None,
        options: Options | None = None,
    ) -> int:
        """Take rows into a table of the users', all or none; return how many.

        Raises:
            NotFoundError: there is no such schema, or no such table and none is to be made.
            InputError: the table is there and is not to be touched, or the columns do not fit.
        """

        def run(connection: duckdb.DuckDBPyConnection) -> int:
            return _ingest(connection, target, reader, self._workspace)

        options = options or session.options
        return self._within(session, transaction, target.temporary, started, options, lambda *_: None, run)

    def _filters(self, writing: Writing, options: Options, started: Started | None) -> Mapping[str, Filters | None]:
        """Return what reaches the scans of a statement that has no parameters: its query can be planned by itself."""
        if not writing.runs or writing.query is None or not writing.reads.readings():
            return {}
        try:
            query = self._engine.resolved(writing.query)
            return self._engine.plan(query, options=options, started=started).filters
        except ServerError:  # it names what only the transaction has: then all is opened
            return {}

    def _within(
        self,
        session: SqlSession,
        transaction: Transaction | None,
        temporary: bool,
        started: Started | None,
        options: Options,
        opened: Callable[[duckdb.DuckDBPyConnection, ExitStack], None],
        run: Callable[[duckdb.DuckDBPyConnection], Result],
    ) -> Result:
        """Run a change in the transaction it belongs to, or in one of its own."""
        seat = transaction.seat if transaction is not None else session.seat(None)
        if seat is None and temporary:
            seat = session.home
        with ExitStack() as held:
            self._engine.shared.enter(held, options, started)
            if seat is None:
                connection = self._engine.connections.connect(options)
                held.callback(connection.close)
            else:
                connection = held.enter_context(seat.taken())
            try:
                if seat is not None:
                    look_as(connection, options)
                    if transaction is not None:
                        seat.begin()
                opened(connection, held)
                with ExitStack() as changing:
                    if seat is None or not seat.in_transaction:
                        changing.enter_context(_in_transaction(connection))
                    # ends first: from then on it is done, or taken back, whatever the caller does
                    stopper = changing.enter_context(Stopper(connection))
                    if started is not None:
                        started(stopper)
                    with self._engine.shared.long_work.here():
                        result = run(connection)
            except Exception as error:
                raise self._failed(error, seat) from None
            if seat is not None:
                seat.has_temporary = seat.has_temporary or temporary
        return result

    def _failed(self, error: Exception, seat: Seat | None) -> ServerError:
        """Return the error to raise; what the guard refused takes an open transaction with it."""
        if isinstance(error, PermissionDeniedError) and seat is not None and seat.in_transaction:
            seat.end("ROLLBACK")
            return PermissionDeniedError(f"{error.message} The transaction was rolled back.", hint=error.hint)
        return self._engine.translate(error)


def _run_transaction(sql: str, session: SqlSession, transaction: Transaction | None) -> Outcome:
    """Run BEGIN, COMMIT or ROLLBACK as text, in the transaction of the protocol if there is one."""
    seat = transaction.seat if transaction is not None else session.home
    word = first_word(sql)
    if word in ("begin", "start"):
        if seat.in_transaction:
            raise TransactionError("TransactionContext Error: cannot start a transaction within a transaction")
        seat.begin()
    # in a transaction of the protocol that has written nothing, there is none of the engine's yet to end
    elif transaction is None or seat.in_transaction:
        seat.end("COMMIT" if word in ("commit", "end") else "ROLLBACK")
    return Outcome(0)


def _run_writing(
    connection: duckdb.DuckDBPyConnection, writing: Writing, rows: Sequence[Parameters], workspace: Workspace
) -> Outcome:
    """Run ``writing`` in the open transaction, once for each of ``rows`` of values; its sources are there."""
    if writing.kind == "object":
        with workspace.guarded(connection, writing.sql):
            outcome = _run(connection, writing, rows)
        workspace.refresh(connection)
        return outcome
    return _run(connection, writing, rows)


def _run(connection: duckdb.DuckDBPyConnection, writing: Writing, rows: Sequence[Parameters]) -> Outcome:
    changed, given = 0, []
    for values in rows:
        if writing.returning:
            table = connection.sql(writing.sql, params=engine_parameters(values)).to_arrow_table()
            given.append(table)
            changed += table.num_rows
            continue
        connection.execute(writing.sql, engine_parameters(values) or [])
        changed += _count(connection)
    return Outcome(changed, pa.concat_tables(given) if given else None)


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    """Return how many rows the last statement changed; one on objects gives none."""
    if [d[0] for d in connection.description or ()] != ["Count"]:
        return 0
    rows = connection.fetchall()  # all: the connection is busy until then
    return int(rows[0][0]) if rows else 0


@contextmanager
def _in_transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit what the block does, or take all of it back."""
    connection.execute("BEGIN TRANSACTION")
    try:
        yield
    except BaseException:
        with suppress(duckdb.Error):  # the engine did it already
            connection.execute("ROLLBACK")
        raise
    try:
        connection.execute("COMMIT")
    except duckdb.Error as error:
        raise TransactionError(str(error).strip()) from None


def _ingest(
    connection: duckdb.DuckDBPyConnection, target: Target, rows: pa.RecordBatchReader, workspace: Workspace
) -> int:
    """Take ``rows`` into a table in the open transaction; return how many.

    Raises:
        NotFoundError: the table is not there and is not to be made.
        InputError: it is there and is not to be touched, or the columns do not fit it.
    """
    there = _is_there(connection, target)
    if not there and target.if_missing == "fail":
        raise NotFoundError(f"there is no table {target.path}.", hint='Make it first, or use mode="create".')
    if there and target.if_there == "fail":
        raise InputError(f"table {target.path} is there already.", hint='Use mode="append" or "replace".')
    connection.register(_INCOMING, rows)
    try:
        if there and target.if_there == "append":
            names = ", ".join(map(quoted, rows.schema.names))
            connection.execute(f"INSERT INTO {target.path} ({names}) SELECT * FROM temp.main.{_INCOMING}")
            return _count(connection)
        verb = "CREATE OR REPLACE" if there else "CREATE"
        kind = "TEMP TABLE" if target.temporary else "TABLE"
        sql = f"{verb} {kind} {target.path} AS SELECT * FROM temp.main.{_INCOMING}"
        with workspace.guarded(connection, sql):
            connection.execute(sql)
            return _count(connection)
    finally:
        with suppress(duckdb.Error):  # the transaction is aborted; what failed is to be told, not this
            connection.unregister(_INCOMING)


def _is_there(connection: duckdb.DuckDBPyConnection, target: Target) -> bool:
    place = ("temp", "main") if target.temporary else (CATALOG, target.schema)
    if not target.temporary and target.schema not in _schemas(connection):
        raise NotFoundError(f"there is no schema {target.schema}.", hint=f"CREATE SCHEMA {target.schema} first.")
    rows = connection.execute(
        """SELECT table_name FROM duckdb_tables()
        WHERE database_name = ? AND schema_name = ? AND lower(table_name) = lower(?)""",
        [*place, target.name],
    ).fetchall()
    return bool(rows)


def _schemas(connection: duckdb.DuckDBPyConnection) -> set[str]:
    rows = connection.execute(f"SELECT schema_name FROM duckdb_schemas() WHERE database_name = '{CATALOG}'").fetchall()
    return {name for (name,) in rows}
