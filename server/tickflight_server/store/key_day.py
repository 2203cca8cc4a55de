"""The keys of one table and UTC day: what is known in memory, and when parts have to be asked.

The rule of this file: of every row of the day, the key is in the recent keys, in the set, or in a part that is asked
whenever it could matter; so an answer never depends on what memory held.

Integers that rise. Exchanges count their trades, so nearly every batch goes up from where the last one ended. ``tops``
holds the greatest plain integer of each partition (``pair``: exchange and symbol); a row above the top, in a batch that
rises, is new, and nothing else has to be looked at.

Everything else is asked of the set, a ``KeySet`` of all kinds of keys of all partitions. It is made when it is first
needed, from the recent keys and from parts. Integers get into it when a row asks (``_catch_up``), so that a day without
such rows never pays for it, and when they are released, if rows ask often; texts get into it at once. Parts are read
into it when their keys could decide: for integers those whose range holds one that was asked for, for texts all with
texts. A part whose rows all came while the set was there (``min_seq``) is in it already. The set may be dropped at any
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickflight_server.errors import StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.store.key_columns import INTEGER, TEXT, Entries, Hasher, Ints, KeyRows, Mask, Pairs, join
from tickflight_server.store.key_parts import PartKeys, read_entries, read_part
from tickflight_server.store.key_recent import Chunk, RecentKeys
from tickflight_server.store.key_set import KeySet, first_of_each

_TRIES = 3  # parts may be replaced by others while they are read
_LOADED_SHARE = 0.75  # of the memory is filled from parts; the rest is for new rows
_ASKED_SHARE = 16  # a day of which one integer in so many is asked for goes into the set as it is released
_ENTRY_BYTES = 18  # with its share of the directory


@dataclass(frozen=True, eq=False)
class KeySource:
    """What all days of a table share: its key's ``columns``, and its parts by pair and day."""

    columns: tuple[str, ...]
    hasher: Hasher
    parts_of: Callable[[int, int], Sequence[Path]]
    bytes_max: int
    metrics: Metrics


@dataclass(frozen=True, eq=False)
class Verdict:
    """Which rows are new, None for all, and the entries of those new ones whose key is a text."""

    fresh: Mask | None
    texts: Entries


@dataclass(frozen=True, eq=False)
class _PartList:
    """The parts of a partition as they were at a release."""

    parts: tuple[PartKeys, ...]
    release: int


