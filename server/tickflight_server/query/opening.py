"""What a statement gets to see: of each table that it names, the rows that it can need, on the connection that runs it.

The rule of this file: it plans and runs nothing; a table is looked at once for each reading, and so is one state of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import duckdb
import pyarrow as pa

from tickflight_server.query.board import Board
from tickflight_server.query.database import set_now
from tickflight_server.query.ends import at_the_end
from tickflight_server.query.own_rows import OwnRows, Wanted
from tickflight_server.query.plain import PlainScan
from tickflight_server.query.plan import Plan
from tickflight_server.query.probe import Filters
from tickflight_server.query.session import DEFAULTS, Options
from tickflight_server.query.shares import Share
from tickflight_server.query.sources import Opened, Sources, take_back
from tickflight_server.query.statement import Reading, Statement, view_name
from tickflight_server.query.stopping import Stops
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.query.system import FeedBoard, SystemSource, make_table, system_tables
from tickflight_server.query.writing import Writing
from tickflight_server.store import SeenStore, TableSnapshot
from tickflight_server.store.access import OpenParts

Cuts = Mapping[str, int]
"""The last ``seq`` that is seen of each stored table; of one that is not in it, no row is."""


class Opening:
    """Gives connections the tables of a store, the system's, and the rows of own table functions."""

    def __init__(self, store: SeenStore, sources: Sources, feeds: FeedBoard, own_rows: OwnRows, board: Board) -> None:
        self._store = store
        self._sources = sources
        self._feeds = feeds
        self._own_rows = own_rows
        self._board = board
        self._system = system_tables(store.sight)

    def tables(self) -> Iterator[tuple[str, str, str, pa.Schema]]:
        """Yield schema, name, comment and Arrow schema of every table of the server's own."""
        for name, table in self._store.schemas.items():
            yield table.schema, name, table.comment, table.arrow(self._store.numeric)
        for name in self._system:
            schema, _, comment = SYSTEM_TABLES[name]
            yield "system", name, comment, schema

    def give(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: Plan,
        cuts: Cuts | None,
        held: ExitStack,
        stops: Stops,
        options: Options = DEFAULTS,
        share: Share | None = None,
        scan: PlainScan | None = None,
        unsure: list[OpenParts] | None = None,
    ) -> dict[str, Opened]:
        """Give ``connection`` what the query is to see; ``scan`` has opened it already, if there is one.

        ``unsure`` is as in ``Sources.give``.

        Raises:
            NotFoundError: a version that it asks for is gone.
            StorageError: a part is missing or damaged.
        """
        opened = {}
        for reading in plan.statement.readings():
            upto = reading.upto(cuts)
            if scan is not None:
                snapshot, ready = scan.snapshot, scan.ready
            else:
                snapshot = share.snapshot if share is not None else self._snapshot(reading, plan, upto)
                ready = None
            filters = at_the_end(plan, plan.filters.get(reading.key), snapshot, upto)
            opened[reading.key] = self._sources.give(
                connection, reading.view, snapshot, filters, upto, held, ready, unsure
            )
        self._give_system(connection, plan.statement, options)
        if plan.statement.asks_now:
            set_now(connection, plan.now_us)
        self._own_rows.give(
            connection,
            plan.statement,
            plan.calls,
            lambda call, values: Wanted(call, values, cuts, plan.now_us, stops, held, options.caller),
        )
        self.count(opened, options)
        return opened

    def give_writing(
        self,
        connection: duckdb.DuckDBPyConnection,
        writing: Writing,
        filters: Mapping[str, Filters | None],
        cuts: Cuts | None,
        held: ExitStack,
        options: Options = DEFAULTS,
    ) -> None:
        """Give ``connection`` what a writing statement reads: what ``filters`` let through, or all of it.

        What only looks at the tables, as the definition of a view does, gets them without rows. Once ``held`` is closed
        the connection has none of it.
        """
        if writing.runs:
            readings = writing.reads.readings()
            views = [reading.view for reading in readings]
        else:
            readings = []
            views = [view_name(schema, name) for schema, name, _, _ in self.tables()]
        take_back(connection, views)
        held.callback(take_back, connection, views)
        if not writing.runs:
            self.give_empty(connection)
            return
        for reading in readings:
            upto = reading.upto(cuts)
            snapshot = self._store.snapshot(reading.table.name, upto)
            self._sources.give(connection, reading.view, snapshot, filters.get(reading.key), upto, held)
        self._give_system(connection, writing.reads, options)

    def give_empty(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let views over the server's tables bind on ``connection``."""
        for schema, name, _, arrow in self.tables():
            connection.register(view_name(schema, name), arrow.empty_table())

    def count(self, opened: Mapping[str, Opened], options: Options = DEFAULTS) -> None:
        """Count what a query has opened of each table."""
        parts, segments = sum(len(o.parts) for o in opened.values()), sum(len(o.segments) for o in opened.values())
        self._store.metrics.add("parts_opened", parts)
        self._store.metrics.add("segments_read", segments)
        if options.run is not None:
            rows = sum(o.rows for o in opened.values())
            options.run.opened(parts, segments, rows)

    def _give_system(self, connection: duckdb.DuckDBPyConnection, statement: Statement, options: Options) -> None:
        source = SystemSource(self._store, self._feeds, self._board, options.caller)
        for schema, name in statement.tables:
            if name in self._system and schema in ("", "system"):
                # a name without a schema may be the caller's own table
                if schema:
                    options.caller.check_system(name)
                seen = options.caller.sees_system(name)
                made = make_table(name, source) if seen else SYSTEM_TABLES[name][0].empty_table()
                connection.register(view_name("system", name), made)

    def _snapshot(self, reading: Reading, plan: Plan, upto: int | None) -> TableSnapshot:
        """Return what a query is to see of a table; of a version, rows after ``upto`` are still to be left out."""
        if reading.travel is None:
            return self._store.snapshot(reading.table.name, upto)
        return self._store.snapshot_at(reading.table.name, plan.versions[reading.key])
