"""Book events from the store: what a day holds, and the rows of slices.

The rule of this file: only parts and segments that can hold what is asked for are opened, and everything passes the
engine, so that rows in memory and in parts are one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.query.book_order import Slice
from tickflight_server.query.database import relation
from tickflight_server.query.filters import And, Compare, Filter
from tickflight_server.query.ladder import Events, Flags, Ints, levels_of
from tickflight_server.query.probe import Filters
from tickflight_server.query.sources import Sources, chosen, take_back
from tickflight_server.query.stopping import Stops
from tickflight_server.store import SeenStore, Segment, TableSnapshot

DAY_US = 86_400_000_000
_VIEW = "__books"
_INDEX = ("seq", "timestamp", "is_snapshot")
_LEVELS = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
_EVENT = ("seq", "timestamp", "receipt_timestamp", "is_snapshot", *_LEVELS)
BOOK_COLUMNS = frozenset({"exchange", "symbol", *_EVENT})
"""The columns of l2_book that a book is made of."""


@dataclass(frozen=True)
class Instrument:
    """Whose book it is."""

    exchange: str
    symbol: str


@dataclass(frozen=True, eq=False)
class Sight:
    """What one call sees of a table: a snapshot, without the rows after ``upto``; read on its own ``connection``."""

    snapshot: TableSnapshot
    upto: int | None
    connection: duckdb.DuckDBPyConnection
    stops: Stops


@dataclass(frozen=True)
class Extent:
    """How many rows there are, and the greatest ``seq`` of them."""

    rows: int
    last_seq: int

    def joined(self, other: Extent) -> Extent:
        """Return that of both."""
        return Extent(self.rows + other.rows, max(self.last_seq, other.last_seq))


NOTHING = Extent(0, 0)


class BookReader:
    """Reads the book events of a store.

    Args:
        store: whose events are read.
        sources: give the engine what it is to see.
    """

    def __init__(self, store: SeenStore, sources: Sources) -> None:
        self._store = store
        self._sources = sources
        self._lock = threading.Lock()
        self._seen: weakref.WeakKeyDictionary[Segment, dict[Instrument, Mapping[int, Extent]]]
        self._seen = weakref.WeakKeyDictionary()

    def days(self, sight: Sight, what: Instrument) -> dict[int, Extent]:
        """Return what there is of an instrument, by day since 1970; days without rows are left out."""
        parts = sight.snapshot.parts
        mask = np.ones(len(parts), dtype=bool)
        for column, value in (("exchange", what.exchange), ("symbol", what.symbol)):
            codes, names = parts.labels(column)
            mask &= codes == (names.index(value) if value in names else -1)
        found: dict[int, Extent] = {}
        cut = set[int]()  # days of which a part goes beyond a pin's cut: their rows are counted
        for place in np.flatnonzero(mask).tolist():
            day, last = int(parts.day[place]), int(parts.max_seq[place])
            if sight.upto is not None and last > sight.upto:
                cut.add(day)
            else:
                found[day] = found.get(day, NOTHING).joined(Extent(int(parts.rows[place]), last))
        for segment in sight.snapshot.segments:
            if what.exchange in segment.exchanges and what.symbol in segment.symbols:
                for day, extent in self._extents(segment, what, sight.upto).items():
                    found[day] = found.get(day, NOTHING).joined(extent)
        for day in cut:
            seq, _, _ = self.index(sight, what, day)
            found[day] = Extent(len(seq), int(seq[-1])) if len(seq) else NOTHING
        return {day: extent for day, extent in found.items() if extent.rows}

    def _extents(self, segment: Segment, what: Instrument, upto: int | None) -> Mapping[int, Extent]:
        if upto is not None and segment.last_seq > upto:
            return _extents(segment.batch, what, upto)
        with self._lock:
            seen = self._seen.setdefault(segment, {})
        if what not in seen:
            seen[what] = _extents(segment.batch, what, None)
        return seen[what]

    def index(self, sight: Sight, what: Instrument, day: int, after: int = 0) -> tuple[Ints, Ints, Flags]:
        """Return ``seq``, timestamp and whether it is a snapshot of a day's events after a ``seq``, by ``seq``."""
        bounds = (day * DAY_US, (day + 1) * DAY_US - 1)
        table = self._read(sight, what, _INDEX, bounds, (after + 1, None))
        seq, times = _ints(table["seq"]), _times(table["timestamp"])
        flags = _flags(table["is_snapshot"])
        order = np.argsort(seq, kind="stable")
        return seq[order], times[order], flags[order]

    def events(self, sight: Sight, what: Instrument, slices: Sequence[Slice], *, whole: bool = True) -> Events:
        """Return the events of neighbouring slices in their order, ``whole`` or from the first one's last snapshot."""
        times = (min(s.min_us for s in slices), max(s.max_us for s in slices))
        first, skip = slices[0], 0 if whole else slices[0].snapshot_at
        numbers = [s.first_seq for s in slices]
        if skip and first.seqs is None:
            numbers[0], skip = first.snapshot_seq, 0
        table = self._read(sight, what, _EVENT, times, (min(numbers), max(s.last_seq for s in slices)))
        order = np.argsort(_ints(table["seq"]), kind="stable")
        seq = _ints(table["seq"])[order]
        places = np.concatenate([_places(s, seq, least) for s, least in zip(slices, numbers, strict=True)])[skip:]
        place = order[places]
        if not np.array_equal(place, np.arange(table.num_rows)):
            table = table.take(pa.array(place))
        stamps = _times(table["timestamp"])
        at = [np.full(s.rows, -1) if s.at_us is None else s.at_us for s in slices]
        moments = np.concatenate(at)[-len(stamps) :] if len(stamps) else stamps
        sides = [levels_of(_one(table[f"{side}_prices"]), _one(table[f"{side}_sizes"])) for side in ("bid", "ask")]
        return Events(
            seq=_ints(table["seq"]),
            timestamp_us=stamps,
            receipt_us=_times(table["receipt_timestamp"]),
            at_us=np.where(moments < 0, stamps, moments),
            snapshot=_flags(table["is_snapshot"]),
            bids=sides[0],
            asks=sides[1],
        )

    def gaps(self, sight: Sight, what: Instrument) -> pa.Table:
        """Return the holes that the feed knew of, with ``start_us`` and ``end_us`` of receipt; ``sight`` is of gaps."""
        filters = Filters([_which(what)])
        segments, parts = chosen(sight.snapshot, filters, sight.upto)
        if not segments and not len(parts):
            return pa.table({"start_us": pa.array([], pa.int64()), "end_us": pa.array([], pa.int64())})
        with ExitStack() as held:
            held.callback(take_back, sight.connection, [_VIEW])
            self._sources.give(sight.connection, _VIEW, sight.snapshot, filters, sight.upto, held)
            query = relation(
                sight.connection,
                f"""SELECT epoch_us("start") AS start_us, epoch_us("end") AS end_us FROM {_VIEW}
                WHERE exchange = ? AND symbol = ? AND (channel IS NULL OR channel = 'l2_book')
                AND cause IN ('reconnect', 'sequence', 'dropped')""",
                [what.exchange, what.symbol],
            )
            return query.to_arrow_table()

    def _read(
        self,
        sight: Sight,
        what: Instrument,
        columns: Sequence[str],
        times: tuple[int, int],
        numbers: tuple[int, int | None],
    ) -> pa.Table:
        """Return the rows of an instrument with timestamp and ``seq`` within bounds, in any order."""
        sight.stops.check()
        within = And(Compare(">=", "timestamp", times[0]), Compare("<=", "timestamp", times[1]))
        wanted: Filter = And(And(_which(what), within), Compare(">=", "seq", numbers[0]))
        where = f"timestamp BETWEEN make_timestamp({times[0]}) AND make_timestamp({times[1]}) AND seq >= {numbers[0]}"
        if numbers[1] is not None:
            wanted = And(wanted, Compare("<=", "seq", numbers[1]))
            where += f" AND seq <= {numbers[1]}"
        with ExitStack() as held:
            held.callback(take_back, sight.connection, [_VIEW])
            self._sources.give(sight.connection, _VIEW, sight.snapshot, Filters([wanted]), sight.upto, held)
            query = relation(
                sight.connection,
                f"SELECT {', '.join(columns)} FROM {_VIEW} WHERE exchange = ? AND symbol = ? AND {where}",
                [what.exchange, what.symbol],
            )
            return query.to_arrow_table()


