"""The newest rows of a table for those who follow it: taken from memory, sieved once for all who want the same.

The rule of this file: a piece says up to which ``seq`` rows were looked at, so that nobody who goes from piece to piece
misses a row or sees one twice. What is kept for slower readers is bounded; rows that are not kept are taken again.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.clock import Clock
from tickflight_server.query.ordered import Piece
from tickflight_server.schemas import TIMESTAMP
from tickflight_server.store import Segment, Table

_ROWS_MAX = 65_536  # of a piece, before it is sieved
_MIB = 1 << 20

Refine = Callable[[pa.Table], pa.Table]
"""Gives those of some rows of a table that a query lets through, as it wants them, in their order."""


Permitted = Callable[[Segment, pa.RecordBatch], pa.RecordBatch]


def _whole(_: Segment, rows: pa.RecordBatch) -> pa.RecordBatch:
    return rows


@dataclass(frozen=True)
class Sieve:
    """Which rows and columns are wanted.

    Without ``refine``, the ``columns``, labels as plain text. ``schema`` is that of what comes out. ``permitted`` gives
    those of some rows of a segment that may be seen, in the columns that may.
    """

    schema: pa.Schema
    exchanges: frozenset[str] = frozenset()
    symbols: frozenset[str] = frozenset()
    since_us: int | None = None
    refine: Refine | None = None
    permitted: Permitted = _whole

    def __call__(self, rows: Sequence[tuple[Segment, pa.RecordBatch]]) -> pa.RecordBatch:
        """Return what is wanted of slices of segments, as one batch."""
        kept = [picked for segment, batch in rows if (picked := self._pick(segment, batch)).num_rows]
        if not kept:
            return _one(self.schema.empty_table())
        table = pa.Table.from_batches(kept)
        if self.refine is not None:
            return _one(self.refine(table))
        return _one(table.select(self.schema.names).cast(self.schema))

    def _pick(self, segment: Segment, batch: pa.RecordBatch) -> pa.RecordBatch:
        for column, wanted, held in (
            ("exchange", self.exchanges, segment.exchanges),
            ("symbol", self.symbols, segment.symbols),
        ):
            if not wanted or held <= wanted:
                continue
            if held.isdisjoint(wanted):
                return batch.slice(0, 0)
            batch = batch.filter(_is_one_of(batch.column(column), wanted))
        if self.since_us is not None and segment.min_us < self.since_us:
            batch = batch.filter(pc.greater_equal(batch.column("timestamp"), pa.scalar(self.since_us, TIMESTAMP)))
        return self.permitted(segment, batch) if batch.num_rows else batch


def _is_one_of(labels: pa.DictionaryArray, wanted: frozenset[str]) -> pa.Array:
    known = pc.is_in(labels.dictionary, pa.array(sorted(wanted), pa.string()))
    return known.take(labels.indices)


def _one(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


@dataclass
class Reader:
    """Somebody who follows a channel: rows up to ``seq`` are behind it."""

    seq: int


class Channel:
    """What all who want the same of a table's newest rows share; each goes from piece to piece at its own pace.

    Args:
        table: whose rows.
        sieve: makes of rows what is wanted.
        piece_bytes: aimed size of a piece, before it is sieved.
        kept_bytes: pieces that are kept for readers that have yet to take them.
    """

    def __init__(self, table: Table, sieve: Sieve, clock: Clock, *, piece_bytes: int, kept_bytes: int) -> None:
        self.table = table
        self._clock = clock
        self._sieve = sieve
        self._piece_bytes = piece_bytes
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._pieces: dict[int, Piece] = {}  # by the seq that they begin after, in the order in which they were made
        self._readers: list[Reader] = []
        self._newest = 0  # the last row of any piece
        self._made_s = 0.0
        self.interval_s = 0.0
        """Least time between two pieces of new rows, in seconds."""

    @property
    def schema(self) -> pa.Schema:
        """That of the pieces."""
        return self._sieve.schema

    def join(self, seq: int) -> Reader:
        """Return a new reader behind ``seq``."""
        reader = Reader(seq)
        with self._lock:
            self._readers.append(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Forget a reader, and what is kept for nobody else."""
        with self._lock:
            self._readers = [r for r in self._readers if r is not reader]
            self._forget()

    def due_s(self, reader: Reader) -> float:
        """Return for how long to wait before ``next``, in seconds; 0 for a piece that is there.

        New rows are taken once for all readers, and seldom enough that the readers keep up: what is sent too often
        waits in the network, unseen, for longer than it would here.
        """
        if reader.seq in self._pieces or reader.seq < self._newest:
            return 0.0
        return max(0.0, self._made_s + self.interval_s - self._clock.monotonic())

    def next(self, reader: Reader) -> Piece | None:
        """Return the piece after ``reader``; None if memory does not reach back so far, or there is none yet.

        The reader itself says when it is past the piece, by its ``seq``.
        """
        # a hundred readers that wake at once must not queue for a lock
        piece = self._pieces.get(reader.seq)
        if piece is not None:
            return piece
        with self._lock:
            piece = self._pieces.get(reader.seq)
            if piece is not None:
                return piece
            piece = self._make(reader.seq)
            if piece is None:
                return None
            if piece.seq > self._newest:
                self._newest, self._made_s = piece.seq, self._clock.monotonic()
            if len(self._readers) > 1:
                self._pieces[reader.seq] = piece
            self._forget()
            return piece

    def _make(self, after: int) -> Piece | None:
        state = self.table.state
        if not state.ring_from <= after < state.last_seq:
            return None
        # it ends where a piece begins that is kept, so that who was late comes to share again
        upto = min((start for start in self._pieces if start > after), default=state.last_seq)
        rows = take(state.segments, after, upto, self._piece_bytes)
        segment, batch = rows[-1]
        last = after + sum(b.num_rows for _, b in rows)
        assert batch.num_rows
        assert last <= segment.last_seq
        return Piece(self._sieve(rows), last)

    def _forget(self) -> None:
        """Let go of pieces that all readers have taken, and of the oldest ones when there are too many."""
        slowest = min((r.seq for r in self._readers), default=None)
        size = sum(piece.batch.nbytes for piece in self._pieces.values())
        for after, piece in list(self._pieces.items()):
            if slowest is None or after < slowest or size > self._kept_bytes:
                size -= piece.batch.nbytes
                del self._pieces[after]


