"""Order books in memory: a book, the events after it, and the book at any of them.

The rule of this file: work is per run of events, never per level. Every price of a run has a rank, best first, and an
event's levels are written to their ranks at once; the last one that is written counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.errors import StorageError

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Side:
    """The levels of one side, best first; prices and sizes are of the stored tables' type of a number."""

    prices: pa.Array
    sizes: pa.Array

    def __len__(self) -> int:
        return len(self.prices)

    def top(self, depth: int) -> Side:
        """Return the best ``depth`` levels."""
        return Side(self.prices.slice(0, depth), self.sizes.slice(0, depth))


@dataclass(frozen=True, eq=False)
class Book:
    """A book after an event: the event's timestamp and ``seq``, and when the last snapshot before it was received."""

    bids: Side
    asks: Side
    timestamp_us: int
    seq: int
    snapshot_us: int

    @property
    def nbytes(self) -> int:
        """Memory of its levels."""
        return 256 + sum(int(a.nbytes) for s in (self.bids, self.asks) for a in (s.prices, s.sizes))


@dataclass(frozen=True, eq=False)
class Levels:
    """What events say of one side: those of event ``i`` are ``prices[starts[i]:starts[i + 1]]``, and so for sizes."""

    starts: Ints
    prices: pa.Array
    sizes: pa.Array


@dataclass(frozen=True, eq=False)
class Events:
    """Events in the order in which they are applied; ``at_us`` is from when on each counts, and never falls."""

    seq: Ints
    timestamp_us: Ints
    receipt_us: Ints
    at_us: Ints
    snapshot: Flags
    bids: Levels
    asks: Levels

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def nbytes(self) -> int:
        """Memory."""
        levels = sum(int(x.starts.nbytes + x.prices.nbytes + x.sizes.nbytes) for x in (self.bids, self.asks))
        return levels + len(self) * 33


def levels_of(prices: pa.ListArray, sizes: pa.ListArray) -> Levels:
    """Return the levels of rows; a null list has none.

    Raises:
        StorageError: a row has prices without sizes, or the other way round.
    """
    counts = pc.fill_null(pc.list_value_length(prices), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    others = pc.fill_null(pc.list_value_length(sizes), 0).to_numpy(zero_copy_only=False)
    if not np.array_equal(counts, others):
        raise StorageError("a row of l2_book has not as many sizes as prices.", hint="Look for it: len(bid_prices).")
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return Levels(starts, pc.list_flatten(prices), pc.list_flatten(sizes))


class _Ranked:
    """One side of a ladder: prices ranked, and for each rank which of the sizes counts, -1 for none."""

    def __init__(self, base: Side | None, levels: Levels, *, falling: bool) -> None:
        prices, sizes = [levels.prices], [levels.sizes]
        if base is not None:
            prices.insert(0, base.prices)
            sizes.insert(0, base.sizes)
        self._sizes = pa.concat_arrays(sizes)
        encoded = pc.dictionary_encode(pa.concat_arrays(prices), null_encoding="encode")
        order = pc.array_sort_indices(encoded.dictionary, order="descending" if falling else "ascending")
        self._prices = encoded.dictionary.take(order)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order.to_numpy()] = np.arange(len(order))
        self._ranks = rank[encoded.indices.to_numpy()]
        known = pc.and_(pc.greater(self._sizes, _zero(self._sizes.type)), pc.is_valid(self._sizes))
        self._stands = pc.fill_null(known, False).to_numpy(zero_copy_only=False)
        self._first = 0 if base is None else len(base)
        self._starts = levels.starts
        self._current = np.full(len(order), -1, dtype=np.int64)
        self._current[self._ranks[: self._first]] = np.arange(self._first)

    def apply(self, start: int, stop: int, *, anew: bool) -> None:
        """Apply events ``start`` to ``stop``, to an empty side with ``anew``."""
        if anew:
            self._current[:] = -1
        low, high = self._first + int(self._starts[start]), self._first + int(self._starts[stop])
        # of what is written to one place several times, the last stays
        self._current[self._ranks[low:high]] = np.arange(low, high)

    def side(self, depth: int | None) -> Side:
        """Return the levels that stand, at most ``depth``."""
        # -1 reads the last one's flag, which does not matter then
        stands = (self._current >= 0) & self._stands[self._current] if len(self._stands) else self._current >= 0
        ranks = np.flatnonzero(stands)[:depth]
        return Side(self._prices.take(pa.array(ranks)), self._sizes.take(pa.array(self._current[ranks])))


def _zero(kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(0).cast(kind)


class Ladder:
    """A book that events are applied to one after the other.

    Args:
        base: the book before the first of them, None if it is not known.
        events: what may be applied.
    """

    def __init__(self, base: Book | None, events: Events) -> None:
        self._base = base
        self._events = events
        self._bids = _Ranked(base.bids if base else None, events.bids, falling=True)
        self._asks = _Ranked(base.asks if base else None, events.asks, falling=False)
        self._known = base is not None
        self._snapshot_us = base.snapshot_us if base else 0
        self._applied = 0

    def advance(self, upto: int) -> None:
        """Apply events until ``upto`` of them are; those that are stay so."""
        start = self._applied
        if upto <= start:
            return
        snapshots = np.flatnonzero(self._events.snapshot[start:upto])
        anew = len(snapshots) > 0
        if anew:
            start += int(snapshots[-1])
            self._known, self._snapshot_us = True, int(self._events.receipt_us[start])
        for side in (self._bids, self._asks):
            side.apply(start, upto, anew=anew)
        self._applied = upto

    def book(self, depth: int | None = None) -> Book | None:
        """Return the book after what was applied, at most ``depth`` levels a side; None before any snapshot."""
        if not self._known:
            return None
        if self._applied == 0:
            assert self._base is not None
            timestamp, seq = self._base.timestamp_us, self._base.seq
        else:
            timestamp = int(self._events.timestamp_us[self._applied - 1])
            seq = int(self._events.seq[self._applied - 1])
        return Book(self._bids.side(depth), self._asks.side(depth), timestamp, seq, self._snapshot_us)
