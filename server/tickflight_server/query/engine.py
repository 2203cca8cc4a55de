"""SQL over one snapshot per query: DuckDB plans and runs, this module decides what it gets to see.

The rule of this file: a query's filters are found first, on empty tables; then only the segments and parts that can
hold a matching row are opened. Both runs see the same ``now()``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, LifoQueue

import duckdb
import numpy as np
import pyarrow as pa

from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import BusyError, ServerError
from tickflight_server.query.database import (
    Parameters,
    make_database,
    relation,
    set_now,
    view_name,
)
from tickflight_server.query.failures import translate
from tickflight_server.query.probe import Filters, Prober
from tickflight_server.query.prune import Candidates, PartCandidates, SegmentCandidates, may_match
from tickflight_server.query.statement import CATALOG, Statement, StatementReader
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.query.system import FeedBoard, SystemSource, make_table
from tickflight_server.schemas import STORED, TableSchema
from tickflight_server.store import Store, TableSnapshot

BATCH_ROWS_MIN = 2048  # the engine's vectors


@dataclass(frozen=True)
class Opened:
    """What a query opens of one table: part paths relative to the table's folder, and segments by first ``seq``."""

    parts: tuple[str, ...]
    segments: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A statement that was bound: its result schema, and the filters that reach each table's scans.

    ``filters`` has an entry for each stored table that the statement names: a list with one filter a scan, or None
    where the scans are not known and everything is opened. ``now_us`` is what ``now()`` says.
    """

    statement: Statement
    parameters: Parameters
    schema: pa.Schema
    filters: dict[str, Filters | None]
    now_us: int


class Execution:
    """A query under way: ``reader`` streams its result; ``close`` frees everything, in any state."""

    def __init__(self, engine: Engine, connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> None:
        self._engine = engine
        self._connection = connection
        self.reader = reader
        self.opened: dict[str, Opened] = {}
        self._closed = threading.Lock()

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield what ``reader`` does, with the engine's errors translated.

        Raises:
            ServerError: the engine failed in the middle.
        """
        try:
            yield from self.reader
        except Exception as error:
            raise self._engine.translate(error) from None

    def cancel(self) -> None:
        """Stop the engine's work on this query; a thread that reads it gets an error."""
        _interrupt(self._connection)

    def close(self) -> None:
        """Free the query's place and memory; a second call does nothing.

        A thread that reads at this moment gets an error, and the memory is free when it lets go of the reader.
        """
        if self._closed.acquire(blocking=False):
            del self.reader
            _interrupt(self._connection)
            with suppress(duckdb.Error):  # the engine refuses to close a connection on which a thread reads
                self._connection.close()
            self._engine.release()


