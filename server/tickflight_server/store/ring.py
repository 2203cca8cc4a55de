"""The ring: the newest rows of one table in memory, as immutable segments in order of ``seq``.

The rule of this file: a segment never changes; merging makes a new one with exactly the rows of its neighbours. A scan
then meets few large segments, and each knows its times and symbols, so that a query can leave it out.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MERGE_FAN_IN = 8
MERGE_MANY = 64  # so many neighbours are merged, whatever their sizes
_TIERS = (512, 4_096, 32_768)  # rows; where size classes end, eight of one make one of the next
_MERGED_BYTES_MAX = 64 << 20  # books have long rows: merging must neither copy for long nor overflow 32-bit offsets


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows ``first_seq`` … ``last_seq`` of a table in its schema in memory, ``seq`` dense but for held rows.

    ``min_us`` and ``max_us`` bound the timestamps in microseconds since 1970; ``exchanges`` and ``symbols`` are the
    sets of values that occur.
    """

    batch: pa.RecordBatch
    first_seq: int
    last_seq: int
    min_us: int
    max_us: int
    exchanges: frozenset[str]
    symbols: frozenset[str]
    nbytes: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return int(self.batch.num_rows)


def make_segment(batch: pa.RecordBatch, *, dense: bool = True) -> Segment:
    """Return the segment that holds ``batch``, which has ``seq`` and at least one row.

    Held rows are not ``dense``: they are some of those from ``first_seq`` to ``last_seq``, in any order.
    """
    seq = pc.min_max(batch.column("seq"))
    first, last = seq["min"].as_py(), seq["max"].as_py()
    assert not dense or last - first + 1 == batch.num_rows
    times = pc.min_max(batch.column("timestamp"))
    return Segment(
        batch=batch,
        first_seq=first,
        last_seq=last,
        min_us=times["min"].value,
        max_us=times["max"].value,
        exchanges=_distinct(batch.column("exchange")),
        symbols=_distinct(batch.column("symbol")),
        nbytes=batch.nbytes,
    )


def _distinct(column: pa.DictionaryArray) -> frozenset[str]:
    if column.null_count:
        used = pc.unique(column.indices).drop_null()
    else:
        used = pa.array(np.flatnonzero(np.bincount(column.indices.to_numpy(), minlength=1)))
    return frozenset(column.dictionary.take(used).to_pylist())


def add_seq(batch: pa.RecordBatch, schema: pa.Schema, first_seq: int) -> pa.RecordBatch:
    """Return ``batch`` with ``seq`` from ``first_seq`` on as its last column, in ``schema``."""
    seq = pa.array(np.arange(first_seq, first_seq + batch.num_rows, dtype=np.int64))
    return pa.RecordBatch.from_arrays([*batch.columns, seq], schema=schema)


def cut(batch: pa.RecordBatch, rows_max: int) -> Iterable[pa.RecordBatch]:
    """Yield ``batch`` in pieces of at most ``rows_max`` rows, copying nothing."""
    for start in range(0, batch.num_rows, rows_max):
        yield batch.slice(start, rows_max)


def merge(segments: Sequence[Segment]) -> Segment:
    """Return one segment with the rows of neighbouring ``segments``."""
    assert all(a.last_seq + 1 == b.first_seq for a, b in pairwise(segments))
    table = pa.Table.from_batches([s.batch for s in segments]).unify_dictionaries().combine_chunks()
    (batch,) = table.to_batches()
    return Segment(
        batch=batch,
        first_seq=segments[0].first_seq,
        last_seq=segments[-1].last_seq,
        min_us=min(s.min_us for s in segments),
        max_us=max(s.max_us for s in segments),
        exchanges=frozenset().union(*(s.exchanges for s in segments)),
        symbols=frozenset().union(*(s.symbols for s in segments)),
        nbytes=batch.nbytes,
    )


def _tier(rows: int) -> int:
    return bisect.bisect_right(_TIERS, rows)


def find_merge(segments: Sequence[Segment], bounds: Iterable[int], full_rows: int) -> Sequence[Segment]:
    """Return the neighbours that should become one segment next, or an empty sequence.

    Eight or more of one size class are merged, with the smaller ones between them, the smallest class first; so a row
    is copied about once a class. No merge crosses a ``seq`` in ``bounds``, where a flush has cut or is cutting, and
    none makes a segment of more than ``full_rows`` rows or 64 MiB; neighbours that reach half of that and cannot take
    their next one are merged, too, unless each reaches half alone.
    """
    limits = set(bounds)
    tiers = [_tier(s.rows) for s in segments]
    for level in range(len(_TIERS) + 1):
        for run in _runs(segments, tiers, level, limits, full_rows):
            count = run.stop - run.start
            if count > 1 and (
                run.full or count >= MERGE_MANY or tiers[run.start : run.stop].count(level) >= MERGE_FAN_IN
            ):
                return segments[run.start : run.stop]
    return ()


@dataclass(frozen=True)
class _Run:
    """Neighbours ``start`` to ``stop`` (excluded); ``full``: they are large together, and the next one does not fit."""

    start: int
    stop: int
    full: bool


def _runs(
    segments: Sequence[Segment], tiers: Sequence[int], level: int, limits: set[int], full_rows: int
) -> Iterator[_Run]:
    """Yield the longest runs of neighbours of at most size class ``level`` that may be merged."""
    start = rows = nbytes = 0
    for index, segment in enumerate(segments):
        small = tiers[index] <= level
        fits = rows + segment.rows <= full_rows and nbytes + segment.nbytes <= _MERGED_BYTES_MAX
        if not small or not fits or (index > start and segments[index - 1].last_seq in limits):
            large = rows * 2 >= full_rows or nbytes * 2 >= _MERGED_BYTES_MAX
            halves = rows * 2 >= (index - start) * full_rows  # each is of a good size for scans: not worth a copy
            yield _Run(start, index, large and small and not fits and not halves)
            start, rows, nbytes = (index if small else index + 1), 0, 0
        if small:
            rows += segment.rows
            nbytes += segment.nbytes
    yield _Run(start, len(segments), False)
