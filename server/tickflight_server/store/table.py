"""One stored table at work: gives ``seq``, publishes durable rows, merges segments, and flushes them to parts.

The rule of this file: the state is replaced as a whole, under the table's lock; a row is published only after its log
record is durable, and leaves memory only after the commit that put it in a part. The page is proto-notes/flush.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pyarrow as pa

from tickflight_server.errors import LogCorruptError, StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.schemas import NumericType, TableSchema
from tickflight_server.store.arrivals import Arrivals
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.evolution import adapt
from tickflight_server.store.flushing import FlushPolicy, Reason, Waiting
from tickflight_server.store.keys import KeyIndex, TableKeys
from tickflight_server.store.partition import Part, Partitioned, PartOptions, PartWriter, partition_rows
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.producers import ProducerMarks
from tickflight_server.store.record import AppendRecord
from tickflight_server.store.ring import Segment, add_seq, cut, find_merge, make_segment, merge
from tickflight_server.store.snapshot import TableSnapshot, TableState, replace_run, take_snapshot, thin, with_bound

_WRITERS = 4  # threads that write the parts of a flush; each keeps some memory of its own


@dataclass(frozen=True)
class TableOptions:
    """How a table is kept; see ``LakehouseSettings`` for the meanings and units."""

    numeric: NumericType
    segment_rows: int
    parts: PartOptions
    policy: FlushPolicy = field(default_factory=FlushPolicy)
    keep_hours: float = 24.0
    dedup_bytes: int = 256 << 20
    local: Callable[[str, str], Path] | None = None
    """Where the contents of a part that lives in another place can be read, by table and path."""


class Table:
    """One stored table.

    Threads: the committer publishes, the merger merges, the flusher flushes and releases, the keeper (compaction,
    retention, tiering) rewrites, anyone reads.
    """

    def __init__(
        self, schema: TableSchema, folder: Path, writer: UUID, options: TableOptions, metrics: Metrics | None = None
    ) -> None:
        self.schema = schema
        self.folder = folder
        self._options = options
        self._memory_schema = schema.arrow(options.numeric, memory=True)
        self.part_schema = schema.arrow(options.numeric)
        self.catalog = TableCatalog(folder, schema, writer, options.numeric, options.keep_hours)
        self._lock = threading.Lock()
        self._commit_lock = threading.RLock()  # one commit to the table at a time
        self._state = TableState()
        self.arrivals = Arrivals()
        self._waiting = Waiting(self._memory_schema)  # rows up to the state's target that are in no part
        self._bound_times: dict[int, float] = {}
        self.producers = ProducerMarks(self.catalog.producer_sequence)
        self._unsettled: list[Part] | None = None  # a commit failed: it may be there, with these parts, or not
        keys = None
        if options.parts.dedup:
            keys = KeyIndex(
                options.parts.dedup, self._part_paths, bytes_max=options.dedup_bytes, metrics=metrics or Metrics()
            )
        self._keys = TableKeys(keys)
        self._replayed: list[pa.RecordBatch] = []  # waiting rows on their way from the log
        self._position = 0  # seq of the newest row that is published or replayed
        self.next_seq = 1

    # --- start

    def load(self) -> int:
        """Read the newest table version; return the flushed ``seq``, from which on the log is to be replayed."""
        self.catalog.mend()
        index, flushed = self.catalog.load()
        target = max([flushed, *index.last.tolist()])
        self._state = TableState(
            ring_from=target, parts=index, flushed_seq=flushed, target=target, version=self.catalog.version
        )
        self._position = flushed
        self.next_seq = flushed + 1
        if flushed == target:
            self._hold_waiting()
        return flushed

    def replay(self, record: AppendRecord) -> int:
        """Take the rows of a record of the log that are in no part; nothing else may use the table meanwhile.

        Return how many rows those were.

        Raises:
            LogCorruptError: rows before it are missing.
            StorageError: its columns cannot become the table's.
        """
        if record.first_seq > self.next_seq:
            raise LogCorruptError(
                f"the log lacks rows {self.next_seq} to {record.first_seq - 1} of table {self.schema.name}.",
                hint="A log file or a table version is missing: restore the folder from a backup.",
            )
        if record.last_seq < self.next_seq:
            return 0  # in two files: starts used to write it once more into the next one
        try:
            batch = adapt(record.batch(), self.schema.arrow_input(self._options.numeric, memory=True))
        except pa.ArrowException as error:
            raise StorageError(
                f"the log holds rows of table {self.schema.name} that do not fit it now: {str(error).splitlines()[0]}.",
                hint="lakehouse.numeric_type must stay what it was when the rows were stored.",
            ) from None
        batch = batch.slice(self.next_seq - record.first_seq)
        first, target = self.next_seq, self._state.target
        known = max(0, min(batch.num_rows, target - first + 1))
        kept = self._replay_flushed(add_seq(batch.slice(0, known), self._memory_schema, first)) if known else 0
        self._position = first + known - 1
        if known and self._position == target:
            self._hold_waiting()
        if known < batch.num_rows:
            kept += batch.num_rows - known
            self.publish(first + known, batch.slice(known), record.producer, record.sequence)
        self.next_seq = record.last_seq + 1
        # nobody merges in the background yet, and every step costs as many steps as there are segments
        while self.merge_once():
            pass
        return kept

    def _replay_flushed(self, batch: pa.RecordBatch) -> int:
        """Keep those rows of ``batch`` that the flushes which looked at them left out."""
        missing = batch.filter(pa.array(self._state.parts.misses(pa.Table.from_batches([batch]))))
        if missing.num_rows:
            state = self._state
            rows, nbytes = state.leftover_rows + missing.num_rows, state.leftover_bytes + missing.nbytes
            self._replayed.append(missing)
            self._state = replace(state, leftover_rows=rows, leftover_bytes=nbytes)
        return int(missing.num_rows)

    def _gather_replayed(self) -> None:
        """Put what was replayed one by one in order, all at once."""
        if self._replayed:
            table = pa.Table.from_batches(self._replayed).unify_dictionaries().combine_chunks()
            self._replayed = []
            self._set_waiting(self._waiting.added(table.to_batches(), self._state.parts, 0.0))

    def _hold_waiting(self) -> None:
        """All rows that flushes looked at are replayed: those that they left out are what memory holds of them."""
        self._gather_replayed()
        state = self._state
        held = self._hold(self._waiting.table)
        self._state = replace(state, held=held, bounds=(state.target,) if state.target else ())

    def check_replayed(self) -> None:
        """To be called at the end of the log.

        Raises:
            LogCorruptError: the log ended before rows that a flush has seen.
        """
        if self._position < self._state.target:
            raise LogCorruptError(
                f"the log lacks rows {self.next_seq} to {self._state.target} of table {self.schema.name}.",
                hint="Its newest file is missing: restore the folder from a backup.",
            )
        self._restore_keys()

    # --- reading

    @property
    def state(self) -> TableState:
        """The state now."""
        return self._state

    def snapshot(self, upto: int | None = None) -> TableSnapshot:
        """Return a consistent cut over the table as it is now, or over its rows up to seq ``upto``."""
        return take_snapshot(self.schema, self._state, upto)

    def snapshot_at(self, version: int) -> TableSnapshot:
        """Return the rows in the parts of table version ``version``.

        Raises:
            NotFoundError: there is no such version, or it is not kept any more.
        """
        index = self.catalog.at_version(version)
        last = int(index.max_seq.max()) if len(index) else 0
        return TableSnapshot(self.schema, (), index, version, last)

    # --- appending

    def forget_unpublished(self) -> None:
        """Forget what was taken and never became durable; the caller holds the append lock."""
        with self._lock:
            self.producers.forget_unpublished()
            self.next_seq = self._position + 1
        self._restore_keys()

    def fresh(self, batch: pa.RecordBatch, first_seq: int) -> pa.RecordBatch:
        """Return the rows of ``batch`` whose keys no stored row has, and take these; the caller holds the append lock.

        Raises:
            StorageError: a part that may have such a key cannot be read.
        """
        return self._keys.fresh(batch, first_seq, self._state.flushed_seq)

    def _restore_keys(self) -> None:
        with self._lock:
            state, position, waiting = self._state, self._position, self._waiting.table
        batches = [s.batch for s in state.segments if s.last_seq > state.target]
        rows = pa.concat_tables([waiting, pa.Table.from_batches(batches, schema=self._memory_schema)])
        self._keys.restore(rows, position, state.flushed_seq)

    def _part_paths(self, exchange: str, symbol: str, day: int) -> list[Path]:
        """Return where the live parts of a partition can be read."""
        index = self._state.parts
        mask = (index.day == day) & (index.symbol_code == index.symbols.code(symbol))
        mask &= index.exchange_code == index.exchanges.code(exchange)
        found = index.path[mask].tolist()
        if self._options.local is None:
            return [self.folder / p for p in found]
        return [self._options.local(self.schema.name, p) for p in found]

    def publish(self, first_seq: int, batch: pa.RecordBatch, producer: bytes = b"", sequence: int = 0) -> None:
        """Make durable rows visible: ``batch`` without ``seq``, whose first row gets ``first_seq``."""
        numbered = add_seq(batch, self._memory_schema, first_seq)
        segments = tuple(make_segment(piece) for piece in cut(numbered, self._options.segment_rows))
        with self._lock:
            state = self._state
            assert state.last_seq + 1 == first_seq, "rows are published in order of seq"
            self._state = replace(state, segments=state.segments + segments)
            self._position = first_seq + batch.num_rows - 1
        if producer:
            self.producers.publish(producer, sequence)

    def merge_once(self) -> bool:
        """Merge one run of small neighbours, if there is one; return whether there was."""
        state = self._state
        run = find_merge(state.segments, state.bounds, self._options.segment_rows)
        if not run:
            return False
        merged = merge(run)
        with self._lock:
            self._state = replace_run(self._state, run, merged)
        return True

    # --- flushing

    def flush(self, reason: Reason = "all", *, now_s: float = 0.0, keep_bytes: int = 0) -> int:
        """Write rows that are in no part to parts and commit them; return how many rows. See ``Waiting.choose``.

        The commit also records the last sequence of each producer whose rows are in it, so that a batch sent again
        is recognised after the log has let go of it.

        Raises:
            StorageError: writing or committing failed; the rows stay where they are and are flushed by a later call.
        """
        self.settle()
        self._gather_replayed()
        with self._lock:
            state = self._state
            target = self._position
            fresh = [s.batch for s in state.segments if s.first_seq > state.target]
            if not fresh and not self._waiting.rows:
                return 0
            if fresh:
                self._state = replace(state, bounds=with_bound(state.bounds, target))
                self._bound_times[target] = now_s
            producers = self.producers.uncommitted()
        waiting = self._waiting.added(fresh, state.parts, now_s)
        chosen, rest = waiting.split(waiting.choose(self._options.policy, reason, now_s, keep_bytes))
        flushed = target if (first := rest.first_seq) is None else int(first) - 1
        if chosen.num_rows == 0:
            self._flushed(None, target, state.flushed_seq, rest)
            return 0
        parts = self._write(partition_rows(chosen), state.flushed_seq + 1, target)
        with self._commit_lock:
            if self._unsettled is not None:  # of a rewrite meanwhile
                self._settle_locked(self._unsettled)
            self._unsettled = parts
            self.catalog.commit(parts, flushed, producers)
            self._unsettled = None
            self._flushed(self._state.parts.extended(parts), target, flushed, rest)
        self.producers.commit(producers)
        return int(chosen.num_rows)

    def _write(self, rows: Partitioned, first: int, last: int) -> list[Part]:
        def write(place: int) -> Part:
            return writer.write(rows.keys[place], rows.take(place), first, last)

        # a sync takes milliseconds and most of a small part's time; several at once share the disk's
        with (
            PartWriter(self.folder, self.part_schema, self._options.parts) as writer,
            ThreadPoolExecutor(_WRITERS, "part-write") as pool,
        ):
            return list(pool.map(write, range(len(rows.keys))))

    def _flushed(self, parts: PartIndex | None, target: int, flushed: int, rest: Waiting) -> None:
        """Set the state after a flush that looked at all rows up to ``target`` and left ``rest``."""
        # without rows above the ring's start, the parts just written are read, and memory holds only what is left
        held = self._hold(rest.table) if target <= self._state.ring_from else None
        with self._lock:
            now = self._state
            kept = thin(now.bounds, now.ring_from, target, self._options.segment_rows)
            self._state = replace(
                now,
                held=now.held if held is None else held,
                parts=now.parts if parts is None else parts,
                flushed_seq=flushed,
                target=max(target, now.target),
                version=self.catalog.version,
                bounds=kept,
            )
            self._bound_times = {b: s for b, s in self._bound_times.items() if b in kept}
            self._set_waiting(rest)

    def _set_waiting(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._state = replace(self._state, leftover_rows=waiting.rows, leftover_bytes=waiting.nbytes)

    def settle(self) -> None:
        """Find out what a failed commit left: it may be there all the same, and then its rows are in parts.

        Raises:
            StorageError: the table cannot be read.
        """
        with self._commit_lock:
            if self._unsettled is not None:
                self._settle_locked(self._unsettled)

    def _settle_locked(self, attempt: list[Part]) -> None:
        index, flushed = self.catalog.load()
        state = self._state
        if flushed < state.flushed_seq:
            raise StorageError(
                f"table {self.schema.name} went back from row {state.flushed_seq} to {flushed} while it was in use.",
                hint="Something else changed the folder: stop the server and restore it from a backup.",
            )
        target = max([state.target, *index.last.tolist()])
        waiting = self._waiting
        if target > state.target:
            fresh = [s.batch for s in state.segments if state.target < s.last_seq <= target]
            waiting = waiting.added(fresh, index, 0.0)
        if flushed > state.flushed_seq or target > state.target:
            waiting = waiting.missing(index, 0.0)
        self._flushed(index, target, flushed, waiting)
        live = set(index.path.tolist())
        for part in attempt:
            if part.path not in live:
                (self.folder / part.path).unlink(missing_ok=True)
        self._unsettled = None

    # --- rewriting: other parts for the same rows

    def rewrite(self, removed: Sequence[Part], added: Sequence[Part], *, expired: bool = False) -> bool:
        """Let ``added`` stand for ``removed``; return False, changing nothing, if one of these is not live any more.

        Raises:
            StorageError: the commit failed; a later call finds out whether it is there all the same.
        """
        with self._commit_lock:
            if self._unsettled is not None:
                self._settle_locked(self._unsettled)
            state = self._state
            gone = {p.path for p in removed}
            kept = state.parts.without(gone)
            if len(kept) != len(state.parts) - len(gone):
                return False
            assert all(p.last <= state.ring_from for p in (*removed, *added)), "a part above the ring's start"
            self._unsettled = list(added)
            self.catalog.replace(removed, added, expired=expired)
            self._unsettled = None
            with self._lock:
                parts = kept.extended(added)
                self._state = replace(self._state, parts=parts, version=self.catalog.version)
        return True

    def clean_log(self) -> None:
        """Delete the table versions that are not kept any more.

        Raises:
            StorageError: a file cannot be deleted.
        """
        with self._commit_lock:
            self.catalog.clean_log()

    # --- releasing memory

    def release_oldest(self, before_s: float | None = None) -> int:
        """Let go of the oldest flushed run of segments; return its bytes, 0 if there is none.

        With ``before_s``, only of a run whose flush began before that, monotonic seconds.
        """
        state = self._state
        cuts = [b for b in state.bounds if state.ring_from < b <= state.target]
        if not cuts or (before_s is not None and self._bound_times.get(cuts[0], 0.0) >= before_s):
            return 0
        bound = cuts[0]
        gone = [s for s in state.segments if s.last_seq <= bound]
        visible = state.parts.chosen(state.parts.last <= bound)
        rows = pa.Table.from_batches([s.batch for s in (*state.held, *gone)], schema=self._memory_schema)
        missing = visible.misses(rows)
        held = self._hold(rows.filter(pa.array(missing, pa.bool_()))) if missing.any() else ()
        with self._lock:
            now = self._state
            kept = tuple(s for s in now.segments if s.last_seq > bound)
            bounds = tuple(b for b in now.bounds if b >= bound)
            self._state = replace(now, segments=kept, held=held, ring_from=bound, bounds=bounds)
        return max(1, state.ring_bytes - self._state.ring_bytes)

    def _hold(self, rows: pa.Table) -> tuple[Segment, ...]:
        if rows.num_rows == 0:
            return ()
        (batch,) = rows.unify_dictionaries().combine_chunks().to_batches()
        return tuple(make_segment(piece, dense=False) for piece in cut(batch, self._options.segment_rows))

    def oldest_held(self) -> int | None:
        """Return the newest timestamp (µs) of the oldest run that could be released, None if there is none."""
        state = self._state
        cuts = [b for b in state.bounds if state.ring_from < b <= state.target]
        if not cuts:
            return None
        return max((s.max_us for s in state.segments if s.last_seq <= cuts[0]), default=0)
