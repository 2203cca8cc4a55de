"""One stored table at work: gives ``seq``, publishes durable rows, merges segments, and flushes them to parts.

The rule of this file: the state is replaced as a whole, under the table's lock; a row is published only after its log
record is durable, and leaves the ring only after the commit that put it in a part.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import pyarrow as pa

from tickflight_server.errors import LogCorruptError, StorageError
from tickflight_server.schemas import NumericType, TableSchema
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.partition import PartOptions, write_parts
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.record import AppendRecord
from tickflight_server.store.ring import Segment, add_seq, cut, find_merge, make_segment, merge
from tickflight_server.store.snapshot import TableSnapshot, TableState, take_snapshot


@dataclass(frozen=True)
class TableOptions:
    """How a table is kept; see ``LakehouseSettings`` for the meanings and units."""

    numeric: NumericType
    segment_rows: int
    parts: PartOptions


class Table:
    """One stored table. Threads: the committer publishes, the merger merges, the flusher flushes, anyone reads."""

    def __init__(self, schema: TableSchema, folder: Path, writer: UUID, options: TableOptions) -> None:
        self.schema = schema
        self._folder = folder
        self._options = options
        self._memory_schema = schema.arrow(options.numeric, memory=True)
        self._part_schema = schema.arrow(options.numeric)
        self._catalog = TableCatalog(folder, schema, writer, options.numeric)
        self._lock = threading.Lock()
        self._state = TableState()
        self._producers: dict[bytes, int] = {}
        self._published: dict[bytes, int] = {}  # since the last flush
        self._unsettled = False  # a flush failed: it may have left files, or even its commit
        self.next_seq = 1
        self._loaded_seq = 0

    def load(self) -> int:
        """Read the newest table version; return the flushed ``seq``, from which on the log is to be replayed."""
        index, flushed = self._catalog.load()
        bounds = (flushed,) if flushed else ()
        self._state = TableState((), flushed, index, flushed, self._catalog.version, bounds)
        self.next_seq = flushed + 1
        self._loaded_seq = flushed
        return flushed

    def remove_orphans(self) -> None:
        """Delete what flushes that died left behind; to be called once the log is replayed.

        Raises:
            StorageError: there are parts that neither a table version nor the log accounts for.
        """
        state = self._state
        self._catalog.remove_orphans(set(state.parts.path.tolist()), self._loaded_seq, state.last_seq)

    @property
    def state(self) -> TableState:
        """The state now."""
        return self._state

    def snapshot(self) -> TableSnapshot:
        """Return a consistent cut over the table as it is now."""
        return take_snapshot(self.schema, self._state)

    def producer_sequence(self, producer: bytes) -> int:
        """Return the last sequence taken from ``producer``, 0 if none; the caller holds the store's append lock."""
        known = self._producers.get(producer)
        if known is None:
            known = self._catalog.producer_sequence(producer)
            self._producers[producer] = known
        return known

    def note_producer(self, producer: bytes, sequence: int) -> None:
        """Remember that ``producer``'s batches up to ``sequence`` were taken; the caller holds the append lock."""
        self._producers[producer] = max(sequence, self.producer_sequence(producer))

    def replay(self, record: AppendRecord) -> None:
        """Publish a record of the log that is not in parts; nothing else may use the table meanwhile.

        Raises:
            LogCorruptError: rows before it are missing.
            StorageError: its columns are not the table's.
        """
        if record.first_seq != self.next_seq:
            raise LogCorruptError(
                f"the log lacks rows {self.next_seq} to {record.first_seq - 1} of table {self.schema.name}.",
                hint="A log file or a table version is missing: restore the folder from a backup.",
            )
        batch = record.batch()
        if not batch.schema.equals(self.schema.arrow_input(self._options.numeric, memory=True)):
            raise StorageError(
                f"the log holds rows of table {self.schema.name} in other columns than the table has now.",
                hint="lakehouse.numeric_type must stay what it was when the rows were stored.",
            )
        self.publish(record.first_seq, batch, record.producer, record.sequence)
        self.next_seq = record.last_seq + 1
        # nobody merges in the background yet, and every step costs as many steps as there are segments
        while self.merge_once():
            pass

    def publish(self, first_seq: int, batch: pa.RecordBatch, producer: bytes = b"", sequence: int = 0) -> None:
        """Make durable rows visible: ``batch`` without ``seq``, whose first row gets ``first_seq``."""
        numbered = add_seq(batch, self._memory_schema, first_seq)
        segments = tuple(make_segment(piece) for piece in cut(numbered, self._options.segment_rows))
        with self._lock:
            state = self._state
            assert state.last_seq + 1 == first_seq, "rows are published in order of seq"
            self._state = replace(state, segments=state.segments + segments)
            if producer:
                self._published[producer] = sequence

    def merge_once(self) -> bool:
        """Merge one run of small neighbours, if there is one; return whether there was."""
        state = self._state
        run = find_merge(state.segments, state.bounds, self._options.segment_rows)
        if not run:
            return False
        merged = merge(run)
        with self._lock:
            self._state = _replace_run(self._state, run, merged)
        return True

    def flush(self) -> int:
        """Write the rows that are in no part to parts and commit them; return how many rows.

        The commit also records the last sequence of each producer whose rows are in it, so that a batch sent again
        is recognised after the log has let go of it.

        Raises:
            StorageError: writing or committing failed; the rows stay where they are and are flushed by a later call.
        """
        if self._unsettled:
            self._settle()
        with self._lock:
            state = self._state
            target = state.last_seq
            if target == state.flushed_seq:
                return 0
            self._state = replace(state, bounds=_with_bound(state.bounds, target))
            producers = dict(self._published)
        batches = [s.batch for s in state.segments if s.first_seq > state.flushed_seq]
        rows: int = sum(b.num_rows for b in batches)
        assert rows == target - state.flushed_seq
        self._unsettled = True
        parts = write_parts(self._folder, batches, self._part_schema, self._options.parts)
        self._catalog.commit(parts, target, producers)
        self._unsettled = False
        with self._lock:
            self._state = self._flushed(self._state.parts.extended(parts), target)
            for producer, sequence in producers.items():
                if self._published.get(producer) == sequence:
                    del self._published[producer]
        return rows

    def _settle(self) -> None:
        """Find out what a failed flush left: its commit may be there all the same, and then its rows are in parts."""
        index, flushed = self._catalog.load()
        with self._lock:
            before = self._state.flushed_seq
            if flushed > before:
                self._state = self._flushed(index, flushed)
        if flushed < before:
            raise StorageError(
                f"table {self.schema.name} went back from row {before} to {flushed} while it was in use.",
                hint="Something else changed the folder: stop the server and restore it from a backup.",
            )
        self.remove_orphans()
        self._unsettled = False

    def _flushed(self, parts: PartIndex, target: int) -> TableState:
        """Return the state once the rows up to ``target`` are in ``parts``; the caller holds the lock."""
        now = self._state
        # the bound of a flush that failed before this one lies inside this one's parts
        bounds = (b for b in now.bounds if b <= now.flushed_seq or b >= target)
        kept = _thin(bounds, now.ring_from, target, self._options.segment_rows)
        return replace(now, parts=parts, flushed_seq=target, version=self._catalog.version, bounds=kept)

    def release_oldest(self) -> int:
        """Let go of the oldest flushed run of segments; return its bytes, 0 if all rows here are only in the ring."""
        with self._lock:
            state = self._state
            cuts = [b for b in state.bounds if state.ring_from < b <= state.flushed_seq]
            if not cuts:
                return 0
            gone = [s for s in state.segments if s.last_seq <= cuts[0]]
            kept = tuple(s for s in state.segments if s.last_seq > cuts[0])
            bounds = tuple(b for b in state.bounds if b >= cuts[0])
            self._state = replace(state, segments=kept, ring_from=cuts[0], bounds=bounds)
            return sum(s.nbytes for s in gone)

    def oldest_held(self) -> int | None:
        """Return the newest timestamp (µs) of the oldest run that could be released, None if there is none."""
        state = self._state
        cuts = [b for b in state.bounds if state.ring_from < b <= state.flushed_seq]
        if not cuts:
            return None
        return max(s.max_us for s in state.segments if s.last_seq <= cuts[0])


def _with_bound(bounds: tuple[int, ...], seq: int) -> tuple[int, ...]:
    return bounds if seq in bounds else (*bounds, seq)


def _thin(bounds: Iterable[int], ring_from: int, flushed_seq: int, rows_max: int) -> tuple[int, ...]:
    """Return ``bounds`` without those between small flushes, whose rows together are at most ``rows_max``.

    Segments may then be merged across, and a quiet table does not gather a segment with every flush. The bound of the
    newest flush always stays.
    """
    kept: list[int] = []
    for bound in bounds:
        before = kept[-2] if len(kept) > 1 else ring_from
        if kept and bound <= flushed_seq and bound - before <= rows_max:
            kept.pop()
        kept.append(bound)
    return tuple(kept)


def _replace_run(state: TableState, run: Sequence[Segment], merged: Segment) -> TableState:
    """Return ``state`` with ``merged`` for ``run``, or unchanged if the run was released or cut meanwhile."""
    segments = state.segments
    try:
        start = next(i for i, s in enumerate(segments) if s is run[0])
    except StopIteration:
        return state
    if any(merged.first_seq <= b < merged.last_seq for b in state.bounds):
        return state
    return replace(state, segments=(*segments[:start], merged, *segments[start + len(run) :]))
