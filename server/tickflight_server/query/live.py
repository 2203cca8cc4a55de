"""A query's result kept fresh: each update is the whole result over the rows up to one cut.

The rule of this file: an update equals the query over all rows up to its cut, whichever way it was made. Where a query
groups by a time bucket, only the buckets that new rows fall into are asked for again, each over all of its rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tickflight_server.clock import Clock
from tickflight_server.config import MIB
from tickflight_server.errors import (
    CancelledError,
    ServerError,
    StatementError,
    TooLargeError,
    UnsupportedError,
)
from tickflight_server.query.buckets import RANGES_MAX, Buckets, NotKeptError, Text, read_buckets, renamed
from tickflight_server.query.database import relation
from tickflight_server.query.engine import Engine
from tickflight_server.query.plan import Plan
from tickflight_server.query.planning import Started
from tickflight_server.query.session import Options
from tickflight_server.query.stability import Stability
from tickflight_server.query.statement import Statement
from tickflight_server.query.stopping import interrupt
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.query.trees import walk
from tickflight_server.query.writing import Writing
from tickflight_server.schemas import STORED

Mode = Literal["incremental", "asked again"]
_TOUCHED_MAX = 100_000  # buckets that new rows fall into; with more, all are asked for
_WAIT_S = 0.1  # between two looks at several tables
_PAD = timedelta(days=5)  # months and years are not all of one length
_NONE = timedelta()
# how long the parts of dates are at most, in days
_PARTS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (1 / 86_400, ("second", "seconds", "sec", "secs", "s", "millisecond", "milliseconds", "ms", "microseconds", "us")),
    (1 / 1440, ("minute", "minutes", "min", "mins", "m")),
    (1 / 24, ("hour", "hours", "hr", "hrs", "h")),
    (1, ("day", "days", "d")),
    (7, ("week", "weeks", "w")),
    (31, ("month", "months", "mon", "mons")),
    (92, ("quarter", "quarters")),
    (366, ("year", "years", "yr", "yrs", "y")),
)
_LONGEST_DAYS = 366_000.0  # a millennium


@dataclass(frozen=True, eq=False)
class Update:
    """A result as of one cut: ``cuts`` are the last ``seq`` by table, ``asked_us`` when it was taken (since 1970 UTC).

    ``opened`` is how many parts and segments were opened for it.
    """

    table: pa.Table
    cuts: Mapping[str, int]
    asked_us: int
    opened: int


class LiveQuery:
    """One query whose result is asked for again and again, by one thread at a time.

    ``schema`` is the result's, ENUMs as texts. ``mode`` is decided here, once; ``reason`` says why it is not
    "incremental". ``volatile``: the result may change without new rows in stored tables.

    Args:
        engine: runs it.
        clock: tells when an update is made.
        stability: what may change without new rows.
        sql: one query.
        parameters: its values, by name ("1", "2", … for ``?``).
        options: the session's.
        result_mb: largest result (``query.live_result_mb``).
        started: is given what cancels the search for its schema.

    Raises:
        StatementError: it does not parse or bind.
        UnsupportedError: it is no query, or cannot be sent again and again.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        stability: Stability,
        sql: str,
        parameters: Mapping[str, Any],
        *,
        options: Options,
        result_mb: int,
        started: Started,
    ) -> None:
        self._engine = engine
        self._store = engine.store
        self._clock = clock
        self._options = options
        self._result_mb = result_mb
        self._started = started
        self._parameters = parameters
        self._opened = 0
        statement = engine.read(sql)
        if isinstance(statement, Writing) or statement.explain:
            raise UnsupportedError("only a query can be kept fresh.", hint="Run it by itself.")
        if statement.streams:
            raise UnsupportedError("a tail has no end, and so no result.", hint="Run it by itself: it is live already.")
        self._statement = statement
        plan = engine.plan(statement, parameters, options=options, started=started)
        self.schema = _plain_schema(plan.schema)
        self._reads = [r.table.name for r in statement.readings() if r.travel is None]
        with engine.connections.reader() as reader:
            tree = reader.parse(statement.sql, statement.sql)
        moves = self._store.moves(self._reads)
        self.volatile = moves or not self._is_stored(tree) or stability.unstable(tree) is not None
        self._kept: pa.Table | None = None
        self._cuts: Mapping[str, int] | None = None
        self.mode: Mode = "asked again"
        self.reason = ""
        self._buckets: Buckets | None = None
        try:
            if moves:
                raise NotKeptError("how far back it may look moves on")
            self._keep_by_buckets(plan.schema, stability)
        except NotKeptError as error:
            self.reason = str(error)

    # --- how it is kept

    @property
    def statement(self) -> Statement:
        """The query."""
        return self._statement

    def _is_stored(self, tree: Any) -> bool:
        """Return whether it reads stored tables alone, and at least one."""
        maps = (part["cte_map"]["map"] for part in walk(tree) if "cte_map" in part)
        named = {("", one["key"].lower()) for one in itertools.chain.from_iterable(maps)}
        tables = self._statement.tables - named
        found = all(
            name in STORED
            and (schema == STORED[name].schema or (not schema and self._options.schema in ("workspace", "market")))
            for schema, name in tables
        )
        return found and not self._statement.owns and bool(tables or self._statement.travels)

    def _keep_by_buckets(self, schema: pa.Schema, stability: Stability) -> None:
        if self._statement.travels:
            raise NotKeptError("it asks for a version of a table")
        if any(name in SYSTEM_TABLES for _, name in self._statement.tables):
            raise NotKeptError("it reads a table of schema system")
        connection = self._engine.connections.connect(self._options)
        try:
            found = read_buckets(connection, self._statement.sql, schema, stability, self._options.schema)
            self._width, self._pad = self._bucket_width(connection, found.width)
        finally:
            connection.close()
        self._renamed = renamed(self._parameters)
        try:
            texts = (found.whole, found.touched, *found.some.values())
            self._statements = {text: self._read(text) for text in texts}
            whole = self._plan(found.whole, {}).schema
        except CancelledError:
            raise
        except ServerError:
            raise NotKeptError("the engine cannot ask for its buckets by themselves") from None
        columns = len(schema)
        if whole.types[:columns] != schema.types or not pa.types.is_timestamp(whole.field(columns).type):
            raise NotKeptError("the engine cannot ask for its buckets by themselves")
        self._buckets, self.mode = found, "incremental"

    def _read(self, text: Text) -> Statement:
        statement = self._engine.read(text.sql)
        assert isinstance(statement, Statement)
        return statement

    def _bucket_width(self, connection: Any, text: Text) -> tuple[timedelta, timedelta]:
        """Return how long a bucket is, or more, and by how much it may begin sooner than it is called."""
        values = {name: value for name, value in renamed(self._parameters).items() if name in text.parameters}
        try:
            value = relation(connection, text.sql, values).to_arrow_table().column(0)[0].as_py()
        except Exception as error:
            raise NotKeptError("the length of its time bucket cannot be told") from error
        if isinstance(value, str):
            days = next((days for days, names in _PARTS if value.lower() in names), _LONGEST_DAYS)
            return timedelta(days=days) + (_PAD if days > 7 else _NONE), _NONE
        if not isinstance(value, pa.MonthDayNano):
            raise NotKeptError("the length of its time bucket cannot be told")
        length = timedelta(days=31 * value.months + value.days, microseconds=value.nanoseconds // 1000)
        return (length + _PAD, _PAD) if value.months else (length, _NONE)

    # --- when

    def has_news(self) -> bool:
        """Return whether there may be another result than that of the last update."""
        if self._cuts is None or self.volatile:
            return True
        return any(self._store.tables[name].state.last_seq > self._cuts.get(name, 0) for name in self._reads)

    def wait(self, timeout_s: float, stopped: Callable[[], bool]) -> bool:
        """Wait until ``has_news``; return False if there is none in time, or the reader ``stopped``."""
        if self.has_news():
            return not stopped()
        cuts = self._cuts or {}
        if len(self._reads) == 1:
            (name,) = self._reads
            self._store.tables[name].arrivals.wait(cuts.get(name, 0), timeout_s, stopped)
        elif self._reads:
            self._store.tables[self._reads[0]].arrivals.wait(
                cuts.get(self._reads[0], 0), min(timeout_s, _WAIT_S), stopped
            )
        return not stopped() and self.has_news()

    def wake(self) -> None:
        """Let who waits look again whether it is to stop."""
        for name in self._reads:
            self._store.tables[name].arrivals.wake()

    # --- updates

    def update(self) -> Update | None:
        """Return the result as it is now, None if it is the same as before.

        Raises:
            TooLargeError: it is above ``query.live_result_mb``.
            CancelledError: it was cancelled by what ``started`` was given.
            ServerError: the engine failed.
        """
        cuts = {name: table.state.last_seq for name, table in self._store.tables.items()}
        asked_us = self._clock.now_us()
        self._opened = 0
        before = self._kept
        if self._buckets is None:
            plan = self._engine.plan(self._statement, self._parameters, options=self._options, started=self._started)
            if _plain_schema(plan.schema) != self.schema:
                raise StatementError("the columns of the result have changed.", hint="Ask for it anew.")
            kept = self._fetch(plan, cuts)
        else:
            kept = self._refreshed(self._buckets, cuts)
        self._check_size(kept.nbytes)
        self._cuts, self._kept = cuts, kept
        if before is not None and (kept is before or (self._buckets is None and kept.equals(before))):
            return None
        return Update(self._shown(kept), cuts, asked_us, self._opened)

    def _refreshed(self, buckets: Buckets, cuts: Mapping[str, int]) -> pa.Table:
        """Return the kept result with the buckets asked for again that rows since the last cut fall into."""
        if self._kept is None or self._cuts is None:
            return self._ask(buckets.whole, {}, cuts)
        touched = self._ask(buckets.touched, {"__after": self._cuts.get(buckets.table.name, 0)}, cuts).column(0)
        if len(touched) == 0:
            return self._kept
        if touched.null_count or len(touched) > _TOUCHED_MAX:
            return self._ask(buckets.whole, {}, cuts)
        runs = runs_of(touched.combine_chunks(), self._width)
        size = next(n for n in sorted(buckets.some) if n >= len(runs))
        values: dict[str, Any] = {}
        for i in range(size):
            first, last = runs[min(i, len(runs) - 1)]
            values |= {f"__first{i}": first, f"__last{i}": last}
            values |= {f"__from{i}": _moved(first, -self._pad), f"__until{i}": _moved(last, self._width)}
        return replaced(self._kept, len(self.schema), runs, self._ask(buckets.some[size], values, cuts))

    def _ask(self, text: Text, values: Mapping[str, Any], cuts: Mapping[str, int]) -> pa.Table:
        return self._fetch(self._plan(text, values), cuts)

    def _plan(self, text: Text, values: Mapping[str, Any]) -> Plan:
        theirs = {name: value for name, value in self._renamed.items() if name in text.parameters}
        return self._engine.plan(
            self._statements[text], {**theirs, **values}, options=self._options, started=self._started
        )

    def _fetch(self, plan: Plan, cuts: Mapping[str, int]) -> pa.Table:
        """Return all of a plan's result, ENUMs as texts."""
        batches, size = [], 0
        with self._engine.execute(plan, cuts=cuts, options=self._options, started=self._started) as execution:
            schema = execution.reader.schema
            for batch in execution.batches():
                batches.append(batch)
                size += batch.nbytes
                self._check_size(size)
            self._opened += sum(len(one.parts) + len(one.segments) for one in execution.opened.values())
        return pa.Table.from_batches(batches, schema).cast(_plain_schema(schema)).combine_chunks()

    def _check_size(self, size: int) -> None:
        if size > self._result_mb * MIB:
            raise TooLargeError(
                f"the result is above query.live_result_mb ({self._result_mb} MB).",
                hint="Narrow it by symbol and timestamp, group into fewer rows, or tail the table.",
            )

    def _shown(self, kept: pa.Table) -> pa.Table:
        """Return what the caller sees of the kept result: its own columns, in its order."""
        columns = len(self.schema)
        if self._buckets is not None and self._buckets.orders:
            kept = kept.take(self._order(kept, self._buckets.orders))
        return kept.select(range(columns)).rename_columns(self.schema.names).cast(self.schema)

    def _order(self, kept: pa.Table, orders: str) -> pa.Array:
        rows = kept.rename_columns([f"c{i}" for i in range(kept.num_columns)]).append_column(
            "place", pa.array(np.arange(kept.num_rows, dtype=np.int64))
        )
        connection = self._engine.connections.connect(self._options)
        try:
            self._started(lambda: interrupt(connection))
            connection.register("__kept", rows)
            return connection.sql(f"SELECT place FROM __kept ORDER BY {orders}").to_arrow_table().column(0)
        except Exception as error:
            raise self._engine.translate(error) from None
        finally:
            connection.close()


def runs_of(touched: pa.Array, width: timedelta) -> list[tuple[datetime, datetime]]:
    """Return ranges, first and last bucket each, that have all of the buckets ``touched``; at most ``RANGES_MAX``.

    Neighbours are in one range, and so are those that lie closest to each other where there are too many ranges.
    """
    starts = np.sort(touched.cast(pa.int64()).to_numpy())
    gaps = np.diff(starts)
    wide = np.flatnonzero(gaps > width // timedelta(microseconds=1))
    cuts = np.sort(wide[np.argsort(-gaps[wide], kind="stable")[: RANGES_MAX - 1]])
    firsts, lasts = starts[np.r_[0, cuts + 1]], starts[np.r_[cuts, len(starts) - 1]]
    kind = touched.type
    return list(zip(_times(firsts, kind), _times(lasts, kind), strict=True))


def replaced(kept: pa.Table, key: int, runs: list[tuple[datetime, datetime]], fresh: pa.Table) -> pa.Table:
    """Return ``kept`` with the rows of ``fresh`` in the place of those whose bucket is in one of ``runs``.

    Both are in the order of their buckets, column ``key``, those without one last, of which there are none in
    ``fresh``. What is the same is ``kept`` itself.
    """
    kind = fresh.column(key).type
    bounds = [np.array(pa.array(times, kind).cast(pa.int64())) for times in zip(*runs, strict=True)]

    def places(table: pa.Table) -> tuple[list[int], list[int]]:
        column = table.column(key).combine_chunks()
        known = column.slice(0, len(column) - column.null_count).cast(pa.int64()).to_numpy()
        return np.searchsorted(known, bounds[0], "left").tolist(), np.searchsorted(known, bounds[1], "right").tolist()

    olds, news = zip(*places(kept), strict=True), zip(*places(fresh), strict=True)
    pieces, done, same = [], 0, True
    for (old_first, old_end), (new_first, new_end) in zip(olds, news, strict=True):
        piece = fresh.slice(new_first, new_end - new_first)
        same = same and piece.equals(kept.slice(old_first, old_end - old_first))
        pieces += [kept.slice(done, old_first - done), piece]
        done = old_end
    return kept if same else pa.concat_tables([*pieces, kept.slice(done)]).combine_chunks()


def _times(values: np.ndarray, kind: pa.DataType) -> list[datetime]:
    times: list[datetime] = pa.array(values).cast(kind).to_pylist()
    return times


def _moved(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return datetime.max if by > timedelta() else datetime.min


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return ``schema`` with texts for ENUMs: streams with marks send no dictionaries.

    Raises:
        UnsupportedError: there is one inside a list or struct.
    """
    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif pa.types.is_nested(kind) and "dictionary<" in str(kind):
            raise UnsupportedError(
                f"column {field.name} has ENUMs inside, which live results do not.", hint="Cast it to VARCHAR[]."
            )
        fields.append(field.with_type(kind))
    return pa.schema(fields)
