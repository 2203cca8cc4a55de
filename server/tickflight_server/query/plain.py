"""Queries that only choose columns of a table: its rows as they lie, without a way through the engine.

The rule of this file: what the engine would answer is answered, in the same types; a query of which that is not certain
is the engine's. Work is done on whole batches, in C++; few are made before somebody asks for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.errors import CancelledError
from tickflight_server.query.ahead import Ahead, Batches
from tickflight_server.query.matching import MatchingScan
from tickflight_server.query.plan import Plan
from tickflight_server.query.shares import Share
from tickflight_server.query.sources import chosen, hold, is_cut, opened_of
from tickflight_server.query.statement import Reading
from tickflight_server.schemas import NumericType
from tickflight_server.store import SeenStore, Segment, TableSnapshot
from tickflight_server.store.narrow import compact
from tickflight_server.store.part_reader import as_type, read_batches
from tickflight_server.store.ring import cut

Columns = Mapping[str, str]
"""Column of the table by name in the result, in the result's order."""


def plain_reading(plan: Plan, numeric: NumericType) -> tuple[Reading, Columns] | None:
    """Return what ``plan`` reads and the columns that it takes of it, or None where that is not all that it does."""
    statement, readings = plan.statement, plan.statement.readings()
    chosen_columns = statement.where.taken if plan.exact and statement.where else statement.columns
    if chosen_columns is None or not statement.rowwise or len(readings) != 1 or statement.owns:
        return None
    (reading,) = readings
    # one scan of everything was seen: the name is the stored table's, and no user's of the same name
    if reading.travel is not None or not (plan.exact or plan.filters.get(reading.key) == [None]):
        return None
    wire = reading.table.arrow(numeric, memory=plan.dictionaries)
    names = {name.lower(): name for name in wire.names}
    taken: list[tuple[str, str]] = []
    for column, name in chosen_columns:
        if column == "*":
            taken += [(n, n) for n in wire.names]
        elif column.lower() in names:
            taken.append((name if name != column else names[column.lower()], names[column.lower()]))
    columns = dict(taken)
    schema = pa.schema([wire.field(column).with_name(name) for name, column in columns.items()])
    same = schema.equals(plan.schema) and not any(pa.types.is_nested(field.type) for field in schema)
    return (reading, columns) if same else None


def with_dictionaries(plan: Plan, numeric: NumericType) -> Plan:
    """Return ``plan`` with dictionaries in its schema in the place of names, or unchanged if it is not a plain one."""
    plain = None if plan.exact else plain_reading(plan, numeric)
    if plain is None:
        return plan
    reading, columns = plain
    memory = reading.table.arrow(numeric, memory=True)
    schema = pa.schema([memory.field(column).with_name(name) for name, column in columns.items()])
    return replace(plan, schema=schema, dictionaries=True)