class DayKeys:
    """The keys of one day.

    Args:
        number: the day, counted from 1970-01-01.
        first_seq: all rows of the day with a lower ``seq`` are in parts.
        source: the table's.
    """

    def __init__(self, number: int, first_seq: int, source: KeySource) -> None:
        self._number = number
        self._source = source
        self._released = first_seq - 1  # rows after it are in the recent keys
        self._releases = 0
        self._asked = 0  # integers that the set was asked for since the last release
        self._integers = RecentKeys()  # pairs and values
        self._texts = RecentKeys()  # high and low
        self._lists: dict[int, _PartList] = {}
        # by pair: the greatest integer; the greatest in parts that the set lacks; are the two right, are texts complete
        self._tops: Ints = np.empty(0, np.int64)
        self._unread: Ints = np.empty(0, np.int64)
        self._learned: Mask = np.empty(0, bool)
        self._texts_read: Mask = np.empty(0, bool)
        self._set: KeySet | None = None
        self._read: set[Path] = set()  # parts that are in the set
        self._integers_from = self._texts_from = first_seq  # the set has all rows from these on

    @property
    def nbytes(self) -> int:
        """Memory that ``drop_set`` would free."""
        return 0 if self._set is None else self._set.nbytes

    @property
    def idle(self) -> bool:
        """Whether every row is in parts, so that the day may be forgotten."""
        return not self._integers.chunks and not self._texts.chunks

    def check(self, rows: KeyRows) -> Verdict:
        """Tell which of ``rows``, all of this day, are new; nothing is taken yet.

        Raises:
            StorageError: a part cannot be read.
        """
        self._grow(int(rows.pairs.max()) + 1)
        integers = rows.of_kind(INTEGER)
        if integers is None:
            return Verdict(self._check_integers(rows.pairs, rows.values), _NONE)
        fresh = np.ones(len(rows), bool)
        if len(integers):
            found = self._check_integers(rows.pairs[integers], rows.values[integers])
            if found is not None:
                fresh[integers] = found
        texts = _numbers(rows, TEXT)
        entries = _NONE
        if len(texts):
            entries = self._hash_texts(rows, texts)
            found = self._check_texts(rows.pairs[texts], entries)
            if found is not None:
                fresh[texts] = found
                entries = entries.take(found)
        return Verdict(None if fresh.all() else fresh, entries)

    def take(self, rows: KeyRows, verdict: Verdict | None, last_seq: int) -> None:
        """Take the keys of the new rows among ``rows``, of all without a ``verdict``; none has a greater ``seq``."""
        self._grow(int(rows.pairs.max()) + 1)
        if verdict is None:
            texts = _numbers(rows, TEXT)
            verdict = Verdict(None, self._hash_texts(rows, texts) if len(texts) else _NONE)
        pairs, values = rows.pairs, rows.values
        chosen = verdict.fresh
        if rows.kinds is not None:
            chosen = (rows.kinds == INTEGER) if chosen is None else chosen & (rows.kinds == INTEGER)
        if chosen is not None:
            pairs, values = pairs[chosen], values[chosen]
        if len(pairs):
            _raise_tops(self._tops, pairs, values)
            self._integers.append(Chunk((pairs, values), last_seq, indexed=False))
        if len(verdict.texts):
            if self._set is not None:
                self._set.add(verdict.texts)
            self._texts.append(Chunk((verdict.texts.high, verdict.texts.low), last_seq, indexed=True))

    def release(self, seq: int) -> None:
        """Let go of recent keys: rows up to ``seq`` are in parts now."""
        integers, texts = self._integers.drop(seq), self._texts.drop(seq)
        if self._set is not None and self._asked * _ASKED_SHARE >= sum(len(c.columns[0]) for c in integers):
            self._index([c for c in integers if not c.indexed])
        self._asked = 0
        if not integers and not texts:
            return
        self._releases += 1
        self._released = max(c.last_seq for c in (*integers, *texts))
        missed = [c.last_seq for c in integers if not c.indexed]
        if missed:
            self._integers_from = max(missed) + 1
            self._unread[:] = self._tops

    def drop_set(self) -> None:
        """Free the set; it is made again when it is needed."""
        self._set = None
        self._read.clear()
        self._texts_read[:] = False
        self._unread[:] = self._tops
        self._integers.forget_index()

    def _grow(self, pairs: int) -> None:
        more = pairs - len(self._tops)
        if more > 0:
            more += len(self._tops) // 2
            self._tops = np.r_[self._tops, np.full(more, -1, np.int64)]
            self._unread = np.r_[self._unread, np.full(more, -1, np.int64)]
            self._learned = np.r_[self._learned, np.zeros(more, bool)]
            self._texts_read = np.r_[self._texts_read, np.zeros(more, bool)]

    def _hash_texts(self, rows: KeyRows, texts: npt.NDArray[np.intp]) -> Entries:
        some = rows if len(texts) == len(rows) else rows.take(texts)
        return self._source.hasher.texts(some.columns, some.pairs)

    def _check_integers(self, pairs: Pairs, values: Ints) -> Mask | None:
        if not self._learned.all() and not self._learned[pairs].all():
            for pair in np.unique(pairs[~self._learned[pairs]]).tolist():
                self._with_parts(pair, self._learn)
        suspect = _suspects(self._tops, pairs, values)
        if suspect is None:
            return None
        rows = np.flatnonzero(suspect)
        pairs, values = pairs[rows], values[rows]
        entries = self._source.hasher.integers(values, pairs)
        fresh = first_of_each(entries)
        if fresh is None:
            fresh = np.ones(len(rows), bool)
        asked = np.flatnonzero(fresh & (values <= self._tops[pairs]))
        if len(asked):
            known = self._find_integers(pairs[asked], values[asked], entries.take(asked))
            fresh[asked[known]] = False
        if fresh.all():
            return None
        mask = np.ones(len(suspect), bool)
        mask[rows] = fresh
        return mask

    def _find_integers(self, pairs: Pairs, values: Ints, entries: Entries) -> Mask:
        """Return which of these integers were taken before: by the set, and by parts where it lacks some."""
        self._asked += len(pairs)
        known = self._catch_up().contains(entries)
        left = np.flatnonzero(~known & (values <= self._unread[pairs]))
        for pair, rows in _by_pair(pairs, left):
            least, greatest = int(values[rows].min()), int(values[rows].max())
            some = entries.take(rows)

            def find(
                pair: int,
                parts: tuple[PartKeys, ...],
                some: Entries = some,
                least: int = least,
                greatest: int = greatest,
            ) -> Mask:
                lacking = [p for p in parts if p.integers and not self._has(p, self._integers_from)]
                found = self._find_in(pair, [p for p in lacking if p.least <= greatest and p.greatest >= least], some)
                self._unread[pair] = max((p.greatest for p in lacking if p.path not in self._read), default=-1)
                return found

            known[rows] = self._with_parts(pair, find)
        return known

    def _check_texts(self, pairs: Pairs, entries: Entries) -> Mask | None:
        fresh = first_of_each(entries)
        held = self._open_set()
        known = np.zeros(len(pairs), bool)
        for pair, rows in _by_pair(pairs, np.flatnonzero(~self._texts_read[pairs])):
            some = entries.take(rows)

            def find(pair: int, parts: tuple[PartKeys, ...], some: Entries = some) -> Mask:
                lacking = [p for p in parts if p.texts and not self._has(p, self._texts_from)]
                found = self._find_in(pair, lacking, some)
                self._texts_read[pair] = all(p.path in self._read for p in lacking)
                return found

            known[rows] = self._with_parts(pair, find)
        known |= held.contains(entries)
        fresh = ~known if fresh is None else fresh & ~known
        return None if fresh.all() else fresh

    def _has(self, part: PartKeys, from_seq: int) -> bool:
        """Return whether the set has the part's keys, having all rows from ``from_seq`` on."""
        return part.path in self._read or part.min_seq >= from_seq

    def _open_set(self) -> KeySet:
        if self._set is None:
            self._set = KeySet()
            self._integers_from = self._texts_from = self._released + 1
            if self._texts.chunks:
                self._set.add(join([Entries(*c.columns) for c in self._texts.chunks]))
        return self._set

    def _catch_up(self) -> KeySet:
        """Return the set with all recent integers in it."""
        held = self._open_set()
        self._index([c for c in self._integers.chunks if not c.indexed])
        return held

    def _index(self, chunks: Sequence[Chunk]) -> None:
        """Put recent integers into the set."""
        if chunks:
            pairs, values = (np.concatenate(c) for c in zip(*(c.columns for c in chunks), strict=True))
            self._open_set().add(self._source.hasher.integers(values, pairs))
            for chunk in chunks:
                chunk.indexed = True

    def _find_in(self, pair: int, parts: Sequence[PartKeys], asked: Entries) -> Mask:
        """Return which of ``asked`` are in ``parts``; these go into the set as far as there is memory."""
        held = self._open_set()
        source = self._source
        room = source.bytes_max * _LOADED_SHARE - held.nbytes
        found = np.zeros(len(asked), bool)
        kept: list[Entries] = []
        paths: list[Path] = []
        for part in parts:
            entries = read_entries(part.path, source.columns, source.hasher, pair)
            source.metrics.add("dedup_parts_read")
            if part.rows * _ENTRY_BYTES <= room:
                room -= part.rows * _ENTRY_BYTES
                kept.append(entries)
                paths.append(part.path)
            else:
                alone = KeySet()
                alone.add(entries)
                found |= alone.contains(asked)
        if kept:
            held.add(join(kept))
            self._read.update(paths)
            found |= held.contains(asked)
        return found

    def _learn(self, pair: int, parts: tuple[PartKeys, ...]) -> Mask:
        greatest = max((p.greatest for p in parts), default=-1)
        self._tops[pair] = max(int(self._tops[pair]), greatest)
        self._unread[pair] = greatest
        self._learned[pair] = True
        return np.empty(0, bool)

    def _with_parts(self, pair: int, work: Callable[[int, tuple[PartKeys, ...]], Mask]) -> Mask:
        """Return what ``work`` finds with the parts of a partition, asking for them anew if one was replaced."""
        gone: OSError | None = None
        for _ in range(_TRIES):
            try:
                return work(pair, self._list(pair, anew=gone is not None))
            except FileNotFoundError as error:
                gone = error
            except (OSError, pa.ArrowException) as error:
                raise StorageError(f"cannot read the keys of a part: {str(error).splitlines()[0]}.") from None
        raise StorageError(f"a live part is missing: {str(gone).splitlines()[0]}.") from None

    def _list(self, pair: int, *, anew: bool) -> tuple[PartKeys, ...]:
        """Return the parts of a partition, at least those of the last release."""
        before = self._lists.get(pair)
        if before is not None and before.release == self._releases and not anew:
            return before.parts
        known = {p.path: p for p in before.parts} if before else {}
        paths = self._source.parts_of(pair, self._number)
        parts = tuple(known.get(path) or read_part(path, self._source.columns) for path in paths)
        self._lists[pair] = _PartList(parts, self._releases)
        return parts