def _which(what: Instrument) -> Filter:
    return And(Compare("=", "exchange", what.exchange), Compare("=", "symbol", what.symbol))


def _places(one: Slice, seq: Ints, least: int) -> Ints:
    """Return where the events of a slice are in ``seq``, which rises, of a plain one those from ``least`` on."""
    if one.seqs is not None:
        return np.searchsorted(seq, one.seqs)
    first, last = np.searchsorted(seq, least), np.searchsorted(seq, one.last_seq)
    return np.arange(first, last + 1)


def _extents(batch: pa.RecordBatch, what: Instrument, upto: int | None) -> Mapping[int, Extent]:
    mask = np.ones(batch.num_rows, dtype=bool)
    for column, value in (("exchange", what.exchange), ("symbol", what.symbol)):
        labels = batch.column(column)
        code = pc.index(labels.dictionary, value).as_py()
        mask &= labels.indices.to_numpy(zero_copy_only=False) == code
    seq = batch.column("seq").to_numpy()
    if upto is not None:
        mask &= seq <= upto
    days, seq = _times(batch.column("timestamp"))[mask] // DAY_US, seq[mask]
    return {int(day): Extent(int(np.sum(days == day)), int(seq[days == day].max())) for day in np.unique(days)}


def _ints(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _times(column: pa.ChunkedArray | pa.Array) -> Ints:
    return _ints(column.cast(pa.int64()))


def _flags(column: pa.ChunkedArray) -> Flags:
    """Return a column of flags; a row that does not say is a change."""
    return np.asarray(pc.fill_null(column, False).to_numpy(), dtype=bool)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
