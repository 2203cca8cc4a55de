"""Several sorted streams of batches as one: chunks, and which stream each event in turn comes from.

The rule of this file: nothing here asks a server or looks at a clock; work is done on arrays, once a chunk, and of each
stream one batch is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

KEYS = ("timestamp", "receipt_timestamp", "seq")
Ints = npt.NDArray[np.int64]
Key = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ReplayChunk:
    """Events that follow each other, of all tables of a replay.

    ``batches`` has each table's rows in order, none for a table without an event here. ``order`` has for each event in
    turn the place of its table among ``tables``, and ``times`` its timestamp in microseconds since 1970 UTC.
    ``late_s``: how long ago the first event was due, in seconds; 0 for a replay at full speed.
    """

    tables: tuple[str, ...]
    batches: Mapping[str, pa.RecordBatch]
    order: npt.NDArray[np.uint8]
    times: Ints
    late_s: float = 0.0

    def __len__(self) -> int:
        return len(self.order)

    def runs(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield table and rows in strict order of time: as many rows at once as no other table's come between."""
        if not len(self):
            return
        ends = np.flatnonzero(np.diff(self.order)) + 1
        taken = [0] * len(self.tables)
        for start, end in pairwise([0, *ends.tolist(), len(self)]):
            place = int(self.order[start])
            table = self.tables[place]
            yield table, self.batches[table].slice(taken[place], end - start)
            taken[place] += end - start

    def head(self, events: int) -> tuple[ReplayChunk, ReplayChunk]:
        """Return the first ``events`` and the others, each as a chunk."""
        counts = np.bincount(self.order[:events], minlength=len(self.tables)).tolist()
        first, rest = {}, {}
        for table, count in zip(self.tables, counts, strict=True):
            first[table] = self.batches[table].slice(0, count)
            rest[table] = self.batches[table].slice(count)
        return (
            ReplayChunk(self.tables, first, self.order[:events], self.times[:events]),
            ReplayChunk(self.tables, rest, self.order[events:], self.times[events:]),
        )


class _Stream:
    """A sorted stream: the batch that is looked at, its keys, and how far it was taken."""

    def __init__(self, batches: Iterator[pa.RecordBatch], columns: Sequence[str]) -> None:
        self._batches = batches
        self._columns = list(columns)
        self.taken = 0
        self.next()

    def next(self) -> None:
        """Look at the next batch with rows, or find that there is none."""
        self.taken = 0
        for batch in self._batches:
            if batch.num_rows:
                self.batch: pa.RecordBatch | None = batch.select(self._columns)
                self.keys = tuple(_numbers(batch.column(name)) for name in KEYS)
                return
        self.batch = None

    def last(self) -> Key:
        """Return the key of the last row of the batch that is looked at."""
        time, receipt, seq = (int(key[-1]) for key in self.keys)
        return time, receipt, seq

    def upto(self, limit: Key, *, equal: bool) -> int:
        """Return how many rows of the batch are below ``limit``, or ``equal`` to it."""
        low, high = self.taken, len(self.keys[0])
        for key, value in zip(self.keys, limit, strict=True):
            rows = key[low:high]
            low, high = low + int(np.searchsorted(rows, value)), low + int(np.searchsorted(rows, value, side="right"))
        return high if equal else low

    def take(self, upto: int) -> tuple[pa.RecordBatch, tuple[Ints, ...]]:
        """Return the rows up to place ``upto`` with their keys, and let go of them."""
        assert self.batch is not None
        start, self.taken = self.taken, upto
        return self.batch.slice(start, upto - start), tuple(key[start:upto] for key in self.keys)


def merge(streams: Mapping[str, Iterator[pa.RecordBatch]], schemas: Mapping[str, pa.Schema]) -> Iterator[ReplayChunk]:
    """Yield the rows of ``streams``, each sorted by ``KEYS``, in order of ``KEYS`` and then of the streams.

    ``schemas`` have the columns of each stream that are handed on. A chunk ends where the first batch does.
    """
    tables = tuple(streams)
    opened = [_Stream(batches, schemas[table].names) for table, batches in streams.items()]
    empty = {
        table: pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
        for table, schema in schemas.items()
    }
    while any(stream.batch is not None for stream in opened):
        limit, place = min((s.last(), i) for i, s in enumerate(opened) if s.batch is not None)
        batches: dict[str, pa.RecordBatch] = {}
        keys: list[tuple[Ints, ...]] = []
        for i, (table, stream) in enumerate(zip(tables, opened, strict=True)):
            if stream.batch is None:
                batches[table] = empty[table]
                keys.append((_NONE,) * len(KEYS))
                continue
            batches[table], taken = stream.take(stream.upto(limit, equal=i <= place))
            keys.append(taken)
        opened[place].next()
        yield ReplayChunk(tables, batches, *_order(keys))


_NONE = np.empty(0, dtype=np.int64)


def _order(keys: Sequence[Sequence[Ints]]) -> tuple[npt.NDArray[np.uint8], Ints]:
    """Return which stream each row in turn is of, and the rows' timestamps in that order."""
    sizes = [len(key[0]) for key in keys]
    owners = np.repeat(np.arange(len(keys), dtype=np.uint8), sizes)
    times = np.concatenate([key[0] for key in keys])
    if sum(size > 0 for size in sizes) > 1:
        # stable: within a stream rows keep their order, and streams theirs
        order = np.argsort(times, kind="stable")
        same = np.diff(times[order]) == 0
        if np.any(same & (np.diff(owners[order]) != 0)):  # two tables have events at one time
            others = [np.concatenate([key[i] for key in keys]) for i in (2, 1)]
            order = np.lexsort((owners, *others, times))
        owners, times = owners[order], times[order]
    return owners, times


def _numbers(column: pa.Array) -> Ints:
    values: Any = column.cast(pa.int64()) if column.type != pa.int64() else column
    numbers: Ints = values.to_numpy()
    return numbers
