"""Sets of ``seq``: which rows of a table are somewhere, for tables of any size.

The rule of this file: at most one bit a row. A stretch of 65,536 rows that are all there is one entry, so a table
without holes takes next to nothing; nothing here is done row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tickflight_server.store.parts import Ints

Range = tuple[int, int]
_BITS = 16
_SIZE = 1 << _BITS
_AT_ONCE = 4096  # short ranges, of a chunk's length at most
_FULL = np.ones(_SIZE, dtype=bool)
Mask = npt.NDArray[np.bool_]


class SeqSet:
    """A set of row numbers from 0 on; ranges are pairs of the first and the last, both included."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._chunks: dict[int, npt.NDArray[np.uint8] | None] = {}  # bits, None for all of them
        self.add_ranges(ranges)

    def copy(self) -> SeqSet:
        """Return a set of its own with the same rows."""
        other = SeqSet()
        other._chunks = dict(self._chunks)
        return other

    def _get(self, chunk: int) -> Mask:
        if chunk not in self._chunks:
            return np.zeros(_SIZE, dtype=bool)
        bits = self._chunks[chunk]
        return _FULL if bits is None else np.unpackbits(bits).view(bool)

    def _put(self, chunk: int, mask: Mask) -> None:
        self._chunks[chunk] = None if mask.all() else np.packbits(mask)

    def add(self, seq: Ints) -> Ints:
        """Add ``seq``; return, in order, those that were there before or are given twice."""
        seq = np.sort(np.asarray(seq, dtype=np.int64))
        twice = [seq[1:][seq[1:] == seq[:-1]]]
        for chunk, local in _split(seq):
            before = self._get(chunk)
            twice.append(local[before[local]] + (chunk << _BITS))
            mask = before.copy()
            mask[local] = True
            self._put(chunk, mask)
        return np.unique(np.concatenate(twice))

    def add_range(self, first: int, last: int) -> None:
        """Add all from ``first`` to ``last``."""
        for chunk in range(first >> _BITS, (last >> _BITS) + 1 if last >= first else 0):
            start = chunk << _BITS
            mask = self._get(chunk).copy()
            mask[max(0, first - start) : last - start + 1] = True
            self._put(chunk, mask)

    def add_ranges(self, ranges: Iterable[Range]) -> None:
        """Add all of ``ranges``; many short ones cost little more than their rows."""
        short: list[Range] = []
        for first, last in ranges:
            if last - first >= _SIZE:
                self.add_range(first, last)
            elif last >= first:
                short.append((first, last))
            if len(short) >= _AT_ONCE:
                self._add_short(short)
                short = []
        if short:
            self._add_short(short)

    def _add_short(self, ranges: list[Range]) -> None:
        bounds = np.array(ranges, dtype=np.int64)
        lengths = bounds[:, 1] - bounds[:, 0] + 1
        before = np.cumsum(lengths) - lengths
        self.add(np.arange(int(lengths.sum())) + np.repeat(bounds[:, 0] - before, lengths))

    def update(self, other: SeqSet) -> None:
        """Add all rows of ``other``."""
        for chunk in other._chunks:
            self._put(chunk, self._get(chunk) | other._get(chunk))

    def contains(self, seq: Ints) -> Mask:
        """Return which of ``seq``, in any order, are in the set."""
        seq = np.asarray(seq, dtype=np.int64)
        found = np.zeros(len(seq), dtype=bool)
        chunks = seq >> _BITS
        for chunk in np.unique(chunks).tolist():
            places = chunks == chunk
            found[places] = self._get(chunk)[seq[places] & (_SIZE - 1)]
        return found

    def missing(self, first: int, last: int) -> list[Range]:
        """Return the ranges from ``first`` to ``last`` that are not in the set, in order."""
        found: list[Range] = []
        place = first
        for start, end in self.ranges(first, last):
            if start > place:
                found.append((place, start - 1))
            place = end + 1
        if place <= last:
            found.append((place, last))
        return found

    def _between(self, first: int, last: int | None) -> list[int]:
        low, high = first >> _BITS, None if last is None else last >> _BITS
        if high is not None and high - low < len(self._chunks):
            return [chunk for chunk in range(low, high + 1) if chunk in self._chunks]
        return sorted(c for c in self._chunks if c >= low and (high is None or c <= high))

    def ranges(self, first: int = 0, last: int | None = None) -> Iterator[Range]:
        """Yield the ranges of the set that lie from ``first`` to ``last``, in order."""
        pending: Range | None = None
        for chunk in self._between(first, last):
            start = chunk << _BITS
            for low, high in _runs(self._get(chunk), start):
                low, high = max(low, first), high if last is None else min(high, last)
                if low > high:
                    continue
                if pending is not None and pending[1] + 1 == low:
                    pending = pending[0], high
                    continue
                if pending is not None:
                    yield pending
                pending = low, high
        if pending is not None:
            yield pending


def _split(seq: Ints) -> Iterator[tuple[int, Ints]]:
    """Yield each chunk that sorted ``seq`` touch, and their places in it."""
    if len(seq) == 0:
        return
    chunks = seq >> _BITS
    starts = np.flatnonzero(np.r_[True, chunks[1:] != chunks[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(seq)], strict=True):
        yield int(chunks[start]), seq[start:end] & (_SIZE - 1)


def _runs(mask: Mask, start: int) -> Iterator[Range]:
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False].astype(np.int8)))
    for low, end in edges.reshape(-1, 2).tolist():
        yield low + start, end - 1 + start


def to_ranges(seq: Ints) -> list[Range]:
    """Return ``seq``, in any order, as ranges."""
    seq = np.unique(seq)
    if len(seq) == 0:
        return []
    cuts = np.flatnonzero(np.diff(seq) > 1)
    firsts, lasts = seq[np.r_[0, cuts + 1]], seq[np.r_[cuts, len(seq) - 1]]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def count(ranges: Iterable[Range]) -> int:
    """Return how many rows ``ranges`` are."""
    return sum(last - first + 1 for first, last in ranges)


def show(ranges: list[Range], most: int = 5) -> str:
    """Return ``ranges`` as text, the first ``most`` of them."""
    text = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in ranges[:most])
    return f"{text} and {len(ranges) - most} more ranges" if len(ranges) > most else text