class Engine:
    """Runs SQL over a store.

    Args:
        store: whose tables are queried.
        settings: limits.
        feeds: reports of feed processes, for ``system.feeds``.
    """

    def __init__(
        self, store: Store, settings: QuerySettings, feeds: FeedBoard | None = None, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock or SystemClock()
        self.feeds = feeds or FeedBoard(self._clock)
        # a server works in its data folder, so that an error of the engine in the middle of a stream, which nobody
        # can reword, has no path of the machine in it
        self._folder = "" if Path.cwd() == store.root else f"{store.root}/"
        self._database = make_database(store, settings, self._folder)
        self._places = threading.BoundedSemaphore(settings.concurrent_max)
        self._probers: LifoQueue[Prober] = LifoQueue()
        self._readers: LifoQueue[StatementReader] = LifoQueue()

    @property
    def engine_version(self) -> str:
        """DuckDB's version."""
        return str(duckdb.__version__)

    def tables(self) -> Iterator[tuple[str, str, str, pa.Schema]]:
        """Yield schema, name, comment and Arrow schema of every table that can be queried."""
        for name, table in STORED.items():
            yield table.schema, name, table.comment, table.arrow(self._store.numeric)
        for name, (schema, _, comment) in SYSTEM_TABLES.items():
            yield "system", name, comment, schema

    def close(self) -> None:
        """Let the engine go."""
        with suppress(Empty):
            while True:
                self._probers.get_nowait().close()
        self._database.close()

    def release(self) -> None:
        """Give back a query's place; called by ``Execution.close``."""
        self._places.release()

    def parameter_names(self, sql: str) -> tuple[str, ...]:
        """Return the names of a statement's parameters in order: "1", "2", … for ``?`` and ``$1``.

        Raises:
            StatementError: it does not parse.
        """
        with self._statement_reader() as reader:
            return reader.parameter_names(sql)

    def plan(self, sql: str, parameters: Parameters = ()) -> Plan:
        """Bind ``sql`` without running it on data; find its result schema and the filters that reach each table.

        ``parameters`` are the values of ``?`` and ``$1`` in order, or of ``$name`` by name, as Python values.

        Raises:
            StatementError: it does not parse or bind; the message has the engine's place marker.
            UnsupportedError: it is no query.
            TooLargeError: it is too long.
        """
        with self._statement_reader() as reader:
            statement = reader.read(sql)
        now_us = self._clock.now_us()
        names = _stored_names(statement)
        try:
            with self._prober() as prober:
                schema, filters = prober.find(
                    statement, parameters, names, now_us=now_us, timeout_s=self._settings.probe_timeout_s
                )
        except Exception as error:
            raise self.translate(error) from None
        return Plan(statement, parameters, schema, filters, now_us)

    def translate(self, error: BaseException) -> ServerError:
        """Return the server's error for whatever the engine raised."""
        return translate(error, self._store.root)

    def execute(
        self, plan: Plan, *, batch_rows: int | None = None, started: Callable[[Callable[[], None]], None] | None = None
    ) -> Execution:
        """Run a bound statement over the newest snapshot; the caller closes the execution.

        When this returns the first batch is there, which may take long; ``started`` is given what cancels it before.

        Raises:
            BusyError: no place among the running queries came free in time.
            ServerError: the engine failed.
        """
        if not self._places.acquire(timeout=self._settings.queue_timeout_s):
            raise BusyError(
                f"{self._settings.concurrent_max} queries run already (query.concurrent_max).", hint="Try again later."
            )
        try:
            return self._execute(plan, batch_rows or batch_rows_for(plan.schema, self._settings.batch_bytes), started)
        except BaseException as error:
            self.release()
            if isinstance(error, Exception):
                raise self.translate(error) from None
            raise

    def _execute(self, plan: Plan, batch_rows: int, started: Callable[[Callable[[], None]], None] | None) -> Execution:
        connection = self._connect()
        try:
            if started is not None:
                started(lambda: _interrupt(connection))
            return self._start(connection, plan, batch_rows)
        except BaseException:
            connection.close()
            raise

    def _start(self, connection: duckdb.DuckDBPyConnection, plan: Plan, batch_rows: int) -> Execution:
        opened = {}
        for name, filters in plan.filters.items():
            opened[name] = self._give_table(connection, self._store.snapshot(name), filters)
        source = SystemSource(self._store, self.feeds)
        for schema, name in plan.statement.tables:
            if name in SYSTEM_TABLES and schema in ("", "system"):
                connection.register(view_name("system", name), make_table(name, source))
        set_now(connection, plan.now_us)
        reader = relation(connection, plan.statement.sql, plan.parameters).to_arrow_reader(batch_rows)
        execution = Execution(self, connection, reader)
        execution.opened = opened
        self._store.metrics.add("queries")
        self._store.metrics.add("parts_opened", sum(len(o.parts) for o in opened.values()))
        self._store.metrics.add("segments_read", sum(len(o.segments) for o in opened.values()))
        return execution

    def _give_table(
        self, connection: duckdb.DuckDBPyConnection, snapshot: TableSnapshot, filters: Filters | None
    ) -> Opened:
        """Let ``connection`` see those segments and parts of ``snapshot`` that can hold matching rows."""
        table = snapshot.table
        segments = [
            s
            for s, keep in zip(snapshot.segments, _keep(filters, SegmentCandidates(snapshot.segments)), strict=True)
            if keep
        ]
        parts = snapshot.parts.chosen(_keep(filters, PartCandidates(snapshot.parts)))
        view = view_name(table.schema, table.name)
        memory_schema = table.arrow(self._store.numeric, memory=True)
        ring = pa.Table.from_batches([s.batch for s in segments], schema=memory_schema)
        if len(parts) == 0:
            connection.register(view, ring)
        else:
            columns = ", ".join(f'"{c.name}"' for c in table.columns)
            folder = f"{self._folder}{table.name}"
            connection.execute(f"SET VARIABLE {view} = ?", [[f"{folder}/{p}" for p in parts.path]])
            body = f"SELECT {columns} FROM read_parquet(getvariable('{view}'), hive_partitioning = false)"
            if segments:
                connection.register(f"{view}_ring", ring)
                body += f" UNION ALL SELECT {columns} FROM {view}_ring"
            connection.execute(f"CREATE TEMP VIEW {view} AS {body}")
        return Opened(tuple(parts.path), tuple(s.first_seq for s in segments))

    def _connect(self) -> duckdb.DuckDBPyConnection:
        connection = self._database.cursor()
        connection.execute(f"SET search_path = '{CATALOG}.market,{CATALOG}.system'")
        return connection

    @contextmanager
    def _prober(self) -> Iterator[Prober]:
        try:
            prober = self._probers.get_nowait()
        except Empty:
            prober = Prober(self._connect(), self._store.numeric)
        try:
            yield prober
        except duckdb.Error:
            # a statement that does not bind leaves nothing behind
            self._probers.put(prober)
            raise
        except BaseException:
            prober.close()
            raise
        self._probers.put(prober)

    @contextmanager
    def _statement_reader(self) -> Iterator[StatementReader]:
        try:
            reader = self._readers.get_nowait()
        except Empty:
            reader = StatementReader(self._connect(), self._settings.sql_bytes_max)
        try:
            yield reader
        finally:
            self._readers.put(reader)


def _interrupt(connection: duckdb.DuckDBPyConnection) -> None:
    with suppress(duckdb.Error):  # it is closed already
        connection.interrupt()


def batch_rows_for(schema: pa.Schema, batch_bytes: int) -> int:
    """Return how many rows make a batch of about ``batch_bytes``: 2,048 to 131,072, the engine's vectors in whole."""
    return max(BATCH_ROWS_MIN, min(131_072, batch_bytes // row_bytes(schema) // BATCH_ROWS_MIN * BATCH_ROWS_MIN))


def row_bytes(schema: pa.Schema) -> int:
    """Return the bytes that a row of ``schema`` takes, roughly where a value has no fixed size."""
    return sum(_width(f.type) for f in schema) or 1


def _width(kind: pa.DataType) -> int:
    """Return the bytes that a value of ``kind`` takes, roughly for what has no fixed size."""
    if pa.types.is_nested(kind):
        return 256
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 24


def _keep(filters: Filters | None, candidates: Candidates) -> np.ndarray:
    """Return which candidates some scan needs."""
    if filters is None or any(f is None for f in filters):
        return np.ones(len(candidates), dtype=bool)
    keep = np.zeros(len(candidates), dtype=bool)
    for one in filters:
        assert one is not None
        keep |= may_match(one, candidates)
    return keep


def _stored_names(statement: Statement) -> list[str]:
    """Return the stored tables that a statement may read; a name without a schema is looked up in both."""
    found = []
    for schema, name in sorted(statement.tables):
        table: TableSchema | None = STORED.get(name)
        if table is not None and schema in ("", table.schema):
            found.append(name)
    return sorted(set(found))
