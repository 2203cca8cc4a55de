"""``book_at`` and ``books``: order books of any instant, as rows.

The rule of this file: it says what a call sees and how a book is shown; what a book is, is ``book_days``' matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import pyarrow as pa

from tickflight_server.config import MIB, QuerySettings
from tickflight_server.errors import TooLargeError, UnsupportedError
from tickflight_server.query.book_cache import BookCache
from tickflight_server.query.book_days import BookDays, Look, OutdatedError
from tickflight_server.query.book_reader import BOOK_COLUMNS, BookReader, Instrument, Sight
from tickflight_server.query.connections import Connections
from tickflight_server.query.ladder import Book, Side
from tickflight_server.query.own_functions import book_at_schema, books_schema
from tickflight_server.query.own_rows import Wanted
from tickflight_server.query.sources import Sources
from tickflight_server.query.stopping import interrupt
from tickflight_server.schemas import TIMESTAMP, NumericType
from tickflight_server.store import SeenStore, TableSnapshot

_LOOKS = 4  # snapshots that a call takes while others keep what is newer; with the last it goes on


class Books:
    """Makes the rows of ``book_at`` and ``books``.

    Args:
        store: whose books they are.
        sources: give the engine what it is to see.
        connections: of the engine.
        settings: limits.
    """

    def __init__(self, store: SeenStore, sources: Sources, connections: Connections, settings: QuerySettings) -> None:
        self._store = store
        self._connections = connections
        self._levels_max = settings.book_levels_max
        self._reader = BookReader(store, sources)
        self.cache = BookCache(settings.book_cache_mb * MIB)
        self._days = BookDays(self._reader, self.cache)

    def book_at(self, wanted: Wanted) -> pa.Table:
        """Return the levels of one book, best first; no rows where no snapshot is before.

        Raises:
            UnsupportedError: the instrument has a book of orders only.
        """
        values, numeric = wanted.values, self._store.numeric
        schema = book_at_schema(values, numeric)
        (found,), gaps = self._found(wanted, [values["t"]], values["depth"])
        if found is None:
            return schema.empty_table()
        book = found
        rows = max(len(book.bids), len(book.asks))
        columns = [
            pa.array(np.arange(1, rows + 1, dtype=np.int32)),
            *(_padded(a, rows) for side in (book.bids, book.asks) for a in (side.prices, side.sizes)),
            pa.array([book.timestamp_us] * rows, pa.int64()).cast(TIMESTAMP),
            pa.array([book.seq] * rows, pa.int64()),
            pa.array([_stale(gaps, book, values["t"])] * rows, pa.bool_()),
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def books(self, wanted: Wanted) -> pa.Table:
        """Return a row for each instant from ``start`` to ``end``, both included, that has a book before it.

        Raises:
            TooLargeError: they have too many levels together.
            UnsupportedError: the instrument has a book of orders only.
        """
        values, numeric = wanted.values, self._store.numeric
        start, end, step, depth = (values[name] for name in ("start", "end", "step", "depth"))
        count = max(0, (end - start) // step + 1)
        if count > self._levels_max:
            raise self._too_large(f"{count} books")
        times = range(start, start + count * step, step)
        books, gaps = self._found(wanted, times, depth)
        found = [(time_us, book) for time_us, book in zip(times, books, strict=True) if book is not None]
        return _table(found, gaps, numeric, books_schema(values, numeric))

    def _found(self, wanted: Wanted, times_us: Sequence[int], depth: int) -> tuple[list[Book | None], pa.Table]:
        """Return the books at instants that do not fall, and the instrument's holes."""
        for attempt in range(_LOOKS):
            found: list[Book | None] = []
            levels = 0
            with suppress(OutdatedError), self._looking(wanted, again=attempt + 1 < _LOOKS) as (look, gaps):
                for book in look.books(times_us, depth):
                    found.append(book)
                    levels += 0 if book is None else len(book.bids) + len(book.asks)
                    if len(times_us) > 1 and levels > self._levels_max:
                        raise self._too_large(f"more than {self._levels_max} levels")
                    wanted.stops.check()
                return found, gaps
        raise AssertionError("the last look is never outdated")

    def _too_large(self, what: str) -> TooLargeError:
        return TooLargeError(
            f"books() is asked for {what}, query.book_levels_max is {self._levels_max}.",
            hint="Ask for less time, a longer step, or a smaller depth.",
        )

    @contextmanager
    def _looking(self, wanted: Wanted, *, again: bool) -> Iterator[tuple[Look, pa.Table]]:
        """Give the block an instrument's books and its holes, as the call sees them."""
        what = Instrument(wanted.values["exchange"], wanted.values["symbol"])
        connection = self._connections.connect()
        wanted.stops.add(lambda: interrupt(connection))
        try:
            sights = []
            for table in ("l2_book", "gaps"):
                upto = None if wanted.cuts is None else wanted.cuts.get(table, 0)
                sights.append(Sight(self._snapshot(table, upto), upto, connection, wanted.stops))
            look = self._days.look(sights[0], what, again=again)
            if look.empty:
                self._check_orders(wanted, what, sights[0])
            yield look, self._reader.gaps(sights[1], what)
        finally:
            connection.close()

    def _snapshot(self, table: str, upto: int | None) -> TableSnapshot:
        if table == "gaps":
            return self._store.gaps("l2_book", upto)
        found = self._store.snapshot(table, upto)
        if BOOK_COLUMNS.difference(column.name for column in found.table.columns):
            raise UnsupportedError(
                "a book cannot be made of the columns that there are of l2_book.", hint="Read l2_book itself."
            )
        return found

    def _check_orders(self, wanted: Wanted, what: Instrument, sight: Sight) -> None:
        if "l3_book" not in self._store.tables:
            return
        upto = None if wanted.cuts is None else wanted.cuts.get("l3_book", 0)
        orders = Sight(self._store.snapshot("l3_book", upto), upto, sight.connection, sight.stops)
        if self._reader.days(orders, what):
            raise UnsupportedError(
                f"{what.exchange} {what.symbol} has a book of orders (l3_book) and none of prices (l2_book).",
                hint="Subscribe to l2_book, too, or read l3_book.",
            )