_NONE = Entries(np.empty(0, np.uint64), np.empty(0, np.uint64))


def _numbers(rows: KeyRows, kind: int) -> npt.NDArray[np.intp]:
    numbers = rows.of_kind(kind)
    return np.arange(len(rows)) if numbers is None else numbers


def _raise_tops(tops: Ints, pairs: Pairs, values: Ints) -> None:
    first = pairs[0]
    if (pairs == first).all():
        tops[first] = max(tops[first], values.max())
    else:
        np.maximum.at(tops, pairs, values)


def _suspects(tops: Ints, pairs: Pairs, values: Ints) -> Mask | None:
    """Return the rows of those partitions whose integers do not rise from the top on, None if all do."""
    first = pairs[0]
    if (pairs == first).all():
        if values[0] > tops[first] and (values[1:] > values[:-1]).all():
            return None
        return np.ones(len(pairs), bool)
    narrow = pairs.astype(_narrow(len(tops)))  # sorted by radix, ten times as fast
    order = np.argsort(narrow, kind="stable")
    pair, value = narrow.take(order), values.take(order)
    heads = np.flatnonzero(pair[1:] != pair[:-1]) + 1
    rising = np.empty(len(value), bool)
    np.greater(value[1:], value[:-1], out=rising[1:])
    rising[heads] = value[heads] > tops[pair[heads]]
    rising[0] = value[0] > tops[pair[0]]
    if rising.all():
        return None
    marked = np.zeros(len(tops), bool)
    marked[pair[~rising]] = True
    return marked[pairs]


def _narrow(count: int) -> type[np.unsignedinteger[Any]] | type[np.int32]:
    """Return the smallest type that numbers below ``count`` fit in."""
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.int32


def _by_pair(pairs: Pairs, rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Yield each partition among ``rows`` and the numbers of its rows."""
    if not len(rows):
        return
    chosen = pairs[rows]
    order = np.argsort(chosen, kind="stable")
    cuts = np.flatnonzero(np.diff(chosen[order])) + 1
    for group in np.split(rows[order], cuts):
        yield int(pairs[group[0]]), group
