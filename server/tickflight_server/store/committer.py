"""Group commit: what many appended is written, synced once, published, and acknowledged.

The rule of this file: log, then ring, then acknowledgement, in this order, and in order of ``seq``. When the log fails,
nothing is acknowledged until it takes records again.

One thread does all of it while little comes. Of many megabytes, checksum and write take as long as the sync: then a
second thread syncs, publishes and acknowledges a group while the first one writes the next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import pyarrow as pa
import structlog

from tickflight_server.clock import Clock
from tickflight_server.errors import LogClosedError
from tickflight_server.metrics import Metrics
from tickflight_server.store.health import Health
from tickflight_server.store.record import AppendRecord
from tickflight_server.store.table import Table
from tickflight_server.store.wal import WriteAheadLog

LOG = structlog.get_logger(__name__)
RETRY_S = 1.0  # after a failure of the log
BEHIND_BYTES = 2 << 20  # a group of so much is synced by the second thread: a write of it takes longer than waking one


@dataclass(frozen=True)
class Ack:
    """What an acknowledged append says: its rows are durable and visible.

    ``first_seq`` is the ``seq`` of the first of ``rows`` rows, 0 without rows; ``rejected`` rows went to table
    ``rejected``; ``repeated`` rows were not stored, since rows with their keys were there. ``duplicate``: the
    producer's batch was known already, and nothing was stored now.
    """

    first_seq: int
    rows: int
    rejected: int = 0
    duplicate: bool = False
    repeated: int = 0


@dataclass(frozen=True, eq=False)
class Pending:
    """A batch on its way into the log."""

    table: Table
    record: AppendRecord
    batch: pa.RecordBatch
    future: Future[None]


@dataclass(frozen=True, eq=False)
class _Group:
    """Batches that share a sync."""

    items: list[Pending]
    nbytes: int
    started_s: float


class Committer:
    """The commit threads of a store.

    Args:
        log: where records go; only these threads use it.
        interval_ms: least time between the starts of two syncs; a record that comes later goes at once.
        bytes_max: payload waiting for the log, above which ``offer`` blocks.
    """

    def __init__(
        self,
        log: WriteAheadLog,
        clock: Clock,
        metrics: Metrics,
        health: Health,
        *,
        interval_ms: float,
        bytes_max: int,
    ) -> None:
        self._health = health
        self._recovered: Callable[[], None] | None = None
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._interval_s = interval_ms / 1000
        self._bytes_max = bytes_max
        self._queue: deque[Pending] = deque()
        self._bytes = 0
        self._condition = threading.Condition()
        self._closing = False
        self._failure: LogClosedError | None = None
        self._written: list[_Group] = []  # and not taken by the second thread yet: one at most
        self._syncing = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="log-commit", daemon=True)
        self._second = threading.Thread(target=self._run_second, name="log-sync", daemon=True)

    def start(self, recovered: Callable[[], None] | None = None) -> None:
        """Begin to commit. After a failure of the log, ``recovered`` is called when the log takes records again.

        It forgets what was offered and never became durable, and then calls ``resume``.
        """
        self._recovered = recovered
        self._second.start()
        self._thread.start()

    def resume(self) -> None:
        """Accept batches again."""
        with self._condition:
            self._failure = None

    @property
    def failure(self) -> LogClosedError | None:
        """Why nothing is accepted any more, None while all is well."""
        return self._failure

    def check(self) -> None:
        """See that batches are accepted.

        Raises:
            LogClosedError: the log failed or the store is closing.
        """
        if self._failure is not None:
            raise LogClosedError(self._failure.message, hint=self._failure.hint, temporary=self._failure.temporary)
        if self._closing:
            raise LogClosedError("the store is closed.")

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until another batch may be offered; return False if there was no room in time."""
        with self._condition:
            return self._condition.wait_for(
                lambda: self._bytes < self._bytes_max or self._closing or self._failure is not None, timeout_s
            )

    def offer(self, items: list[Pending]) -> None:
        """Queue ``items``, which follow each other in the log; their futures end when they are durable and visible.

        Raises:
            LogClosedError: the log failed or the store is closing.
        """
        with self._condition:
            self.check()
            self._queue.extend(items)
            self._bytes += sum(i.record.payload.size for i in items)
            self._condition.notify_all()

    def close(self) -> None:
        """Commit what was offered and stop."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._run_first()
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify_all()
            self._second.join()

    def _run_first(self) -> None:
        due = 0.0
        while True:
            with self._condition:
                # a group that waits for the second thread is enough: what comes until then shares the next one
                self._condition.wait_for(
                    lambda: (self._queue and not self._written) or self._closing or self._failure is not None
                )
                if self._failure is None and not self._queue:
                    return
            if self._failure is not None:
                if not self._retry():
                    return
                continue
            with self._condition:
                wait = due - self._clock.monotonic()
                if wait > 0:
                    self._condition.wait_for(lambda: self._closing, wait)
                items = list(self._queue)
                self._queue.clear()
            started = self._clock.monotonic()
            due = started + self._interval_s
            self._commit(_Group(items, sum(i.record.payload.size for i in items), started))

    def _retry(self) -> bool:
        """Try to let the log go on after a failure, once a second; return False if it is to stay closed."""
        with self._condition:
            self._condition.wait_for(self._second_is_idle)
        while self._recovered is not None and self._failure is not None and self._failure.temporary:
            with self._condition:
                if self._condition.wait_for(lambda: self._closing, RETRY_S):
                    return False
            try:
                self._log.reopen()
            except LogClosedError as error:
                self._failure = error
                continue
            self._health.ok("log")
            self._recovered()
        return self._failure is None

    def _commit(self, group: _Group) -> None:
        """Write a group, and have it synced, published and acknowledged, here or by the second thread."""
        behind = group.nbytes >= BEHIND_BYTES and not self._log.full
        with self._condition:
            self._condition.wait_for(lambda: not self._written if behind else self._second_is_idle())
            failed = self._failure
        if failed is not None:
            self._fail(failed, [group])
            return
        try:
            self._log.write([item.record for item in group.items])
            if not behind:
                self._publish(group)
        except Exception as error:  # whatever it is, nobody may be told that the rows are durable
            self._fail(error, [group])
            return
        if not behind:
            self._acknowledge(group)
            return
        with self._condition:
            failed = self._failure
            if failed is None:
                self._written.append(group)
                self._condition.notify_all()
        if failed is not None:
            self._fail(failed, [group])

    def _second_is_idle(self) -> bool:
        return not self._written and not self._syncing

    def _run_second(self) -> None:
        while True:
            with self._condition:
                self._syncing = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._written or self._ended)
                if not self._written:
                    return
                group = self._written.pop()
                self._syncing = True
                self._condition.notify_all()
            try:
                self._publish(group)
            except Exception as error:  # as in _commit
                self._fail(error, [group], written=True)
            else:
                self._acknowledge(group)

    def _publish(self, group: _Group) -> None:
        """Sync what was written, up to ``group`` at least, and publish the group."""
        self._log.sync()
        for item in group.items:
            record = item.record
            item.table.publish(record.first_seq, item.batch, record.producer, record.sequence)
        self._tell(group.items)

    def _acknowledge(self, group: _Group) -> None:
        for item in group.items:
            item.future.set_result(None)
        self._metrics.add("log_commits")
        self._metrics.add("log_commit_seconds", self._clock.monotonic() - group.started_s)
        self._metrics.add("rows_appended", sum(i.record.rows for i in group.items))
        self._leave(group.nbytes)

    def _leave(self, nbytes: int) -> None:
        with self._condition:
            self._bytes -= nbytes
            self._condition.notify_all()

    def _fail(self, error: Exception, groups: list[_Group], *, written: bool = False) -> None:
        """Accept nothing any more; tell those who wait in ``groups``, in the queue, and in what is ``written``."""
        failure = _failure_of(error)
        with self._condition:
            first = self._failure is None
            if first:
                self._failure = failure
            if written:
                groups = [*groups, *self._written]
                self._written.clear()
            items = [item for group in groups for item in group.items]
            items.extend(self._queue)
            self._queue.clear()
        if first:
            LOG.error("log.commit_failed", error=repr(error), batches=len(items))
            self._health.report("log", "failed", failure.message, failure.hint)
        for item in items:
            item.future.set_exception(failure)
        self._leave(sum(i.record.payload.size for i in items))

    def _tell(self, group: list[Pending]) -> None:
        """Let those who follow a table know, once for all that came with one sync."""
        first: dict[Table, int] = {}
        for item in group:
            first.setdefault(item.table, item.record.first_seq)
        now_us = self._clock.now_us()
        for table, seq in first.items():
            table.arrivals.tell(seq, table.state.last_seq, now_us)


def _failure_of(error: Exception) -> LogClosedError:
    if isinstance(error, LogClosedError):
        return error
    return LogClosedError(
        f"rows could not be logged and published: {error!r}. Nothing is accepted any more.",
        hint="Restart the server; what was acknowledged is in the log.",
    )