def _padded(values: pa.Array, rows: int) -> pa.Array:
    return pa.concat_arrays([values, pa.nulls(rows - len(values), values.type)])


def _stale(gaps: pa.Table, book: Book, time_us: int) -> bool:
    """Return whether events are known to be missing since the last snapshot."""
    start, end = gaps["start_us"].to_numpy(), gaps["end_us"].to_numpy()
    return bool(np.any((start <= time_us) & (end > book.snapshot_us)))


def _table(found: list[tuple[int, Book]], gaps: pa.Table, numeric: NumericType, schema: pa.Schema) -> pa.Table:
    times = pa.array([t for t, _ in found], pa.int64()).cast(TIMESTAMP)
    stamps = pa.array([b.timestamp_us for _, b in found], pa.int64()).cast(TIMESTAMP)
    columns = [times, stamps, pa.array([b.seq for _, b in found], pa.int64())]
    columns.append(pa.array([_stale(gaps, b, t) for t, b in found], pa.bool_()))
    for sides in ([b.bids for _, b in found], [b.asks for _, b in found]):
        columns += _lists(sides, schema.field("bid_prices").type)
    return pa.Table.from_arrays(columns, schema=schema)


def _lists(sides: list[Side], kind: pa.ListType) -> list[pa.Array]:
    """Return prices and sizes of many books as lists."""
    starts = np.zeros(len(sides) + 1, dtype=np.int32)
    np.cumsum([len(s) for s in sides], out=starts[1:])
    made = []
    for arrays in ([s.prices for s in sides], [s.sizes for s in sides]):
        values = pa.concat_arrays(arrays) if arrays else pa.array([], kind.value_type)
        made.append(pa.ListArray.from_arrays(pa.array(starts), values, type=kind))
    return made
