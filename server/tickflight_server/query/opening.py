"""What a statement gets to see: of each table that it names, the rows that it can need, on the connection that runs it.

The rule of this file: it plans and runs nothing; a table is looked at once for each reading, and so is one state of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import duckdb
import pyarrow as pa

from tickflight_server.query.database import set_now
from tickflight_server.query.own_rows import OwnRows, Wanted
from tickflight_server.query.plain import PlainScan
from tickflight_server.query.plan import Plan
from tickflight_server.query.probe import Filters
from tickflight_server.query.shares import Share
from tickflight_server.query.sources import Opened, Sources, take_back
from tickflight_server.query.statement import Reading, Statement, view_name
from tickflight_server.query.stopping import Stops
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.query.system import FeedBoard, SystemSource, make_table
from tickflight_server.query.writing import Writing
from tickflight_server.schemas import STORED
from tickflight_server.store import Store, TableSnapshot
from tickflight_server.store.access import OpenParts

Cuts = Mapping[str, int]
"""The last ``seq`` that is seen of each stored table; of one that is not in it, no row is."""


class Opening:
    """Gives connections the tables of a store, the system's, and the rows of own table functions."""

    def __init__(self, store: Store, sources: Sources, feeds: FeedBoard, own_rows: OwnRows) -> None:
        self._store = store
        self._sources = sources
        self._feeds = feeds
        self._own_rows = own_rows

    def tables(self) -> Iterator[tuple[str, str, str, pa.Schema]]:
        """Yield schema, name, comment and Arrow schema of every table of the server's own."""
        for name, table in STORED.items():
            yield table.schema, name, table.comment, table.arrow(self._store.numeric)
        for name, (schema, _, comment) in SYSTEM_TABLES.items():
            yield "system", name, comment, schema

    def give(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: Plan,
        cuts: Cuts | None,
        held: ExitStack,
        stops: Stops,
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
            upto = _upto(cuts, reading)
            if scan is not None:
                snapshot, ready = scan.snapshot, scan.ready
            else:
                snapshot = share.snapshot if share is not None else self._snapshot(reading, plan, upto)
                ready = None
            opened[reading.key] = self._sources.give(
                connection, reading.view, snapshot, plan.filters.get(reading.key), upto, held, ready, unsure
            )
        self._give_system(connection, plan.statement)
        if plan.statement.asks_now:
            set_now(connection, plan.now_us)
        self._own_rows.give(
            connection,
            plan.statement,
            plan.calls,
            lambda call, values: Wanted(call, values, cuts, plan.now_us, stops, held),
        )
        self.count(opened)
        return opened

    def give_writing(
        self,
        connection: duckdb.DuckDBPyConnection,
        writing: Writing,
        filters: Mapping[str, Filters | None],
        cuts: Cuts | None,
        held: ExitStack,
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
            upto = _upto(cuts, reading)
            snapshot = self._store.snapshot(reading.table.name, upto)
            self._sources.give(connection, reading.view, snapshot, filters.get(reading.key), upto, held)
        self._give_system(connection, writing.reads)

    def give_empty(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let views over the server's tables bind on ``connection``."""
        for schema, name, _, arrow in self.tables():
            connection.register(view_name(schema, name), arrow.empty_table())

    def count(self, opened: Mapping[str, Opened]) -> None:
        """Count what a query has opened of each table."""
        self._store.metrics.add("parts_opened", sum(len(o.parts) for o in opened.values()))
        self._store.metrics.add("segments_read", sum(len(o.segments) for o in opened.values()))

    def _give_system(self, connection: duckdb.DuckDBPyConnection, statement: Statement) -> None:
        source = SystemSource(self._store, self._feeds)
        for schema, name in statement.tables:
            if name in SYSTEM_TABLES and schema in ("", "system"):
                connection.register(view_name("system", name), make_table(name, source))

    def _snapshot(self, reading: Reading, plan: Plan, upto: int | None) -> TableSnapshot:
        """Return what a query is to see of a table; of a version, rows after ``upto`` are still to be left out."""
        if reading.travel is None:
            return self._store.snapshot(reading.table.name, upto)
        return self._store.snapshot_at(reading.table.name, plan.versions[reading.key])


def _upto(cuts: Cuts | None, reading: Reading) -> int | None:
    return None if cuts is None else cuts.get(reading.table.name, 0)
