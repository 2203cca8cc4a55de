"""The client: SQL in, Arrow out; and writers for those who bring data.

The rule of this file: everything here is one call of the protocol and its answer; what is more lives in a module of
its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from tickflight.bars import Interval, Kind, bars_query
from tickflight.book import DEPTH, Book, book, books
from tickflight.connection import DEFAULT_ADDRESS, Connection, Credentials, Pem, Tls
from tickflight.errors import NotFoundError, QueryError
from tickflight.live import SILENCE_S, Live
from tickflight.replay import Columns, Replay, Time, Where, make_requests
from tickflight.result import Result
from tickflight.snapshot import Snapshot, header
from tickflight.tail import Since, Skipped, Tail, make_request
from tickflight.wire.actions import (
    CancelStatement,
    CancelStatementResult,
    FeedReport,
    Flush,
    FlushResult,
    Health,
    HealthResult,
)
from tickflight.wire.commands import CommandGetTables
from tickflight.wire.streams import Live as LiveRequest
from tickflight.wire.tickets import Query
from tickflight.writer import Writer

Parameters = Sequence[Any] | Mapping[str, Any]
_QUERIES = "SELECT * FROM system.queries ORDER BY started DESC"
_QUERIES_RUNNING = "SELECT * FROM system.queries WHERE ended IS NULL ORDER BY started DESC"
_DICTIONARIES = ((b"x-tickflight-labels", b"dictionary"),)


def connect(
    address: str = DEFAULT_ADDRESS,
    *,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
    timeout_s: float | None = 30.0,
    tls_roots: Pem | None = None,
    tls_cert: Pem | None = None,
    tls_key: Pem | None = None,
    snapshot: Snapshot | str | None = None,
) -> Client:
    """Connect to a server. What is not told comes from the environment.

    That is ``TICKFLIGHT_TOKEN``, or ``TICKFLIGHT_USER`` and ``TICKFLIGHT_PASSWORD``; and files:
    ``TICKFLIGHT_TLS_ROOTS``, ``TICKFLIGHT_TLS_CERT``, ``TICKFLIGHT_TLS_KEY``.

    Args:
        address: ``grpc://host:port``, ``grpc+tls://host:port`` or ``host:port``.
        username: user to log in as, with ``password``.
        password: the user's password.
        token: a bearer token instead of user and password.
        timeout_s: longest wait for the answer to a call; a query and the reading of its result are not limited.
        tls_roots: certificates to trust instead of the system's: PEM as bytes, or a file's name.
        tls_cert: a certificate of one's own, likewise, with ``tls_key``, for servers that ask for one.
        tls_key: its private key, likewise.
        snapshot: what ``sql`` sees unless it is told otherwise: a snapshot or its id.

    Raises:
        UnavailableError: nobody answers at the address.
        AuthenticationError: the credentials are wrong, or missing where the server wants some.
    """
    credentials, tls = Credentials.told(username, password, token), Tls.told(tls_roots, tls_cert, tls_key)
    client = Client(Connection(address, credentials, timeout_s=timeout_s, tls=tls), snapshot)
    try:
        with suppress(NotFoundError):  # who only writes has no table to see
            _ = client.numeric_type  # one round trip, so that a wrong address or token shows here
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """A connection to a server; threads may share it. Use it as a context manager, or ``close`` it."""

    def __init__(self, connection: Connection, snapshot: Snapshot | str | None = None) -> None:
        self._connection = connection
        self._snapshot = snapshot
        self._numeric: Literal["float64", "decimal"] | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tickflight.Client of {self._connection.address}>"

    def sql(
        self,
        query: str,
        params: Parameters | None = None,
        *,
        snapshot: Snapshot | str | None = None,
        progress: bool | None = None,
        dictionaries: bool = False,
    ) -> Result:
        """Run a query; when this returns, it was accepted and its rows are on their way.

        Control-C while it runs cancels it on the server.

        Args:
            query: one SQL statement in DuckDB's dialect.
            params: values of ``?`` or ``$1`` in order, or of ``$name`` by name; they are bound, never spliced.
            snapshot: see the rows of a snapshot (or its id) in place of the newest ones.
            dictionaries: take exchanges, symbols, sides and other names as dictionaries (categories) in place of texts,
                where the query only chooses columns of a table; rows in the server's memory come twice as fast.
            progress: whether reading the result shows how far it is; None where somebody looks: a terminal, a notebook.

        Raises:
            QueryError: the statement or a parameter is wrong; the message shows the place.
            NotFoundError: the snapshot has ended, or a version that the statement asks for is gone.
        """
        ticket = Query(query, parameters_to_ipc(params) if params else b"", os.urandom(16))
        seen = self._snapshot if snapshot is None else snapshot
        headers = (*header(seen), *(_DICTIONARIES if dictionaries else ()))
        return self._connection.get(ticket.serialize(), headers=headers, progress=progress)

    def live(
        self, sql: str, params: Parameters | None = None, *, every: float = 1.0, silence_s: float = SILENCE_S
    ) -> Live:
        """Keep a query's result fresh: iterate over its updates, each the whole result as a table.

        The first update comes at once, the next ones when the result has changed. It goes on by itself when the
        server is restarted; ``close`` it when it is not needed any more.

        Args:
            sql: one query; ``mode`` and ``reason`` of what is returned say whether it is kept incrementally.
            params: as of ``sql``.
            every: least seconds between two updates; the server has a least one, too (``query.live_every_min_ms``).
            silence_s: the stream is asked for anew after so long without a word; three times the server's
                ``query.heartbeat_s``.

        Raises:
            QueryError: the statement or a parameter is wrong; the message shows the place.
            UnsupportedError: it is no query.
            UnavailableError: the server has as many streams open as it may.
        """
        request = LiveRequest(sql, parameters_to_ipc(params) if params else b"", max(1, round(every * 1000)))
        headers = header(self._snapshot)

        def open_stream(ticket: bytes, anew: bool) -> Any:
            return self._connection.open(ticket, headers=headers, anew=anew)

        return Live(open_stream, request, silence_s=silence_s)

    def tail(
        self,
        table: str,
        *,
        symbols: Sequence[str] | str | None = None,
        exchanges: Sequence[str] | str | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        since: Since | None = None,
        resume: str | bytes | None = None,
        on_lag: Literal["end", "skip"] = "end",
        lag_rows_max: int | None = None,
        reconnect_s: float | None = 600.0,
        on_skip: Callable[[Skipped], None] | None = None,
    ) -> Tail:
        """Follow a table: an iterator of record batches as rows become durable, each row once, in order of ``seq``.

        After a lost connection or a restart of the server it goes on by itself where it was.

        Args:
            table: a stored table, such as ``trades`` or ``market.l2_book``.
            symbols: only these; all when absent.
            exchanges: only these; all when absent.
            columns: only these, in this order; all when absent.
            where: a condition in SQL over the table's columns, such as ``"price > 50000"``.
            since: with the stored rows from here on, and then the new ones. A time (without a zone UTC, as a text in
                ISO form, "today" for the start of today in UTC, or a timedelta back from now) leaves out all rows with
                an earlier ``timestamp``; a number is a ``seq``, after which it begins, so that 0 is everything. When
                absent, rows that become durable from now on.
            resume: the token of a batch, to go on after it.
            on_lag: what becomes of a reader that is too many rows behind: "end" raises ``LagError``, "skip" goes on
                with the newest rows and tells what was left out in ``skipped`` and to ``on_skip``.
            lag_rows_max: how many rows are too many; as many as the server allows when absent.
            reconnect_s: how long it tries to reach a server that is away; None is for ever.
            on_skip: is told of each range of rows that was left out.

        Raises:
            QueryError: the condition, a column or another argument is wrong.
            NotFoundError: there is no such table.
            UnavailableError: the server has as many tails as it may.
        """
        request = make_request(
            table,
            symbols=symbols,
            exchanges=exchanges,
            columns=columns,
            where=where,
            since=since,
            resume=resume,
            on_lag=on_lag,
            lag_rows_max=lag_rows_max,
        )
        return Tail(self._connection, request, reconnect_s=reconnect_s, on_skip=on_skip)

    def replay(
        self,
        tables: Sequence[str] | str,
        start: Time | None = None,
        end: Time | None = None,
        *,
        symbols: Sequence[str] | str | None = None,
        exchanges: Sequence[str] | str | None = None,
        columns: Columns | None = None,
        where: Where | None = None,
        speed: float | None = None,
        digest: bool = False,
        snapshot: Snapshot | str | None = None,
    ) -> Replay:
        """Replay stored events of several tables as one stream in order of time, in bounded memory.

        The order is timestamp, then receipt_timestamp, then ``seq``, then that of ``tables``. All is of one snapshot,
        which is taken and let go of by itself unless one is given; under the same one, two replays give the same.

        Args:
            tables: names such as ``trades`` or ``market.l2_book``.
            start: first timestamp; without a zone it is UTC, a number is microseconds since 1970. None: the oldest.
            end: up to this timestamp, which is not part of it. None: the newest.
            symbols: only these; all when absent.
            exchanges: only these; all when absent.
            columns: only these, in this order, of every table or by table; all when absent.
            where: a condition in SQL over a table's columns, for every table or by table.
            speed: 1.0 gives events as far apart as they were, 10.0 ten times as fast; None all at once.
            digest: keep a digest of what is read, for comparing two replays.
            snapshot: see the rows of a snapshot (or its id).

        Raises:
            QueryError: a condition, a column or another argument is wrong.
            NotFoundError: there is no such table, or the snapshot has ended.
        """
        asked = make_requests(tables, start, end, symbols=symbols, exchanges=exchanges, columns=columns, where=where)
        seen = self._snapshot if snapshot is None else snapshot
        return Replay(self._connection, asked, snapshot=seen, speed=speed, digest=digest)

    def bars(
        self,
        symbols: Sequence[str] | str | None,
        interval: Interval,
        kind: Kind = "time",
        start: Time | None = None,
        end: Time | None = None,
        *,
        exchanges: Sequence[str] | str | None = None,
        table: str = "trades",
        snapshot: Snapshot | str | None = None,
    ) -> Result:
        """Make bars of trades on the server, in order of exchange, symbol and start.

        Columns: exchange, symbol, start, end, open, high, low, close, volume, dollar, trades, vwap. Bars never mix
        symbols or exchanges. A stretch without a trade has no bar; the last bar is as far as it came.

        Args:
            symbols: only these; None is all.
            interval: length of a bar: "500ms", "5s", "1m", "4h", "1d" or a timedelta for bars of time, which are
                counted from Monday 2000-01-03; else a number of trades, an amount, or an amount of money.
            kind: "time"; "tick": so many trades; "volume", "dollar": a bar ends with the trade that reaches the next
                multiple of the interval, counted from ``start`` on.
            start: first timestamp; as for ``replay``.
            end: up to this timestamp, which is not part of it.
            exchanges: only these; None is all.
            table: ``trades`` or ``liquidations``.
            snapshot: see the rows of a snapshot (or its id) in place of the newest ones.

        Raises:
            QueryError: an argument cannot be used.
        """
        sql, values = bars_query(symbols, interval, kind, start, end, exchanges=exchanges, table=table)
        return self.sql(sql, values, snapshot=snapshot)

    def book(
        self,
        exchange: str,
        symbol: str,
        t: datetime | str | None = None,
        depth: int = DEPTH,
        *,
        snapshot: Snapshot | str | None = None,
    ) -> Book:
        """Return the order book as it stood at ``t`` (UTC where it has no zone), or the newest one.

        At most ``depth`` levels a side; ``snapshot`` as in ``sql``. A book that is not known has no levels.

        Raises:
            QueryError: an argument is wrong.
        """
        return book(lambda query, params: self.sql(query, params, snapshot=snapshot), exchange, symbol, t, depth)

    def books(
        self,
        exchange: str,
        symbol: str,
        start: datetime | str,
        end: datetime | str,
        step: timedelta | float,
        depth: int = DEPTH,
        *,
        snapshot: Snapshot | str | None = None,
    ) -> Result:
        """Return the order book at each instant from ``start`` to ``end``, ``step`` apart (a timedelta, or seconds).

        A row an instant that has a book: ``t``, the last event's ``timestamp`` and ``seq``, ``stale``, and lists of
        prices and sizes, best first.

        Raises:
            QueryError: an argument is wrong, or they are more than the server gives at once.
        """
        return books(
            lambda query, params: self.sql(query, params, snapshot=snapshot), exchange, symbol, start, end, step, depth
        )

    def snapshot(self, seconds: int = 3600) -> Snapshot:
        """Hold the rows that every table has now: queries under the snapshot see these and no later ones.

        Raises:
            QueryError: it is longer than the server allows.
            UnavailableError: the server holds as many as it may.
        """
        return Snapshot.create(self._connection.action, seconds)

    def health(self) -> HealthResult:
        """Return how the server is doing: ``state`` ok, degraded or failed, and that of each of its ``components``."""
        answer = self._connection.action("tickflight.health", Health())
        assert isinstance(answer, HealthResult)
        return answer

    def queries(self, *, running: bool = False) -> Result:
        """Return the statements that run and those that ended lately, the newest first; an admin sees everybody's.

        With ``running`` only those that go on. The columns are those of table ``system.queries``.
        """
        return self.sql(_QUERIES_RUNNING if running else _QUERIES)

    def cancel(self, id: str) -> bool:
        """End a statement by its id in ``queries``, whatever it does; return whether it had not ended by itself.

        Users end their own, admins anybody's.

        Raises:
            NotFoundError: there is none with this id, or it is another's.
        """
        answer = self._connection.action("tickflight.cancel", CancelStatement(id))
        assert isinstance(answer, CancelStatementResult)
        return answer.cancelled

    def tables(self) -> list[str]:
        """Return the names of all tables, as ``schema.table``."""
        rows = self._get_tables(CommandGetTables()).to_pylist()
        return [f"{row['db_schema_name']}.{row['table_name']}" for row in rows]

    def schema(self, name: str) -> pa.Schema:
        """Return the Arrow schema of a table, named ``trades`` or ``market.trades``.

        Raises:
            NotFoundError: there is no such table.
        """
        wanted, _, table = name.rpartition(".")
        found = self._get_tables(CommandGetTables(table_name_filter_pattern=_literal(table), include_schema=True))
        for row in found.to_pylist():
            if row["table_name"] == table and wanted in ("", row["db_schema_name"]):
                return pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
        raise NotFoundError(f"there is no table {name!r}: client.tables() lists them.")

    def _get_tables(self, command: CommandGetTables) -> pa.Table:
        return self._connection.get(command.serialize(), timed=True, progress=False).arrow()

    @property
    def numeric_type(self) -> Literal["float64", "decimal"]:
        """How the server keeps prices and sizes; float64 also where the user sees no table with any."""
        if self._numeric is None:
            market = CommandGetTables(db_schema_filter_pattern="market", include_schema=True)
            schemas = (
                pa.ipc.read_schema(pa.py_buffer(t)) for t in self._get_tables(market)["table_schema"].to_pylist()
            )
            decimal = any(_is_decimal(kind) for schema in schemas for kind in schema.types)
            self._numeric = "decimal" if decimal else "float64"
        return self._numeric

    def writer(self, table: str, **options: Any) -> Writer:
        """Return a writer of batches into a market table; ``options`` are those of ``Writer``."""
        return Writer(self._connection, table, **options)

    def flush(self) -> dict[str, int]:
        """Let the server move all rows into parts now; return the flushed ``seq`` by table."""
        answer = self._connection.action("tickflight.Flush", Flush())
        assert isinstance(answer, FlushResult)
        return dict(answer.flushed_seq)

    def report_feed(self, feed: str, values: Mapping[str, Any]) -> None:
        """Tell the server how a feed process is doing; table ``system.feeds`` shows the newest report."""
        self._connection.action("tickflight.FeedReport", FeedReport(feed, json.dumps(dict(values)).encode()))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def parameters_to_ipc(params: Parameters) -> bytes:
    """Return parameters as an Arrow IPC stream of one row: columns "0", "1", … by position, or by name.

    Raises:
        QueryError: a value has no Arrow type.
    """
    if isinstance(params, str | bytes):
        raise QueryError("params is a sequence or a mapping: write [value] for a single one.")
    items = params.items() if isinstance(params, Mapping) else ((str(i), v) for i, v in enumerate(params))
    columns = {}
    for name, value in items:
        try:
            columns[name] = _array(value)
        except (pa.ArrowException, OverflowError) as error:
            raise QueryError(f"parameter {name} of type {type(value).__name__} has no Arrow type: {error}") from None
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _array(value: Any) -> pa.Array:
    return pa.array([value.as_py()], value.type) if isinstance(value, pa.Scalar) else pa.array([value])


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind.value_type if pa.types.is_list(kind) else kind))


def _literal(name: str) -> str:
    """Return a LIKE pattern that matches just ``name``."""
    return name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
