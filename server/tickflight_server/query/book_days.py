"""Books of any instant, from a day's slices of events and the books before them.

The rule of this file: rows never change, so what was made of them stays right as long as they are all that a call sees.
A day is used if it has as many rows as the call sees of it and the same last ``seq``; rows that came since are added,
and what cannot be added is made anew.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tickflight_server.query.book_cache import BookCache
from tickflight_server.query.book_order import Slice, counts_from, slices_of
from tickflight_server.query.book_reader import DAY_US, BookReader, Extent, Instrument, Sight
from tickflight_server.query.ladder import Book, Events, Flags, Ints, Ladder

RUN_SLICES = 16
"""Slices that are read at once when books are made one after the other."""

_numbers = itertools.count(1)


class OutdatedError(Exception):
    """A call without a pin sees less of a day than is kept of it already: it does better to look again."""


@dataclass(frozen=True, eq=False)
class Day:
    """A day of an instrument: its slices in order, and the numbers of the last one's events, which may become more.

    ``uid`` stays when events are added, ``version`` does not.
    """

    uid: int
    version: int
    extent: Extent
    slices: tuple[Slice, ...]
    starts: Ints
    snapshots: Flags
    tail: tuple[Ints, Ints, Flags]

    @property
    def nbytes(self) -> int:
        """Memory."""
        return sum(s.nbytes for s in self.slices) + sum(a.nbytes for a in (self.starts, self.snapshots, *self.tail))


def _day(uid: int, extent: Extent, closed: Sequence[Slice], rest: tuple[Ints, Ints, Flags]) -> Day:
    """Return the day of ``closed`` slices and of the events after them, given in order of ``seq``."""
    alone = not closed or int(rest[0][0]) > max(s.last_seq for s in closed)
    opened = slices_of(*rest, alone=alone)
    last, seq = opened[-1], rest[0]
    mask = np.isin(seq, last.seqs) if last.seqs is not None else (seq >= last.first_seq) & (seq <= last.last_seq)
    slices = (*closed, *opened)
    return Day(
        uid=uid,
        version=next(_numbers),
        extent=extent,
        slices=slices,
        starts=np.array([s.start_us for s in slices], dtype=np.int64),
        snapshots=np.array([s.snapshot_at >= 0 for s in slices], dtype=bool),
        tail=(seq[mask], rest[1][mask], rest[2][mask]),
    )


def _follow(closed: Sequence[Slice], seq: Ints, timestamp_us: Ints) -> bool:
    """Return whether events come after those of ``closed`` slices, in their order by moment and ``seq``."""
    least, end = int(counts_from(timestamp_us).min()), closed[-1].end_us
    return least > end or (least == end and int(seq[0]) > max(s.last_seq for s in closed))


class Place(NamedTuple):
    """A slice of the ``day``-th of the days that a call sees, or what is before it."""

    day: int
    slice: int


class BookDays:
    """Books of one store.

    Args:
        reader: reads the events.
        cache: keeps days, slices and books.
    """

    def __init__(self, reader: BookReader, cache: BookCache) -> None:
        self._reader = reader
        self._cache = cache
        self._locks = [threading.RLock() for _ in range(64)]

    def look(self, sight: Sight, what: Instrument, *, again: bool) -> Look:
        """Return the books of an instrument as a call sees them; with ``again`` it may look again."""
        return Look(self._reader, self._cache, self._locks[hash(what) % len(self._locks)], sight, what, again=again)


class Look:
    """The books of one instrument as one call sees them; not for use by two threads at once.

    With ``again`` it raises ``OutdatedError`` where others have kept what is newer than its snapshot.
    """

    def __init__(
        self, reader: BookReader, cache: BookCache, lock: Any, sight: Sight, what: Instrument, *, again: bool
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._lock = lock
        self._sight = sight
        self._what = what
        self._again = again
        self._extents = reader.days(sight, what)
        self._days = sorted(self._extents)
        self._known: dict[int, Day] = {}
        self._chains: dict[int, tuple[int, ...]] = {}

    @property
    def empty(self) -> bool:
        """Whether there are no events at all."""
        return not self._days

    def books(self, times_us: Sequence[int], depth: int) -> Iterator[Book | None]:
        """Yield the book at each of ``times_us``, which do not fall; None where no snapshot is before.

        It is the book after all events that count by then, at most ``depth`` levels a side.
        """
        for place, group in itertools.groupby(times_us, self._place):
            if place is None:
                yield from (None for _ in group)
                continue
            times = list(group)
            events = self._events(place)
            upto = np.searchsorted(events.at_us, times, side="right").tolist()
            anew = bool(events.snapshot[: upto[0]].any())
            ladder = Ladder(None if anew else self._before(place), events)
            for count in upto:
                ladder.advance(count)
                yield ladder.book(depth)
            if len(times) > 1:  # the next slice is likely to be next
                ladder.advance(len(events))
                self._keep(Place(place.day, place.slice + 1), ladder.book())

    # --- days

    def _place(self, time_us: int) -> Place | None:
        """Return day and slice of the last event that counts at a time."""
        upto = int(np.searchsorted(self._days, time_us // DAY_US, side="right"))
        for index in range(upto - 1, -1, -1):
            found = int(np.searchsorted(self._day(index).starts, time_us, side="right")) - 1
            if found >= 0:
                return Place(index, found)
        return None

    def _day(self, index: int) -> Day:
        """Return a day as this call sees it."""
        if index not in self._known:
            with self._alone():
                self._known[index] = self._found_or_made(self._days[index])
        return self._known[index]

    def _found_or_made(self, number: int) -> Day:
        extent = self._extents[number]
        newest: Hashable = (self._what, number)
        day: Day | None = self._cache.get(newest)
        key = newest
        if day is not None and day.extent.last_seq > extent.last_seq:  # a pin sees less than others do
            if self._again and self._sight.upto is None:
                raise OutdatedError
            key = (self._what, number, self._sight.upto)
            day = self._cache.get(key)
        if day is not None and day.extent == extent:
            return day
        made = self._extended(day, number, extent) if day is not None else None
        if made is None:
            made = _day(next(_numbers), extent, (), self._reader.index(self._sight, self._what, number))
        self._cache.put(key, made, made.nbytes)
        return made

    def _extended(self, day: Day, number: int, extent: Extent) -> Day | None:
        """Return a day with the rows that came since it was made; None if it has to be made anew."""
        if extent.last_seq <= day.extent.last_seq:
            return None
        seq, times, snapshots = self._reader.index(self._sight, self._what, number, day.extent.last_seq)
        if day.extent.rows + len(seq) != extent.rows:
            return None
        joined = [np.concatenate(pair) for pair in zip(day.tail, (seq, times, snapshots), strict=True)]
        closed = day.slices[:-1]
        if closed and not _follow(closed, joined[0], joined[1]):
            return None  # rows that came late, and belong before
        return _day(day.uid, extent, closed, (joined[0], joined[1], joined[2]))

    # --- slices and the books before them

    def _events(self, place: Place) -> Events:
        """Return a slice's events."""
        day = self._day(place.day)
        one = day.slices[place.slice]
        key = ("events", day.uid, place.slice, one.rows, one.last_seq)
        events: Events | None = self._cache.get(key)
        if events is None:
            events = self._reader.events(self._sight, self._what, [one])
            self._cache.put(key, events, events.nbytes)
        return events

    def _before(self, target: Place) -> Book | None:
        """Return the book before a slice, None if no snapshot is before it."""
        with self._alone():
            nearest = self._nearest(target)
            if nearest is None:
                return None
            place, book = nearest
            while place != target:
                place, book = self._rolled(place, book, target)
            return book

    def _nearest(self, place: Place) -> tuple[Place, Book | None] | None:
        """Return where to begin for the book before ``place``: a book that is kept, or None at a slice's snapshot."""
        for number in range(place.day, -1, -1):
            day = self._day(number)
            for before in range(place.slice if number == place.day else len(day.slices), 0, -1):
                book = self._cache.get(self._key(Place(number, before)))
                if book is not None:
                    return Place(number, before), book
                if day.snapshots[before - 1]:
                    return Place(number, before - 1), None
        return None

    def _rolled(self, place: Place, book: Book | None, target: Place) -> tuple[Place, Book | None]:
        """Apply a run of slices to the book before them; without one, from the last snapshot of the first on."""
        self._sight.stops.check()
        slices = self._day(place.day).slices
        stop = min(place.slice + RUN_SLICES, target.slice if target.day == place.day else len(slices))
        if place.slice == stop:
            return Place(place.day + 1, 0), book
        run = slices[place.slice : stop]
        events = self._reader.events(self._sight, self._what, run, whole=book is not None)
        ladder = Ladder(book, events)
        ends = np.cumsum([s.rows for s in run]) - (0 if book is not None else run[0].snapshot_at)
        for number, end in enumerate(ends.tolist(), place.slice + 1):
            ladder.advance(end)
            book = ladder.book()
            self._keep(Place(place.day, number), book)
        return Place(place.day, stop), book

    def _keep(self, place: Place, book: Book | None) -> None:
        if book is not None:
            self._cache.put(self._key(place), book, book.nbytes)

    def _key(self, place: Place) -> Hashable:
        """Return what the book before a place is kept under: all that it was made of."""
        day = self._day(place.day)
        made_of = None if day.snapshots[: place.slice].any() else self._chain(place.day)
        # the last slice may get more events
        version = day.version if place.slice == len(day.slices) else 0
        return "book", day.uid, place.slice, version, made_of

    def _chain(self, number: int) -> tuple[int, ...]:
        """Return the versions of the days before, back to one with a snapshot."""
        if number not in self._chains:
            found = []
            for before in range(number - 1, -1, -1):
                found.append(self._day(before).version)
                if self._day(before).snapshots.any():
                    break
            self._chains[number] = tuple(found)
        return self._chains[number]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let the block make what others would make, too; a call that waits for it can be stopped."""
        while not self._lock.acquire(timeout=0.05):
            self._sight.stops.check()
        try:
            yield
        finally:
            self._lock.release()
