"""SQL over one snapshot per query: DuckDB plans and runs, this module decides what it gets to see.

The rule of this file: a query's filters are found first, on empty tables; then only the segments and parts that can
hold a matching row are opened. Both runs see the same ``now()``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import MIB, QuerySettings
from tickflight_server.errors import ServerError, TooLargeError
from tickflight_server.identity.rights import ALL, Sight
from tickflight_server.query.books import Books
from tickflight_server.query.cells import Cells
from tickflight_server.query.connections import Connections
from tickflight_server.query.database import make_database, run
from tickflight_server.query.execution import Execution, batch_rows_for
from tickflight_server.query.failures import of_the_role, translate
from tickflight_server.query.matching import MatchingScan
from tickflight_server.query.narrowing import with_narrowing
from tickflight_server.query.opening import Cuts, Opening
from tickflight_server.query.own_rows import OwnRows, cancelling, refuse_streams
from tickflight_server.query.parameter_types import result_schema
from tickflight_server.query.plain import PlainScan, PlainScans, with_dictionaries
from tickflight_server.query.plan import Plan
from tickflight_server.query.planning import Planner, Started
from tickflight_server.query.session import DEFAULTS, Options, Seat, SqlSession
from tickflight_server.query.shape import Shape
from tickflight_server.query.shared import Shared
from tickflight_server.query.shares import Share, split
from tickflight_server.query.sources import Sources, take_back
from tickflight_server.query.statement import READING, NoQueryError, Parameters, Statement
from tickflight_server.query.stopping import Stopper, Stops
from tickflight_server.query.system import FeedBoard, system_tables
from tickflight_server.query.texts import Texts, is_small, leaves_nothing
from tickflight_server.query.workspace import Workspace
from tickflight_server.query.writing import Writing
from tickflight_server.schemas import STORED
from tickflight_server.store import SeenStore, Store
from tickflight_server.store.access import OpenParts

_FIRST_QUERIES = (
    "SELECT * FROM market.trades WHERE symbol = '' AND timestamp > now() - INTERVAL 1 SECOND",
    "SELECT symbol, max(price) FROM market.trades WHERE seq < 0 OR symbol = '' GROUP BY symbol ORDER BY symbol LIMIT 1",
)


_SMALL = ("SELECT 1",)


class Engine:
    """Runs SQL over a store.

    Args:
        store: whose tables are queried.
        settings: limits.
        feeds: reports of feed processes, for ``system.feeds``.
        workspace: the file of the users' own tables; without one they end with the engine.
        sight: what there is of the store to those who ask.
        shared: what it has in common with other engines.
        spill: the folder, of its own, for what is put aside when memory is short.
    """

    def __init__(
        self,
        store: Store,
        settings: QuerySettings,
        feeds: FeedBoard | None = None,
        clock: Clock | None = None,
        workspace: Path | None = None,
        *,
        sight: Sight = ALL,
        shared: Shared | None = None,
        spill: str = "",
    ) -> None:
        self.store = self._store = seen = SeenStore(store, sight, clock, kept_bytes=settings.narrowed_mb * MIB)
        self._is_main = shared is None
        self.shared = shared or Shared(settings, store.metrics, clock)
        self.settings = self._settings = settings
        self.clock = clock or SystemClock()
        self.feeds = feeds or FeedBoard(self.clock)
        # a server works in its data folder, so that an error of the engine in the middle of a stream, which nobody
        # can reword, has no path of the machine in it
        folder = "" if Path.cwd() == store.root else f"{store.root}/"
        sources = Sources(seen, folder)
        database = make_database(seen, settings, folder, workspace, spill)
        self._turns = self.shared.turns
        self._plain = PlainScans(seen, self.shared.ahead)
        shape = Shape(settings.nesting_max, settings.with_nesting_max, settings.clauses_max, settings.chain_max)
        self.connections = Connections(
            database, seen.numeric, settings.sql_bytes_max, seen.schemas, system_tables(sight), shape
        )
        books = Books(seen, sources, self.connections, settings)
        providers = {"book_at": books.book_at, "books": books.books, "cancel_query": cancelling(self.shared.board)}
        self.own_rows = OwnRows(seen.numeric, providers, seen.schemas)
        self.opening = Opening(seen, sources, self.feeds, self.own_rows, self.shared.board)
        self.workspace = Workspace(self.connections, self.opening.give_empty)
        self._texts = Texts(self.connections, self.workspace)
        self._planner = Planner(
            seen, self.connections, self.own_rows, self.workspace, self._turns, self.clock, settings, self.translate
        )

        self._cells = Cells(
            lambda limits, name: make_database(seen, limits, folder, spill=f"{spill}{name}"),
            settings,
            self._planner.is_ours,
        )

    @property
    def engine_version(self) -> str:
        """DuckDB's version."""
        return str(duckdb.__version__)

    def session(self) -> SqlSession:
        """Return a new session; the caller closes it."""
        return SqlSession(self.connections.connect, self._settings.queue_timeout_s)

    def close(self) -> None:
        """Let the engine go."""
        if self._is_main:
            self.shared.close()
        self._cells.close()
        self.connections.close()

    def parameter_names(self, sql: str) -> tuple[str, ...]:
        """Return the names of a statement's parameters in order: "1", "2", … for ``?`` and ``$1``.

        Raises:
            StatementError: it does not parse.
        """
        return self._texts.parameter_names(sql)

    def read(self, sql: str) -> Statement | Writing:
        """Return what ``sql`` is: a query, or a statement that writes.

        Raises:
            StatementError: it does not parse, or is not exactly one statement.
            PermissionDeniedError: it is not for users; the hint says what to do instead.
            UnsupportedError: it is not offered.
            TooLargeError: it is too long.
        """
        return self._texts.read(sql)

    def resolved(self, statement: Statement) -> Statement:
        """Return ``statement`` with the tables that it reads through views and macros."""
        return self._texts.resolved(statement)

    def plan(
        self,
        sql: str | Statement,
        parameters: Parameters = (),
        *,
        guessed: bool = False,
        options: Options = DEFAULTS,
        seat: Seat | None = None,
        started: Started | None = None,
        dictionaries: bool = False,
    ) -> Plan:
        """Bind a query without running it on data; find its result schema and the filters that reach each table.

        ``parameters`` are the values of ``?`` and ``$1`` in order, or of ``$name`` by name, as Python values; with
        ``guessed`` they only stand for ones to come, and the plan is not to be executed. ``seat`` is where the query is
        to run, if not on a connection of its own. ``started`` is given what cancels the search for filters. With
        ``dictionaries`` a plain scan's names come as such.

        Raises:
            CancelledError: it was.
            StatementError: it does not parse or bind; the message has the engine's place marker.
            UnsupportedError: it is no query.
            TooLargeError: it is too long.
            NotFoundError: there is no such version of a table, or it is gone.
        """
        if isinstance(sql, str):
            statement = self.read(sql)
            if isinstance(statement, Writing):
                raise NoQueryError(f"{statement.verb} is no query.", hint=READING)
        else:
            statement = self.resolved(sql)  # views may be others since it was prepared
        plan = self._planner.plan(statement, parameters, guessed=guessed, options=options, seat=seat, started=started)
        return with_dictionaries(plan, self._store.numeric) if dictionaries else plan

    def translate(self, error: BaseException, statement: Statement | None = None) -> ServerError:
        """Return the server's error for whatever the engine raised, in the words of the caller's statement."""
        translated = translate(error, self._store.root)
        if statement is not None and statement.words:
            translated.message = statement.in_callers_words(translated.message)
        return translated

    def warm_up(self) -> None:
        """Plan and run a query that finds nothing: the first one of a process takes four times as long as the next."""
        whole = self.store.schemas.get("trades") == STORED["trades"]
        for sql in _FIRST_QUERIES if whole else _SMALL:
            with self.execute(self.plan(sql)) as execution:
                execution.reader.read_all()

    # --- running queries

    def execute(
        self,
        plan: Plan,
        *,
        cuts: Cuts | None = None,
        batch_rows: int | None = None,
        started: Started | None = None,
        options: Options = DEFAULTS,
        seat: Seat | None = None,
        share: Share | None = None,
    ) -> Execution:
        """Run a bound query over the newest snapshot; the caller closes the execution.

        With ``cuts`` it sees of each stored table the rows with ``seq`` up to the table's, and none of one that is not
        in it; with ``share`` that part of its one table. On a ``seat`` all of the result is fetched before this
        returns; else the first batch is. That may take long: ``started`` is given what cancels it before.

        Raises:
            CrowdedError: no place among the running queries came free in time, or too many wait for one.
            NotFoundError: a version that it asks for is gone.
            StorageError: a part is missing or damaged.
            TooLargeError: the result on a seat is above ``query.session_result_mb``.
            ServerError: the engine failed.
        """
        rows = batch_rows or batch_rows_for(plan.schema, self._settings.batch_bytes)
        held = ExitStack()
        try:
            self.shared.enter(held, options, started)
            if seat is not None:
                return self._execute_on(seat, plan, cuts, rows, started, options, held)
            limited = self._cells.are_for(plan.statement, options)
            if leaves_nothing(plan.statement) and not limited:
                # somebody may still hold the result that was before on it
                with suppress(duckdb.ResourceInUseException):
                    return self._start(self.connections.ready(options), plan, cuts, rows, started, options, held)
            with self._turns.one(user=options.caller.user) if plan.exact else nullcontext():
                scan = self._plain.open(plan, cuts, rows, held, share)
            if scan is not None and not scan.evolved:
                return self._execute_scan(scan, started, options, held)
            assert not isinstance(scan, MatchingScan)
            connection = self._cells.connect(options, held) if limited else self.connections.connect(options)
            return self._start(connection, plan, cuts, rows, started, options, held, share, scan)
        except BaseException as error:
            held.close()
            if isinstance(error, Exception):
                raise self._told(error, plan, cuts, options) from None
            raise

    def _told(self, error: Exception, plan: Plan, cuts: Cuts | None, options: Options) -> ServerError:
        """Return the error to raise; a name for it in the frame that raises it would be a circle."""
        told = self.translate(error, plan.statement)
        if self._cells.are_for(plan.statement, options):
            told = of_the_role(told)
        return with_narrowing(told, plan, self._store, cuts)

    def _start(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: Plan,
        cuts: Cuts | None,
        rows: int,
        started: Started | None,
        options: Options,
        held: ExitStack,
        share: Share | None = None,
        scan: PlainScan | None = None,
    ) -> Execution:
        """Run a query on a connection of its own.

        Parts that are read for the first time are compared meanwhile: only when they are whole this returns.
        """
        stopper = Stopper(connection)
        reader: pa.RecordBatchReader | None = None
        unsure: list[OpenParts] = []
        try:
            stops = Stops(stopper)
            if started is not None:
                started(stops)
            with self._turns.one(small=is_small(plan.statement), user=options.caller.user, stops=stops):
                opened = self.opening.give(connection, plan, cuts, held, stops, options, share, scan, unsure)
                for parts in unsure:
                    stops.add(parts.cancel)
                try:
                    with self.shared.long_work.here():
                        reader = _stream(connection, plan, rows)
                except Exception:
                    if not stopper.used:  # what the engine says of damaged bytes is nothing to go by
                        _wait(unsure)
                    raise
                _wait(unsure)
        except BaseException:
            reader = None
            with suppress(duckdb.Error):
                connection.close()
            raise
        execution = Execution(reader, held, self.translate, connection, partial(self._let_go, plan, options, stopper))
        execution.opened = opened
        return execution

    def _execute_scan(
        self, scan: PlainScan | MatchingScan, started: Started | None, options: Options, held: ExitStack
    ) -> Execution:
        if started is not None:
            started(scan.stop)
        self.opening.count({scan.table: scan.opened}, options)
        execution = Execution(scan.reader, held, self.translate, stop=scan.stop)
        execution.opened = {scan.table: scan.opened}
        return execution

    def _let_go(self, plan: Plan, options: Options, stopper: Stopper, connection: duckdb.DuckDBPyConnection) -> None:
        """Keep a connection for the next query, or close it if the one that it ran may have left something on it."""
        stopper.end()
        if leaves_nothing(plan.statement) and not self._cells.are_for(plan.statement, options):
            self.connections.keep(connection, options)
        else:
            connection.close()

    def _execute_on(
        self,
        seat: Seat,
        plan: Plan,
        cuts: Cuts | None,
        rows: int,
        started: Started | None,
        options: Options,
        held: ExitStack,
    ) -> Execution:
        """Run a query on a session's connection, and fetch all of its result."""
        refuse_streams(plan.statement)
        limit = self._settings.session_result_mb * MIB
        with seat.taken() as connection, ExitStack() as sources:
            views = [*(r.view for r in plan.statement.readings()), *(call.view for call in plan.statement.owns)]
            take_back(connection, views)
            sources.callback(take_back, connection, views)
            # ends first: what is taken back, and the session's next statement, are not stopped with this one
            stops = Stops(sources.enter_context(Stopper(connection)))
            if started is not None:
                started(stops)
            opened = self.opening.give(connection, plan, cuts, sources, stops, options)
            sources.enter_context(self.shared.long_work.here())
            reader = _stream(connection, plan, rows)
            batches, size = [], 0
            for batch in reader:
                batches.append(batch)
                size += batch.nbytes
                if size > limit:
                    raise TooLargeError(
                        f"the result is above query.session_result_mb ({limit // MIB} MB), which holds in a "
                        "transaction that has written and in a session with temporary tables.",
                        hint="End the transaction first, or narrow the query.",
                    )
            schema = reader.schema
            del reader
        execution = Execution(pa.RecordBatchReader.from_batches(schema, batches), held, self.translate)
        execution.opened = opened
        return execution

    def shares(self, plan: Plan, cuts: Cuts | None) -> list[Share]:
        """Return the parts that a row-wise scan of one table is to be read in, none if it is better read at once.

        Together they have each row of one snapshot once.
        """
        readings = plan.statement.readings()
        if not plan.statement.rowwise or len(readings) != 1 or readings[0].travel is not None:
            return []
        (reading,) = readings
        upto = reading.upto(cuts)
        whole = self._store.snapshot(reading.table.name, upto)
        return split(whole, plan.filters.get(reading.key), upto, self._settings)

    # --- statements that are prepared

    def parameter_schema(
        self, statement: Statement | Writing, names: tuple[str, ...], options: Options, seat: Seat | None
    ) -> pa.Schema:
        """Return a field for each of a statement's parameters, of the type that its place asks for."""
        return self._planner.parameter_schema(statement, names, options, seat)

    def returned(self, writing: Writing, options: Options, seat: Seat | None) -> pa.Schema:
        """Return the schema of what a writing statement gives back, without columns if nothing; nothing runs."""
        if not writing.returning:
            return pa.schema([])
        with self.connections.prober(options, seat) as prober:
            return result_schema(prober.connection, writing.sql) or pa.schema([])


def _wait(unsure: Iterable[OpenParts]) -> None:
    """Return when all parts that are read are known to be whole.

    Raises:
        StorageError: one is damaged.
    """
    for parts in unsure:
        parts.wait()


def _stream(connection: duckdb.DuckDBPyConnection, plan: Plan, rows: int) -> pa.RecordBatchReader:
    """Return the engine's result in batches of ``rows``, in the schema of ``plan``."""
    reader = run(connection, plan.statement.sql, plan.parameters, rows)
    return reader.cast(plan.schema) if plan.dictionaries else reader
