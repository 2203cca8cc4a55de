"""The store: append rows durably, flush them to parts, and cut snapshots; the one door to everything below.

The rule of this file: acknowledged means durable and visible; whatever goes wrong afterwards loses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import structlog

from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import MIB, LakehouseSettings
from tickflight_server.errors import BusyError, InputError, NotFoundError, TooLargeError
from tickflight_server.metrics import Metrics
from tickflight_server.paths import Layout
from tickflight_server.schemas import STORED, NumericType, TableSchema
from tickflight_server.store.committer import Ack, Committer, Pending
from tickflight_server.store.identity import FolderLock, load_writer
from tickflight_server.store.partition import PartOptions
from tickflight_server.store.pins import PinBoard
from tickflight_server.store.record import AppendRecord, batch_to_payload
from tickflight_server.store.rows import fit
from tickflight_server.store.stubs import StoreStubs  # MERGE: goes
from tickflight_server.store.table import Table, TableOptions
from tickflight_server.store.upkeep import Upkeep
from tickflight_server.store.wal import WriteAheadLog

LOG = structlog.get_logger(__name__)
PRODUCER_BYTES_MAX = 64
SEQUENCE_MAX = (1 << 63) - 1  # a Delta table's application transaction is a signed 64-bit number


class Store(StoreStubs):  # MERGE: without the base
    """All tables of one data folder, open for appending and reading. Use it as a context manager, or ``close`` it.

    Raises:
        ConfigError: the folder cannot be used, or another server uses it.
        LogCorruptError: the log is damaged before its end.
        StorageError: a table cannot be read.
    """

    def __init__(self, settings: LakehouseSettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._clock = clock or SystemClock()
        self._layout = Layout(settings.storage_path.absolute())
        self._close_lock = threading.Lock()
        self._closed = False
        self._folder_lock = FolderLock(self._layout)
        self._folder_lock.acquire()
        try:
            self._open()
        except BaseException:
            self._folder_lock.close()
            raise

    def _open(self) -> None:
        settings = self.settings
        self.writer = load_writer(self._layout)
        self.pins = PinBoard(
            self._layout.internal,
            self._clock,
            pins_max=settings.pins_max,
            seconds_max=settings.pin_seconds_max,
        )
        options = TableOptions(
            numeric=settings.numeric_type,
            segment_rows=settings.ring_segment_rows,
            parts=PartOptions(settings.compression, settings.row_group_rows),
        )
        self._tables = {
            name: Table(schema, self._layout.table(name), self.writer, options) for name, schema in STORED.items()
        }
        self._append_lock = threading.Lock()
        self._newest: Future[None] | None = None  # of the batch accepted last; all before it are durable with it
        self._log = WriteAheadLog(self._layout.log, self.writer, file_bytes_max=settings.wal_file_mb * MIB)
        self._committer = Committer(
            self._log,
            self._clock,
            self.metrics,
            interval_ms=settings.wal_commit_interval_ms,
            bytes_max=settings.wal_pending_mb * MIB,
        )
        self._upkeep = Upkeep(self._tables, self._log, settings, self._clock, self.metrics)
        try:
            self._recover()
        except BaseException:
            self._log.close()
            raise
        self._committer.start()
        self._upkeep.start()

    def _recover(self) -> None:
        """Load the table versions and replay the log from their flushed ``seq`` on, holding one buffer at most."""
        flushed = {name: table.load() for name, table in self._tables.items()}
        replayed = 0
        for record in self._log.recover():
            table = self._tables.get(record.table)
            if table is None:
                LOG.warning("log.unknown_table", table=record.table, rows=record.rows)
                continue
            if record.producer:
                table.note_producer(record.producer, record.sequence)
            if record.last_seq <= flushed[record.table]:
                continue
            table.replay(record)
            replayed += record.rows
            self._upkeep.make_room()
        for table in self._tables.values():
            table.remove_orphans()
        if replayed:
            LOG.info("log.replayed", rows=replayed)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def numeric(self) -> NumericType:
        """How prices and sizes are stored: ``float64`` or ``decimal``."""
        return self.settings.numeric_type

    @property
    def root(self) -> Path:
        """The data folder, absolute."""
        return self._layout.root

    @property
    def log(self) -> WriteAheadLog:
        """The write-ahead log, for looking at."""
        return self._log

    @property
    def tables(self) -> dict[str, Table]:
        """The stored tables by name."""
        return self._tables

    def schema(self, table: str) -> TableSchema:
        """Return the schema of a stored table.

        Raises:
            NotFoundError: there is no such table.
        """
        return self._table(table).schema

    def _table(self, name: str) -> Table:
        found = self._tables.get(name)
        if found is None:
            raise NotFoundError(f"there is no stored table {name!r}.", hint=f"Tables are {', '.join(self._tables)}.")
        return found

    def append(
        self, table: str, batch: pa.RecordBatch, *, producer: bytes | None = None, sequence: int = 0
    ) -> Future[Ack]:
        """Take ``batch`` into ``table``; the future ends when its rows are durable and visible.

        Columns are matched by name and widened to the table's types; rows that do not fit go to table ``rejected``
        and are counted in the answer. With ``producer`` (up to 64 bytes) and ``sequence`` (from 1, rising), a batch
        that was taken before is recognised and not stored again; its future ends when the first one's rows are durable.

        Blocks while too much waits for the log or in memory.

        Raises:
            NotFoundError: there is no such table.
            InputError: the producer's id is too long, or its sequence is not from 1 to 2⁶³ - 1.
            RowError: the batch's columns do not fit the table.
            TooLargeError: the batch is above ``wal_record_mb``.
            BusyError: there was no room within ``append_timeout_s``.
            LogClosedError: the log failed or the store is closed.
        """
        target = self._table(table)
        name = producer or b""
        _check_producer(name, sequence)
        fitted = fit(target.schema, batch, self.numeric, now_us=self._clock.now_us(), producer=name)
        work = [(target, fitted.batch, name)]
        if fitted.rejected is not None:
            self.metrics.add("rows_rejected", fitted.rejected.num_rows)
            LOG.warning("rows.rejected", table=table, rows=fitted.rejected.num_rows)
            # the rejected rows are a batch of their own, known again by the producer and the table they missed
            work.append((self._tables["rejected"], fitted.rejected, name and b"%b/%b" % (name, table.encode())))
        self._wait_for_room()
        payloads = [batch_to_payload(b) for _, b, _ in work]
        self._check_size(payloads)
        results: list[tuple[int, Future[None] | None, bool]] = []
        with self._append_lock:
            items: list[Pending] = []
            for (where, rows, who), payload in zip(work, payloads, strict=True):
                results.append(self._enqueue(where, rows, who, sequence, payload, items))
            if items:
                self._committer.offer(items)
                for item in items:
                    self._accept(item)
        return _join(results, fitted.batch.num_rows, fitted.rejected_rows)

    def _enqueue(
        self, table: Table, rows: pa.RecordBatch, who: bytes, sequence: int, payload: pa.Buffer, items: list[Pending]
    ) -> tuple[int, Future[None] | None, bool]:
        """Add a record for ``rows`` to ``items``; return its first ``seq``, its future and whether it was known."""
        if rows.num_rows == 0:
            return 0, None, False
        if who and sequence <= table.producer_sequence(who):
            return 0, self._newest, True
        future: Future[None] = Future()
        # rows rejected by table ``rejected`` go to the same table as those that it takes
        first_seq = table.next_seq + sum(i.record.rows for i in items if i.table is table)
        record = AppendRecord(table.schema.name, first_seq, rows.num_rows, who, sequence if who else 0, payload)
        items.append(Pending(table, record, rows, future))
        return record.first_seq, future, False

    def _accept(self, item: Pending) -> None:
        record = item.record
        item.table.next_seq = record.last_seq + 1
        if record.producer:
            item.table.note_producer(record.producer, record.sequence)
        self._newest = item.future

    def _wait_for_room(self) -> None:
        timeout_s = self.settings.append_timeout_s
        if not self._committer.wait_for_room(timeout_s) or not self._upkeep.wait_for_room(timeout_s):
            self.metrics.add("append_timeouts")
            raise BusyError(
                "no room for more rows: the log or the flush does not keep up.",
                hint="Send again later; look at the disk, or raise lakehouse.wal_pending_mb and ring_mb.",
            )

    def _check_size(self, payloads: Iterable[pa.Buffer]) -> None:
        limit = self.settings.wal_record_mb * MIB
        size = max(p.size for p in payloads)
        if size > limit:
            raise TooLargeError(
                f"a batch of {size} bytes is above lakehouse.wal_record_mb ({limit} bytes).",
                hint="Send smaller batches.",
            )

    def flush(self) -> dict[str, int]:
        """Move all rows into parts now; return each table's flushed ``seq``.

        Raises:
            StorageError: writing or committing failed; the rows stay in log and ring.
        """
        self._upkeep.flush_all()
        return {name: table.state.flushed_seq for name, table in self._tables.items()}

    def close(self, *, flush: bool = True) -> None:
        """Commit what was appended, flush it unless ``flush`` is false, and let the folder go. Once is enough.

        Raises:
            StorageError: the last flush failed; the store is closed and the rows are in the log.
        """
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
            self._committer.close()
            try:
                self._upkeep.close(flush=flush and self._committer.failure is None)
            finally:
                self._log.close()
                self._folder_lock.close()


def _check_producer(producer: bytes, sequence: int) -> None:
    if len(producer) > PRODUCER_BYTES_MAX:
        raise InputError(f"the producer's id has {len(producer)} bytes, at most {PRODUCER_BYTES_MAX} are taken.")
    if producer and not 1 <= sequence <= SEQUENCE_MAX:
        raise InputError(
            f"sequence {sequence} of a producer's batch is not from 1 to {SEQUENCE_MAX}.",
            hint="Count a producer's batches from 1.",
        )


def _join(results: list[tuple[int, Future[None] | None, bool]], rows: int, rejected: int) -> Future[Ack]:
    """Return a future that ends with all of ``results``, or with the first error among them."""
    first_seq = results[0][0]
    # a batch without a row that fits is known by its rejected rows
    duplicate = results[0 if rows else -1][2]
    answer = Ack(0 if duplicate else first_seq, rows, rejected, duplicate)
    waiting = [f for _, f, _ in results if f is not None]
    joined: Future[Ack] = Future()
    if not waiting:
        joined.set_result(answer)
        return joined
    left = len(waiting)
    lock = threading.Lock()

    def done(future: Future[None]) -> None:
        nonlocal left
        with lock:
            left -= 1
            error = future.exception()
            if joined.done():
                return
            if error is not None:
                joined.set_exception(error)
            elif left == 0:
                joined.set_result(answer)

    for future in waiting:
        future.add_done_callback(done)
    return joined
