"""The store: append rows durably, flush them to parts, and cut snapshots; the one door to everything below.

The rule of this file: acknowledged means durable and visible; whatever goes wrong afterwards loses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import structlog

from tickflight_server.audit import NO_AUDIT, Audit
from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import MIB, LakehouseSettings
from tickflight_server.errors import BusyError, NotFoundError, TooLargeError
from tickflight_server.metrics import Metrics
from tickflight_server.paths import Layout
from tickflight_server.schemas import STORED, NumericType, TableSchema
from tickflight_server.store.access import OpenParts, PartAccess, PartChecker
from tickflight_server.store.committer import Ack, Committer, Pending
from tickflight_server.store.disk import DiskWatch
from tickflight_server.store.flushing import FlushPolicy, Reason
from tickflight_server.store.health import Health
from tickflight_server.store.identity import FolderLock, load_writer
from tickflight_server.store.keeper import Keeper, Readers
from tickflight_server.store.part_cache import PartCache
from tickflight_server.store.partition import PartOptions
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.pins import PinBoard
from tickflight_server.store.progress import Progress
from tickflight_server.store.record import AppendRecord, Payload, batch_to_payload
from tickflight_server.store.rows import fit
from tickflight_server.store.snapshot import TableSnapshot
from tickflight_server.store.table import Table, TableOptions
from tickflight_server.store.taking import Taken, check_producer, join
from tickflight_server.store.tier import Tier
from tickflight_server.store.upkeep import Upkeep
from tickflight_server.store.vacuum import remove_crash_leftovers
from tickflight_server.store.wal import WriteAheadLog

LOG = structlog.get_logger(__name__)


class Store:
    """All tables of one data folder, open for appending and reading. Use it as a context manager, or ``close`` it.

    Without ``background`` nothing is flushed, merged or removed but by a call.

    Raises:
        ConfigError: the folder cannot be used, or another server uses it.
        LogCorruptError: the log is damaged before its end.
        StorageError: a table cannot be read.
    """

    def __init__(
        self,
        settings: LakehouseSettings,
        clock: Clock | None = None,
        tables: Mapping[str, TableSchema] = STORED,
        *,
        background: bool = True,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.audit: Audit = NO_AUDIT
        """Where it is recorded who does what; a server sets it."""
        self._clock = clock or SystemClock()
        self._schemas = tables
        self._background = background
        self.health = Health(self._clock)
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
        keys = settings.dedup_columns
        self._part_options = {
            name: PartOptions(settings.compression, settings.row_group_rows, keys.get(name, ()))
            for name in self._schemas
        }
        self._tables = {name: self._make_table(schema) for name, schema in self._schemas.items()}
        self._append_lock = threading.Lock()
        self._newest: Future[None] | None = None  # of the batch accepted last; all before it are durable with it
        self._log = WriteAheadLog(self._layout.log, self.writer, file_bytes_max=settings.wal_file_mb * MIB)
        self._committer = Committer(
            self._log,
            self._clock,
            self.metrics,
            self.health,
            interval_ms=settings.wal_commit_interval_ms,
            bytes_max=settings.wal_pending_mb * MIB,
        )
        self._disk = DiskWatch(self._layout.root, settings.disk_free_min_mb, self.health)
        self._upkeep = Upkeep(self._tables, self._log, settings, self._clock, self.metrics, self.health, self._disk)
        self._readers = Readers()
        tier = settings.tier
        self._tier = Tier(tier, self.metrics) if tier else None
        cache = None
        if self._tier is not None and tier is not None:
            cache = PartCache(self._layout.cache, self._tier, tier.cache_mb * MIB, tier.fetches_max)
        checker = PartChecker(self._layout.root, self.health, self.metrics, settings.verify_parts)
        self._access = PartAccess(self._layout.root, checker, cache, self.health)
        self.keeper = Keeper(
            self._tables,
            settings,
            self._clock,
            self.metrics,
            self.health,
            readers=self._readers,
            options=self._part_options,
            tier=self._tier,
            check=checker.check,
            pinned=self.pins.protected_seq,
            behind=lambda: self._upkeep.behind,
        )
        try:
            self._recover()
        except BaseException:
            self._log.close()
            raise
        self._committer.start(self._log_recovered)
        if self._background:
            self._upkeep.start()
            self.keeper.start()

    def _make_table(self, schema: TableSchema) -> Table:
        settings = self.settings
        options = TableOptions(
            numeric=settings.numeric_type,
            segment_rows=settings.ring_segment_rows,
            parts=self._part_options[schema.name],
            policy=FlushPolicy(
                settings.flush_files_max, settings.flush_partition_mb * MIB, settings.flush_partition_seconds
            ),
            keep_hours=settings.vacuum_hours,
            dedup_bytes=settings.dedup_mb * MIB,
            local=lambda table, path: self._access.local(table, path),
        )
        return Table(schema, self._layout.table(schema.name), self.writer, options, self.metrics)

    def _recover(self) -> None:
        """Load the table versions and replay the log from their flushed ``seq`` on, holding one buffer at most."""
        flushed = {name: table.load() for name, table in self._tables.items()}
        progress = Progress(self._log.bytes_on_disk(), self._clock)
        for record in self._log.recover():
            progress.step(self._log.bytes_read)
            table = self._tables.get(record.table)
            if table is None:
                LOG.warning("log.unknown_table", table=record.table, rows=record.rows)
                continue
            if record.producer:
                table.producers.replay(record.producer, record.sequence)
            if record.last_seq <= flushed[record.table]:
                continue
            progress.rows += table.replay(record)
            self._upkeep.make_room()
        oldest_ms = self._clock.now_us() // 1000 - int(self.settings.vacuum_hours * 3_600_000)
        for name, table in self._tables.items():
            table.check_replayed()
            live = set(table.state.parts.path.tolist())
            remove_crash_leftovers(table.folder, name, live, table.state.last_seq, oldest_ms)
        progress.end()

    def _log_recovered(self) -> None:
        """The log takes records again: forget what was offered to it and never became durable, and go on."""
        with self._append_lock:
            for table in self._tables.values():
                table.forget_unpublished()
            self._newest = None
            self._committer.resume()

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
    def read_folders(self) -> list[Path]:
        """Where the parts that ``open_parts`` gives may lie: in the tables' folders, the cache, and a folder tier."""
        folders = [self._layout.table(name) for name in self._tables] + [self._layout.cache]
        if self._tier is not None and (root := self._tier.root) is not None:
            folders.append(root)
        return folders

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
        check_producer(name, sequence)
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
        results: list[Taken] = []
        with self._append_lock:
            self._committer.check()  # what is known already must not be acknowledged by a log that has failed
            items: list[Pending] = []
            for (where, rows, who), payload in zip(work, payloads, strict=True):
                results.append(self._enqueue(where, rows, who, sequence, payload, items))
            if items:
                self._committer.offer(items)
                for item in items:
                    self._accept(item)
        return join(results, fitted.batch.num_rows, fitted.rejected_rows)

    def _enqueue(
        self, table: Table, rows: pa.RecordBatch, who: bytes, sequence: int, payload: Payload, items: list[Pending]
    ) -> Taken:
        """Add a record for those of ``rows`` that are new to ``items``; return what becomes of them."""
        if rows.num_rows == 0:
            return Taken()
        if who and sequence <= table.producers.taken(who):
            return Taken(future=self._newest, known=True)
        # rows rejected by table ``rejected`` go to the same table as those that it takes
        first_seq = table.next_seq + sum(i.record.rows for i in items if i.table is table)
        fresh = table.fresh(rows, first_seq)
        repeated = rows.num_rows - fresh.num_rows
        if fresh.num_rows == 0:
            # the rows with these keys may be on their way into the log
            return Taken(future=self._newest, repeated=repeated)
        if repeated:
            payload = batch_to_payload(fresh)
        future: Future[None] = Future()
        record = AppendRecord(table.schema.name, first_seq, fresh.num_rows, who, sequence if who else 0, payload)
        items.append(Pending(table, record, fresh, future))
        return Taken(first_seq, future, repeated=repeated)

    def _accept(self, item: Pending) -> None:
        record = item.record
        item.table.next_seq = record.last_seq + 1
        if record.producer:
            item.table.producers.take(record.producer, record.sequence)
        self._newest = item.future

    def _wait_for_room(self) -> None:
        self._disk.check()
        timeout_s = self.settings.append_timeout_s
        if not self._committer.wait_for_room(timeout_s) or not self._upkeep.wait_for_room(timeout_s):
            self.metrics.add("append_timeouts")
            raise BusyError(
                "no room for more rows: the log or the flush does not keep up.",
                hint="Send again later; look at the disk, or raise lakehouse.wal_pending_mb and ring_mb.",
            )

    def _check_size(self, payloads: Iterable[Payload]) -> None:
        limit = self.settings.wal_record_mb * MIB
        size = max(p.size for p in payloads)
        if size > limit:
            raise TooLargeError(
                f"a batch of {size} bytes is above lakehouse.wal_record_mb ({limit} bytes).",
                hint="Send smaller batches.",
            )

    def snapshot(self, table: str, upto: int | None = None) -> TableSnapshot:
        """Return a consistent cut over ``table`` as it is now, or over its rows with ``seq <= upto``.

        It stays as it is while it is held: vacuum leaves its parts.
        """
        return self._readers.add(self._table(table).snapshot(upto))

    def snapshot_at(self, table: str, version: int) -> TableSnapshot:
        """Return the rows in the parts of ``table``'s version ``version``; rows in memory belong to no version.

        Raises:
            NotFoundError: there is no such version, or it is not kept any more.
        """
        return self._readers.add(self._table(table).snapshot_at(version))

    def version_at(self, table: str, timestamp_us: int) -> int:
        """Return the version of ``table`` at ``timestamp_us``, microseconds since 1970 UTC.

        Raises:
            NotFoundError: there was none, or it is not kept any more.
        """
        return self._table(table).catalog.version_at(timestamp_us)

    def open_parts(
        self,
        snapshot: TableSnapshot,
        parts: PartIndex,
        columns: frozenset[str] | None = None,
        *,
        meanwhile: bool = False,
    ) -> OpenParts:
        """Make ``parts`` of ``snapshot`` ready to be read: there, whole, and local; the caller closes the answer.

        With ``columns`` only those are known to be whole; with ``meanwhile`` not before the answer's ``wait`` returns.

        Raises:
            StorageError: one is missing or damaged; the message names it.
        """
        name = snapshot.table.name
        return self._access.open(name, parts, self._table(name).catalog.evolved_seq, columns, meanwhile=meanwhile)

    def flush(self, reason: Reason = "all") -> dict[str, int]:
        """Move all rows into parts now, or those that are due for ``reason``; return each table's flushed ``seq``.

        Raises:
            StorageError: writing or committing failed; the rows stay in log and ring.
        """
        self._upkeep.flush(reason)
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
            self.keeper.close()
            self._access.close()
            try:
                self._upkeep.close(flush=flush and self._committer.failure is None)
            finally:
                self._log.close()
                self._folder_lock.close()
