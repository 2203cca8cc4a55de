"""Background work that keeps memory and log bounded: merge segments, flush to parts, release log files and memory.

The rule of this file: nothing here is needed for a row to be durable or visible; a failure is told, counted and tried
again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pyarrow as pa
import structlog

from tickflight_server.clock import Clock
from tickflight_server.config import MIB, LakehouseSettings
from tickflight_server.errors import LogClosedError, StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.store.disk import DiskWatch
from tickflight_server.store.flushing import Reason
from tickflight_server.store.health import Health
from tickflight_server.store.table import Table
from tickflight_server.store.wal import WriteAheadLog

LOG = structlog.get_logger(__name__)
_TICK_S = 0.05  # how often the flusher looks at sizes
_MERGE_TICK_S = 0.02
_REPLAY_SHARE = 3  # of the buffer is what a start gathers before it flushes
_REPLAY_KEEPS = 8  # of that may stay in small partitions
_RETRY_S = 5.0  # after a failed flush or merge


class Upkeep:
    """The merging and the flushing thread of a store."""

    def __init__(
        self,
        tables: Mapping[str, Table],
        log: WriteAheadLog,
        settings: LakehouseSettings,
        clock: Clock,
        metrics: Metrics,
        health: Health,
        disk: DiskWatch,
    ) -> None:
        self._disk = disk
        self._tables = tables
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._health = health
        self._interval_s = settings.flush_interval_seconds
        self._buffer_bytes = settings.buffer_size_mb * MIB
        self._ring_bytes = max(settings.ring_mb, settings.buffer_size_mb) * MIB
        self._ring_s = settings.ring_seconds
        self._log_bytes = settings.wal_mb * MIB
        self._flush_lock = threading.Lock()
        self._closed = False  # set under the flush lock: the folder may be another server's from then on
        self._stop = threading.Event()
        self._room = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run_merger, name="ring-merge", daemon=True),
            threading.Thread(target=self._run_flusher, name="flush", daemon=True),
        ]

    def start(self) -> None:
        """Begin the background work."""
        for thread in self._threads:
            thread.start()

    def close(self, *, flush: bool) -> None:
        """Stop the background work and, with ``flush``, move all rows into parts; a flush under way is finished first.

        Raises:
            StorageError: the last flush failed.
        """
        self._stop.set()
        with self._room:
            self._room.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        try:
            if flush:
                self.flush()
        finally:
            with self._flush_lock:
                self._closed = True

    def unflushed_bytes(self) -> int:
        """Return the memory of all rows that are in no part."""
        return sum(t.state.unflushed_bytes for t in self._tables.values())

    @property
    def behind(self) -> bool:
        """Whether flushing has so much to do that other work on parts should wait.

        While one buffer is flushed the next one fills. More is too much, or half of what makes producers wait.
        """
        return self.unflushed_bytes() > min(2 * self._buffer_bytes, self._ring_bytes // 2)

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until the rows that only memory holds leave room for more; return False if they do not in time.

        Closing ends the wait.
        """
        if self.unflushed_bytes() < self._ring_bytes:
            return True
        self._metrics.add("appends_slowed")
        with self._room:
            return self._room.wait_for(
                lambda: self._stop.is_set() or self.unflushed_bytes() < self._ring_bytes, timeout_s
            )

    def make_room(self) -> None:
        """Flush and release early enough that all of it fits into the buffer: for replaying a log of any length.

        A flush has its rows up to four times: in segments, gathered, sorted and encoded.
        """
        piece = self._buffer_bytes // _REPLAY_SHARE
        if self.unflushed_bytes() >= piece:
            self.flush("memory", keep_bytes=piece // _REPLAY_KEEPS, ring_bytes=piece)
            pa.default_memory_pool().release_unused()

    def flush(self, reason: Reason = "all", *, keep_bytes: int | None = None, ring_bytes: int | None = None) -> None:
        """Move rows into parts, all or those that ``reason`` asks for; then release log files and memory.

        For ``memory`` and ``buffer``, ``keep_bytes`` of small partitions stay, half of the buffer if not given; in
        memory stay ``ring_bytes``, the whole ring if not given.

        Raises:
            StorageError: a table could not be flushed; the others were. Or the log's files could not be removed.
            LogClosedError: the store is closed.
        """
        failure: StorageError | None = None
        with self._flush_lock:
            if self._closed:
                raise LogClosedError("the store is closed.")
            waiting = max(1, self.unflushed_bytes())
            stays = self._buffer_bytes // 2 if keep_bytes is None else keep_bytes
            for name, table in self._tables.items():
                try:
                    self._flush(table, reason, table.state.unflushed_bytes * stays // waiting)
                except Exception as error:  # one table's trouble, of whatever kind, must not keep the others' rows
                    failure = _of_table(name, error)
                    self._metrics.add("flush_failures")
                    LOG.error("flush.failed", table=name, error=str(failure))
            try:
                self._log.release({name: t.state.flushed_seq for name, t in self._tables.items()})
            except OSError as error:
                failure = failure or StorageError(f"cannot remove a released log file: {error.strerror}.")
                LOG.error("log.release_failed", error=str(error))
            self.release_memory(self._ring_bytes if ring_bytes is None else ring_bytes)
        with self._room:
            self._room.notify_all()
        if failure is not None:
            self._health.report("flush", "degraded", failure.message, failure.hint)
            raise failure
        self._health.ok("flush")

    def _flush(self, table: Table, reason: Reason, keep_bytes: int) -> None:
        started = self._clock.monotonic()
        rows = table.flush(reason, now_s=started, keep_bytes=keep_bytes)
        if rows:
            seconds = self._clock.monotonic() - started
            self._metrics.add("flushes")
            self._metrics.add("rows_flushed", rows)
            LOG.info("flush.done", table=table.schema.name, rows=rows, seconds=round(seconds, 3))

    def release_memory(self, ring_bytes: int) -> None:
        """Let go of flushed rows: those of long ago, and the oldest of all tables until ``ring_bytes`` are left."""
        before = self._clock.monotonic() - self._ring_s
        for table in self._tables.values():
            while released := table.release_oldest(before):
                self._metrics.add("ring_bytes_released", released)
        while sum(t.state.ring_bytes for t in self._tables.values()) > ring_bytes:
            held = [(age, name) for name, t in self._tables.items() if (age := t.oldest_held()) is not None]
            if not held:
                return
            self._metrics.add("ring_bytes_released", self._tables[min(held)[1]].release_oldest())

    def _run_merger(self) -> None:
        while not self._stop.wait(_MERGE_TICK_S):
            try:
                for table in self._tables.values():
                    while table.merge_once():
                        self._metrics.add("ring_merges")
            except Exception as error:  # small segments make queries slow, a dead merger makes all of them slow
                self._metrics.add("merge_failures")
                LOG.error("merge.failed", error=repr(error))
                self._stop.wait(_RETRY_S)

    def _due(self, interval: bool) -> Reason | None:
        """Return why a flush is due now, None if none is."""
        # without the file in use, which no flush can release
        if sum(f.size for f in self._log.files[:-1]) > self._log_bytes and self.unflushed_bytes():
            return "all"
        if self.unflushed_bytes() >= self._buffer_bytes:
            return "buffer"
        return "interval" if interval else None

    def _run_flusher(self) -> None:
        due = self._clock.monotonic() + self._interval_s
        while not self._stop.wait(_TICK_S):
            self._disk.look()
            reason = self._due(self._clock.monotonic() >= due)
            if reason is None:
                continue
            try:
                self.flush(reason)
                self._watch_memory()
                due = self._clock.monotonic() + self._interval_s
            except StorageError:
                self._watch_memory()
                due = self._clock.monotonic() + min(self._interval_s, _RETRY_S)
                self._stop.wait(0 if reason == "interval" else _RETRY_S)

    def _watch_memory(self) -> None:
        if self.unflushed_bytes() < self._ring_bytes:
            self._health.ok("memory")
        else:
            self._health.report(
                "memory",
                "degraded",
                f"rows that are in no part take {self.unflushed_bytes() // MIB} MB: producers have to wait.",
                "The flush does not keep up, see the other components; or raise lakehouse.ring_mb.",
            )


def _of_table(table: str, error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return StorageError(f"cannot flush table {table}: {error.message}", hint=error.hint)
    return StorageError(
        f"cannot flush table {table}: {error!r}.",
        hint="The rows are safe in the log and stay queryable; the flush is tried again.",
    )