def take(segments: Sequence[Segment], after: int, upto: int, bytes_max: int) -> list[tuple[Segment, pa.RecordBatch]]:
    """Return the rows after ``after``, up to ``upto`` or to about ``bytes_max``, as slices of dense ``segments``."""
    taken: list[tuple[Segment, pa.RecordBatch]] = []
    rows = size = 0
    place = bisect.bisect_right(segments, after, key=lambda s: s.last_seq)
    for segment in segments[place:]:
        first = max(segment.first_seq, after + 1)
        count = min(segment.last_seq, upto) - first + 1
        room = min(_ROWS_MAX - rows, (bytes_max - size) * segment.rows // max(1, segment.nbytes) + 1)
        if count <= 0 or room <= 0 or size >= bytes_max:
            break
        batch = segment.batch.slice(first - segment.first_seq, min(count, room))
        while batch.num_rows > 1 and batch.nbytes > 2 * bytes_max:  # its rows are much longer than the others
            batch = batch.slice(0, batch.num_rows // 2)
        taken.append((segment, batch))
        rows += batch.num_rows
        size += batch.nbytes
        if batch.num_rows < count:
            break
    return taken


@dataclass
class _Shared:
    channel: Channel
    close: Callable[[], None]
    users: int = 1


@dataclass
class Channels:
    """The channels that somebody follows, by what they give.

    ``batches_per_s`` is how many pieces all readers together are to be given a second.
    """

    clock: Clock
    kept_bytes: int = 8 * _MIB
    piece_bytes: int = 2 * _MIB
    batches_per_s: int = 2000
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _shared: dict[Hashable, _Shared] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._shared)

    def enter(self, key: Hashable, table: Table, make: Callable[[], AbstractContextManager[Sieve]]) -> Channel:
        """Return the channel for ``key``, which ``make`` gives the sieve of if there is none; ``leave`` it again."""
        with self._lock:
            shared = self._shared.get(key)
            if shared is not None:
                shared.users += 1
                self._pace()
                return shared.channel
            held = make()
            sieve = held.__enter__()
            channel = Channel(table, sieve, self.clock, piece_bytes=self.piece_bytes, kept_bytes=self.kept_bytes)
            self._shared[key] = _Shared(channel, lambda: _leave(held))
            self._pace()
            return channel

    def _pace(self) -> None:
        interval_s = sum(s.users for s in self._shared.values()) / self.batches_per_s
        for shared in self._shared.values():
            shared.channel.interval_s = interval_s

    def leave(self, key: Hashable) -> None:
        """Leave the channel for ``key``; what it holds goes with the last one who does."""
        with self._lock:
            shared = self._shared[key]
            shared.users -= 1
            if not shared.users:
                del self._shared[key]
            self._pace()
            if shared.users:
                return
        shared.close()


def _leave(held: AbstractContextManager[Sieve]) -> None:
    held.__exit__(None, None, None)
