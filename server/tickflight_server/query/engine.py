"""SQL over one snapshot per query: DuckDB plans and runs, this module decides what it gets to see.

The rule of this file: a query's filters are found first, on empty tables; then only the segments and parts that can
hold a matching row are opened. Both runs see the same ``now()``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, LifoQueue

import duckdb
import pyarrow as pa

from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import BusyError, ServerError
from tickflight_server.query.database import make_database, relation, set_now
from tickflight_server.query.failures import translate
from tickflight_server.query.probe import Filters, Prober
from tickflight_server.query.sources import Opened, Sources
from tickflight_server.query.statement import CATALOG, Parameters, Reading, Statement, StatementReader, view_name
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.query.system import FeedBoard, SystemSource, make_table
from tickflight_server.query.travel import Travel
from tickflight_server.schemas import STORED
from tickflight_server.store import Store, TableSnapshot

BATCH_ROWS_MIN = 2048  # the engine's vectors


@dataclass(frozen=True, eq=False)
class Plan:
    """A statement that was bound: its result schema, and the filters that reach each table's scans.

    ``filters`` has an entry for each reading of a stored table: a list with one filter a scan, or None where the scans
    are not known and everything is opened. ``now_us`` is what ``now()`` says. ``versions`` has the table version that
    each AT clause asks for.
    """

    statement: Statement
    parameters: Parameters
    schema: pa.Schema
    filters: dict[str, Filters | None]
    now_us: int
    versions: Mapping[str, int] = field(default_factory=dict)


class Execution:
    """A query under way: ``reader`` streams its result; ``close`` frees everything, in any state."""

    def __init__(
        self,
        engine: Engine,
        connection: duckdb.DuckDBPyConnection,
        reader: pa.RecordBatchReader,
        held: ExitStack,
    ) -> None:
        self._engine = engine
        self._connection = connection
        self._held = held
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
            try:
                self._held.close()
            finally:
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
        self._sources = Sources(store, self._folder)
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

    def plan(self, sql: str, parameters: Parameters = (), *, guessed: bool = False) -> Plan:
        """Bind ``sql`` without running it on data; find its result schema and the filters that reach each table.

        ``parameters`` are the values of ``?`` and ``$1`` in order, or of ``$name`` by name, as Python values; with
        ``guessed`` they only stand for ones to come, and the plan is not to be executed.

        Raises:
            StatementError: it does not parse or bind; the message has the engine's place marker.
            UnsupportedError: it is no query.
            TooLargeError: it is too long.
            NotFoundError: there is no such version of a table, or it is gone.
        """
        with self._statement_reader() as reader:
            statement = reader.read(sql)
        asked = [] if guessed else [(travel, travel.asked(parameters)) for travel in statement.travels]
        left = statement.left(parameters)
        now_us = self._clock.now_us()
        try:
            with self._prober() as prober:
                schema, filters = prober.find(statement, left, now_us=now_us, timeout_s=self._settings.probe_timeout_s)
        except Exception as error:
            raise self.translate(error, statement) from None
        versions = {travel.view: self._version(travel, value) for travel, value in asked}
        return Plan(statement, left, schema, filters, now_us, versions)

    def _version(self, travel: Travel, asked: int) -> int:
        """Return the table version that an AT clause asks for; it is there."""
        version = self._store.version_at(travel.table, asked) if travel.unit == "TIMESTAMP" else asked
        self._store.snapshot_at(travel.table, version)
        return version

    def translate(self, error: BaseException, statement: Statement | None = None) -> ServerError:
        """Return the server's error for whatever the engine raised, in the words of the caller's statement."""
        translated = translate(error, self._store.root)
        if statement is not None and statement.words:
            translated.message = statement.in_callers_words(translated.message)
        return translated

    def execute(
        self,
        plan: Plan,
        *,
        cuts: Mapping[str, int] | None = None,
        batch_rows: int | None = None,
        started: Callable[[Callable[[], None]], None] | None = None,
    ) -> Execution:
        """Run a bound statement over the newest snapshot; the caller closes the execution.

        With ``cuts`` it sees of each stored table the rows with ``seq`` up to the table's, and none of one that is not
        in it. When this returns the first batch is there, which may take long; ``started`` is given what cancels it
        before.

        Raises:
            BusyError: no place among the running queries came free in time.
            NotFoundError: a version that it asks for is gone.
            StorageError: a part is missing or damaged.
            ServerError: the engine failed.
        """
        if not self._places.acquire(timeout=self._settings.queue_timeout_s):
            raise BusyError(
                f"{self._settings.concurrent_max} queries run already (query.concurrent_max).", hint="Try again later."
            )
        try:
            return self._execute(
                plan, cuts, batch_rows or batch_rows_for(plan.schema, self._settings.batch_bytes), started
            )
        except BaseException as error:
            self.release()
            if isinstance(error, Exception):
                raise self.translate(error, plan.statement) from None
            raise

    def _execute(
        self,
        plan: Plan,
        cuts: Mapping[str, int] | None,
        batch_rows: int,
        started: Callable[[Callable[[], None]], None] | None,
    ) -> Execution:
        connection, held = self._connect(), ExitStack()
        try:
            if started is not None:
                started(lambda: _interrupt(connection))
            return self._start(connection, plan, cuts, batch_rows, held)
        except BaseException:
            connection.close()
            held.close()
            raise

    def _start(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: Plan,
        cuts: Mapping[str, int] | None,
        batch_rows: int,
        held: ExitStack,
    ) -> Execution:
        opened = {}
        for reading in plan.statement.readings():
            upto = None if cuts is None else cuts.get(reading.table.name, 0)
            snapshot, filters = self._snapshot(reading, plan, upto), plan.filters[reading.key]
            opened[reading.key] = self._sources.give(connection, reading.view, snapshot, filters, upto, held)
        source = SystemSource(self._store, self.feeds)
        for schema, name in plan.statement.tables:
            if name in SYSTEM_TABLES and schema in ("", "system"):
                connection.register(view_name("system", name), make_table(name, source))
        set_now(connection, plan.now_us)
        reader = relation(connection, plan.statement.sql, plan.parameters).to_arrow_reader(batch_rows)
        execution = Execution(self, connection, reader, held)
        execution.opened = opened
        self._store.metrics.add("queries")
        self._store.metrics.add("parts_opened", sum(len(o.parts) for o in opened.values()))
        self._store.metrics.add("segments_read", sum(len(o.segments) for o in opened.values()))
        return execution

    def _snapshot(self, reading: Reading, plan: Plan, upto: int | None) -> TableSnapshot:
        """Return what a query is to see of a table; of a version, rows after ``upto`` are still to be left out."""
        if reading.travel is None:
            return self._store.snapshot(reading.table.name, upto)
        return self._store.snapshot_at(reading.table.name, plan.versions[reading.key])

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