class PlainScan:
    """The batches of a scan of ``table``, ``reader``, until it is stopped; ``opened`` is what it reads.

    If it is ``evolved``, some parts have other columns than the table has now, and the engine is to read it.

    Args:
        columns: what is taken of each row.
        schema: of the result.
        upto: rows with a later ``seq`` are left out, if given.
        batch_rows: most rows of a batch.
        held: keeps the parts readable until it is closed.
        ahead: makes batches ahead of the reader.

    Raises:
        StorageError: a part is missing or damaged.
    """

    def __init__(
        self,
        store: SeenStore,
        snapshot: TableSnapshot,
        columns: Columns,
        schema: pa.Schema,
        *,
        upto: int | None,
        batch_rows: int,
        held: ExitStack,
        ahead: Callable[[Iterable[Batches]], Batches],
    ) -> None:
        self.snapshot = snapshot
        self.table = snapshot.table.name
        self._columns = [(column, schema.field(name).type) for name, column in columns.items()]
        self._schema = schema
        self._upto, self._batch_rows = upto, batch_rows
        self._stopped = False
        hold(snapshot, held)
        self._segments, self._parts = chosen(snapshot, None, upto)
        late = upto is not None and bool((self._parts.max_seq > upto).any())
        read = frozenset(columns.values()) | ({"seq"} if late else frozenset())
        self.ready = store.open_parts(snapshot, self._parts, read)
        held.callback(self.ready.close)
        self.evolved = self.ready.evolved
        self._root = store.root
        self.opened = opened_of(self._segments, self._parts)
        sources = chain(map(self._of_segment, self._segments), map(self._of_part, range(len(self._parts))))
        memory = snapshot.table.arrow(store.numeric, memory=True)
        self._labels = [field.name for field in memory if pa.types.is_dictionary(field.type)]
        costs = len(self._parts) > 0 or any(memory.field(name).type != kind for name, kind in self._columns)
        batches = ahead(sources) if costs else chain.from_iterable(sources)
        self.reader = pa.RecordBatchReader.from_batches(schema, batches)
        held.callback(self._let_go)

    def _let_go(self) -> None:
        # the reader holds what makes batches, which holds this: over C++, where no collector sees the circle
        del self.reader

    def stop(self) -> None:
        """Let whoever reads get an error in place of the next batch."""
        self._stopped = True

    def _of_segment(self, segment: Segment) -> Batches:
        rows = segment.batch
        if self._upto is not None and segment.last_seq > self._upto:
            rows = rows.filter(pc.less_equal(rows.column("seq"), self._upto))
        for piece in cut(rows, self._batch_rows):
            yield self._batch([as_type(piece.column(name), kind) for name, kind in self._columns])

    def _of_part(self, place: int) -> Batches:
        parts, upto = self._parts, self._upto
        arrays = read_batches(
            self._root / self.ready.paths[place],
            self._columns,
            {"exchange": parts.exchange[place], "symbol": parts.symbol[place]},
            self._labels,
            upto=upto if upto is not None and parts.max_seq[place] > upto else None,
            rows=self._batch_rows,
            soon=place == 0 and not self._segments,
        )
        if self.snapshot.whole is not None:
            arrays = ([compact(c) if pa.types.is_dictionary(c.type) else c for c in one] for one in arrays)
        return (self._batch(one) for one in arrays if len(one[0]))

    def _batch(self, arrays: list[pa.Array]) -> pa.RecordBatch:
        if self._stopped:
            raise CancelledError("the query was cancelled.")
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


TURN_S = 0.02


class PlainScans:
    """Opens the plain scans of ``store``; ``ahead`` reads ahead for them."""

    def __init__(self, store: SeenStore, ahead: Ahead) -> None:
        self._store = store
        self._ahead = ahead
        # drivers ask for all endpoints at once: under Python's lock the first would be open when the last is. Nobody
        # waits for long: a part may have to be fetched or checked
        self._one_opens = threading.Lock()

    def open(
        self, plan: Plan, cuts: Mapping[str, int] | None, rows: int, held: ExitStack, share: Share | None
    ) -> PlainScan | MatchingScan | None:
        """Return the scan that is all there is to ``plan``, or None if the engine is to run it.

        ``cuts`` and ``share`` are as in ``Engine.execute``, the others as in ``PlainScan``.
        """
        plain = plain_reading(plan, self._store.numeric)
        if plain is None:
            return None
        reading, columns = plain
        upto = reading.upto(cuts)
        snapshot = share.snapshot if share is not None else self._store.snapshot(reading.table.name, upto)
        if plan.exact:
            return None if share is not None else _matching(plan, reading, columns, snapshot, upto, rows, held)
        if is_cut(snapshot.parts, snapshot).any():
            return None
        turn = share is not None and self._one_opens.acquire(timeout=TURN_S)
        try:
            return PlainScan(
                self._store,
                snapshot,
                columns,
                plan.schema,
                upto=upto,
                batch_rows=rows,
                held=held,
                ahead=partial(self._ahead.batches, rank=0 if share is None else share.number),
            )
        finally:
            if turn:
                self._one_opens.release()


def _matching(
    plan: Plan,
    reading: Reading,
    columns: Columns,
    snapshot: TableSnapshot,
    upto: int | None,
    rows: int,
    held: ExitStack,
) -> MatchingScan | None:
    """Return the scan of the rows that meet an exact plan's filter, None if parts may have some."""
    filters = plan.filters[reading.key]
    if not filters or filters[0] is None:
        return None
    segments, parts = chosen(snapshot, filters, upto)
    if len(parts):
        return None
    kinds = [(column, plan.schema.field(number).type) for number, column in enumerate(columns.values())]
    return MatchingScan(snapshot, segments, filters[0], kinds, plan.schema, upto=upto, batch_rows=rows, held=held)
