"""Sorted reading of any amount in bounded memory: window by window, each a query of the engine.

The rule of this file: windows follow each other in the order of the rows and together have each row once; none is run
that is known to hold more than ``query.ordered_window_rows`` rows, and none where there are no rows. How many rows a
range has is first estimated from the bounds of segments and parts (``weights``), and counted where that does not do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from tickflight_server.config import MIB
from tickflight_server.errors import ResourceExhaustedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.execution import Execution, cut_by_bytes, row_bytes
from tickflight_server.query.failures import MEMORY_LIMITS
from tickflight_server.query.filters import And, Compare
from tickflight_server.query.planning import Started
from tickflight_server.query.probe import Filters
from tickflight_server.query.selection import Choice
from tickflight_server.query.session import DEFAULTS, Options
from tickflight_server.query.sources import chosen
from tickflight_server.query.statement import Statement
from tickflight_server.query.trees import quoted
from tickflight_server.query.weights import weights_of

Key = Literal["timestamp", "receipt_timestamp", "seq"]
BY_SEQ: tuple[Key, ...] = ("seq",)
BY_TIME: tuple[Key, ...] = ("timestamp", "receipt_timestamp", "seq")
Ranges = tuple[tuple[int, int], ...]
"""Least and greatest value of the first keys of an order, both included; but for the last, each is one value."""

_SPAN_WINDOWS = 32  # as many windows' rows, estimated, are counted at once
_FIRST_SHARE = 1 / 8  # of a window: as much as a step of counting has; each window after it may have twice that
_BUCKETS = 256  # and in so many steps: a window ends at one
_YEAR_9999_US = 253_402_300_799_999_999
_YEAR_1_US = -62_135_596_800_000_000


@dataclass(frozen=True)
class Piece:
    """Rows in order of ``seq``, and up to which ``seq`` all rows have been looked at with it."""

    batch: pa.RecordBatch
    seq: int


def by_seq(
    engine: Engine,
    choice: Choice,
    after: int,
    upto: int,
    *,
    since_us: int | None = None,
    started: Started | None = None,
    options: Options = DEFAULTS,
) -> Iterator[Piece]:
    """Yield the chosen rows with ``after`` < seq <= ``upto`` in order of seq; the last piece is at ``upto``.

    Row ``upto`` is there already. Pieces without rows tell how far it is. With ``since_us`` only rows with that
    timestamp or a later one, in microseconds since 1970 UTC. ``started`` is given what cancels the query that runs.
    ``options`` are the session's. Between two pieces no query runs and no place is held, unless rows are far longer
    than those before them.

    Raises:
        BusyError, StorageError, CancelledError, ServerError: as ``Engine.execute``.
    """
    if upto <= after:
        return
    scan = _Scan(engine, choice, BY_SEQ, (after + 1, upto), {choice.table.name: upto}, since_us, started, options)
    told = after
    for span in (*scan.spans(), (upto, upto)):
        if span[0] > told:
            for batch in scan.rows(span):
                for piece in cut_by_bytes(batch, engine.settings.batch_bytes):
                    told = int(piece.column("seq")[-1].as_py())
                    yield Piece(piece.select(choice.columns), told)
        if told < span[1]:
            told = span[1]
            yield Piece(scan.empty(), told)


def by_time(
    engine: Engine,
    choice: Choice,
    start_us: int | None,
    end_us: int | None,
    *,
    cuts: Mapping[str, int] | None = None,
    started: Started | None = None,
    options: Options = DEFAULTS,
) -> Iterator[pa.RecordBatch]:
    """Yield the chosen rows with ``start_us`` <= timestamp < ``end_us`` by timestamp, receipt_timestamp and seq.

    None is without a bound, in microseconds since 1970 UTC. All are of one moment: of ``cuts``, the last ``seq`` by
    table, or of the first batch's. ``started`` and places are as for ``by_seq``.

    Raises:
        BusyError, StorageError, CancelledError, ServerError: as ``Engine.execute``.
    """
    low = _YEAR_1_US if start_us is None else max(start_us, _YEAR_1_US)
    high = _YEAR_9999_US if end_us is None else min(end_us - 1, _YEAR_9999_US)
    if high < low:
        return
    name = choice.table.name
    upto = engine.store.snapshot(name).last_seq if cuts is None else cuts.get(name, 0)
    scan = _Scan(engine, choice, BY_TIME, (low, high), {name: upto}, None, started, options)
    for span in scan.spans():
        for batch in scan.rows(span):
            yield batch.select(choice.columns)


class _Scan:
    """One sorted reading: what it reads, and what it has learnt of its rows.

    Args:
        keys: what rows are sorted by; the last one tells every two rows apart.
        bounds: least and greatest value of the first key.
        cuts: the last ``seq`` that is read.
    """

    def __init__(
        self,
        engine: Engine,
        choice: Choice,
        keys: tuple[Key, ...],
        bounds: tuple[int, int],
        cuts: Mapping[str, int],
        since_us: int | None,
        started: Started | None,
        options: Options,
    ) -> None:
        self._engine = engine
        self._choice = choice
        self._keys = keys
        self._cuts = cuts
        self._since_us = since_us
        self._started = started
        self._options = options
        self._statements: dict[str, Statement] = {}
        self._share = _FIRST_SHARE  # of several windows the first ones are small, so that their reader soon has rows
        self._rows_max = engine.settings.ordered_window_rows
        self._bytes_max = engine.settings.ordered_window_mb * MIB
        # what the order needs goes with the chosen columns, and is left out by whoever hands them on
        self._columns = choice.columns + tuple(k for k in keys if k not in choice.columns)
        self._schema = replace(choice, columns=self._columns).schema(engine.store.numeric)
        sql, values = self._query("1", (bounds,), "")
        self._plan = engine.plan(sql, values, started=started, options=options)  # for the filters that all windows have
        name, upto = choice.table.name, cuts[choice.table.name]
        sources = chosen(engine.store.snapshot(name, upto), self._plan.filters[name], upto)
        self._weights = weights_of(*sources, bounds, by_seq=keys == BY_SEQ)
        # of long rows the schema knows little
        self._row_bytes = max(1, row_bytes(self._schema), self._weights.row_bytes if _has_lists(self._schema) else 0)

    def empty(self) -> pa.RecordBatch:
        """Return a batch of the chosen columns without rows."""
        schema = self._choice.schema(self._engine.store.numeric)
        return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)

    # --- where to cut

    def spans(self) -> list[tuple[int, int]]:
        """Return ranges of the first key that together hold all rows; each has some windows' rows, about."""
        most = self._most()
        return self._weights.spans(most * _SPAN_WINDOWS, whole=most)

    def _most(self) -> int:
        """Return how many rows a window may have."""
        return max(1, min(self._rows_max, self._bytes_max // self._row_bytes))

    def _cut(self, ranges: Ranges, rows: int) -> Iterator[tuple[Ranges, int]]:
        """Yield windows for ``ranges``, which hold at most ``rows`` rows, and how many each has at most."""
        if rows <= self._most():
            if rows:
                yield ranges, rows
            return
        low, high = ranges[-1]
        if low == high:  # all of these rows are equal in this key: the next one tells them apart
            found = self._extremes(ranges)
            if found is None:
                return
            ranges = (*ranges, found)
            low, high = found
        width = -(-(high - low + 1) // _BUCKETS)
        counts = self._count(ranges, width)
        several = sum(count for _, count in counts) > self._most()
        start, total = low, 0
        for bucket, count in counts:
            first = low + bucket * width
            if total and several and total + count > self._share * self._most():
                yield (*ranges[:-1], (start, first - 1)), total
                total = 0
            start = start if total else first
            total += count
            if total > self._most():  # then it is this bucket alone
                yield from self._cut((*ranges[:-1], (first, min(first + width - 1, high))), total)
                total = 0
        if total:
            yield (*ranges[:-1], (start, high)), total

    def _count(self, ranges: Ranges, width: int) -> list[tuple[int, int]]:
        """Return how many rows each stretch of ``width`` has, by its number from the range's start on, in order."""
        key = _number(self._keys[len(ranges) - 1])
        sql = f"({key} - $origin) // $width AS bucket, count(*) AS n"
        found = self._ask(sql, ranges, "GROUP BY bucket ORDER BY bucket", origin=ranges[-1][0], width=width)
        return [(int(row["bucket"]), int(row["n"])) for row in found.to_pylist()]

    def _extremes(self, ranges: Ranges) -> tuple[int, int] | None:
        """Return least and greatest value of the key that comes after those of ``ranges``; None without rows."""
        key = _number(self._keys[len(ranges)])
        (row,) = self._ask(f"min({key}) AS low, max({key}) AS high", ranges, "").to_pylist()
        return None if row["low"] is None else (int(row["low"]), int(row["high"]))

    # --- asking

    def rows(self, span: tuple[int, int]) -> Iterator[pa.RecordBatch]:
        """Yield all rows of ``span`` in order, in the wire's types, with the columns that the order needs."""
        for window, rows in self._cut((span,), self._weights.most(span)):
            yield from self._sorted_or_less(window, rows)

    def _sorted_or_less(self, ranges: Ranges, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a window of at most ``rows`` rows, in smaller ones if they are too long for the engine."""
        given = False
        try:
            for batch in self._sorted(ranges):
                given = True
                yield batch
            return
        except ResourceExhaustedError as error:
            if given or rows == 1 or error.limit not in MEMORY_LIMITS:
                raise
        self._row_bytes = max(self._row_bytes, 4 * self._bytes_max // rows)
        for window, count in self._cut(ranges, rows):
            yield from self._sorted_or_less(window, count)

    def _sorted(self, ranges: Ranges) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a window in order.

        The query has ended before the first is handed out, unless the rows are above twice ``query.ordered_window_mb``
        together: whoever takes them slowly then holds its place, and not the memory.
        """
        order = ", ".join(map(quoted, self._keys[len(ranges) - 1 :]))  # the keys before have one value each
        kept: list[pa.RecordBatch] = []
        size = rows = total = 0
        with self._run(", ".join(map(quoted, self._columns)), ranges, f"ORDER BY {order}") as execution:
            for batch in execution.batches():
                kept.append(batch if batch.schema.equals(self._schema) else batch.cast(self._schema))
                size += batch.nbytes
                total += batch.nbytes
                rows += batch.num_rows
                if size > 2 * self._bytes_max:
                    yield from kept
                    kept, size = [], 0
        if rows:
            self._row_bytes = max(1, total // rows)
        self._share = min(1.0, 2 * self._share)
        yield from kept

    def _ask(self, items: str, ranges: Ranges, then: str, **more: int) -> pa.Table:
        with self._run(items, ranges, then, **more) as execution:
            return pa.Table.from_batches(execution.batches(), execution.reader.schema)

    def _run(self, items: str, ranges: Ranges, then: str, **more: int) -> Execution:
        """Run a query on the rows in ``ranges``; it is planned like all others, but for the sources to open."""
        sql, values = self._query(items, ranges, then, **more)
        statement = self._statements.get(sql)
        if statement is None:
            read = self._engine.read(sql)
            assert isinstance(read, Statement)
            statement = self._statements[sql] = read
        name = self._choice.table.name
        filters = {name: self._within(self._plan.filters[name], ranges)}
        plan = replace(self._plan, statement=statement, parameters=values, schema=self._schema, filters=filters)
        return self._engine.execute(plan, cuts=self._cuts, started=self._started, options=self._options)

    def _query(self, items: str, ranges: Ranges, then: str, **more: int) -> tuple[str, Mapping[str, int | str]]:
        """Return the text of a query on the rows in ``ranges``, and its values."""
        conditions: list[str] = []
        values: dict[str, int | str] = {**self._choice.parameters(), **more}
        for key, (low, high) in zip(self._keys, ranges, strict=False):
            conditions += [f"{quoted(key)} {op} {_value(key, name)}" for op, name in ((">=", "low"), ("<=", "high"))]
            values |= {f"{key}_low": low, f"{key}_high": high}
        if self._since_us is not None:
            conditions.append(f"timestamp >= {_value('timestamp', 'since')}")
            values["timestamp_since"] = self._since_us
        return self._choice.select(items, *conditions, then=then), values

    def _within(self, filters: Filters | None, ranges: Ranges) -> Filters | None:
        """Return ``filters`` and that a row is in ``ranges``, for choosing what to open."""
        if filters is None or len(filters) != 1:  # a condition that reads the table once more, in a macro
            return filters
        (found,) = filters
        for key, (low, high) in zip(self._keys, ranges, strict=False):
            bounds = And(Compare(">=", key, low), Compare("<=", key, high))
            found = bounds if found is None else And(found, bounds)
        return Filters([found])


def _value(key: Key, name: str) -> str:
    """Return the parameter ``name`` of ``key`` as a value of the key's type."""
    return f"${key}_{name}" if key == "seq" else f"make_timestamp(${key}_{name}::BIGINT)"


def _number(key: Key) -> str:
    """Return a key as a whole number."""
    return key if key == "seq" else f"epoch_us({key})"


def _has_lists(schema: pa.Schema) -> bool:
    return any(pa.types.is_nested(f.type) for f in schema)
