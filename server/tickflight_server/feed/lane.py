"""What one backend has kept and not yet seen acknowledged: a bounded queue between an event loop and a thread.

The rule of this file: every row is counted in exactly one place, so that at rest

    received = queued + in flight + acknowledged + rejected + failed + dropped

The callback appends first and looks at the bound afterwards: whatever happens next, the object is kept or counted.
Appending takes no lock (``deque.append`` is atomic); the rest, which is rare, does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import structlog

from tickflight_server.feed.gaps import Drop, GapWatch, note_drop

LOG = structlog.get_logger(__name__)

Overflow = Literal["block", "drop_oldest"]
Split = Callable[[Sequence[Any]], list[tuple[str, Sequence[Any]]]]
"""Says which table each kept item belongs to, order kept within a table."""

LOG_INTERVAL_S = 1.0


class Lane:
    """A bounded queue with its counters. ``wake(full)`` tells the collector's thread that something waits."""

    def __init__(
        self, name: str, split: Split, *, rows_max: int, overflow: Overflow, watch: GapWatch | None = None
    ) -> None:
        assert rows_max > 0, "a queue without room"
        self.name = name
        self.split = split
        self.rows_max = rows_max
        self.overflow: Overflow = overflow
        self.watch = watch
        self.kept: deque[Any] = deque()
        self._drops: dict[tuple[Any, Any], Drop] = {}
        self.drops_before: dict[tuple[Any, Any], Drop] = {}  # what was dropped before the rows that were taken last
        # attend() is called when the queue is longer than this: 0 on an empty queue (someone must be woken), then a
        # full batch (he must be woken early), then the bound.
        self.attention = 0
        self.batch_rows_max = rows_max
        self.wake: Callable[[bool], None] | None = None
        self.closing = False
        self.lock = threading.Lock()
        self.settled_or_moved = threading.Condition(self.lock)
        self.taken = 0
        self.converted = 0
        self.sent = 0
        self.acknowledged = 0
        self.rejected = 0
        self.failed = 0
        self.dropped = 0
        self.batches = 0
        self.last_error: str | None = None
        self._in_flight_since: dict[int, float] = {}
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._logged: dict[str, float] = {}

    # Called on the event loop.

    async def attend(self, attach: Callable[[], Callable[[bool], None]]) -> None:
        """Do what a queue that has become longer than ``attention`` needs: wake, drop or wait."""
        wake = self.wake
        if wake is None:
            wake = attach()
        length = len(self.kept)
        full = length >= self.batch_rows_max
        # The first before the second: the thread that is woken sets attention back before it looks at the queue.
        self.attention = self.rows_max if full else min(self.batch_rows_max, self.rows_max)
        wake(full)
        if length <= self.rows_max:
            return
        if self.overflow == "drop_oldest":
            self.drop_oldest()
        elif not self.closing:
            await self._room()

    def drop_oldest(self) -> None:
        """Push out what the queue has no room for."""
        with self.lock:
            while len(self.kept) > self.rows_max:
                item = self.kept.popleft()
                self.dropped += 1
                if self.watch is not None:
                    note_drop(self._drops, item)
        self.log_seldom("overflow", "queue full: oldest rows dropped", dropped=self.dropped, rows_max=self.rows_max)

    async def _room(self) -> None:
        self.log_seldom("overflow", "queue full: the feed waits for the server", rows_max=self.rows_max)
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[None] = loop.create_future()
            with self.lock:
                if len(self.kept) <= self.rows_max or self.closing:
                    return
                self._waiting.append((loop, future))
            await future

    def close_soon(self) -> None:
        """Let waiting callbacks go on: the loop is about to stop, and what they brought is already kept."""
        self.closing = True
        self._let_in()

    # Called on the collector's thread.

    def take(self, rows_max: int) -> list[Any]:
        """Take up to ``rows_max`` of the oldest rows out of the queue."""
        # Before taking, so that whoever appends after it wakes this thread again.
        self.attention = 0
        with self.lock:
            count = min(len(self.kept), rows_max)
            pop = self.kept.popleft
            items = [pop() for _ in range(count)]
            self.taken += count
            if count:
                self.drops_before, self._drops = self._drops, {}
        if count and self._waiting:
            self._let_in()
        return items

    def take_drops(self) -> dict[tuple[Any, Any], Drop]:
        """Take what was dropped since rows were last taken."""
        with self.lock:
            drops, self._drops = self._drops, {}
        return drops

    def _let_in(self) -> None:
        with self.lock:
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_finish, future)
            except RuntimeError:  # the loop has ended meanwhile
                continue

    def flown(self, batch: int, rows: int) -> None:
        """Count a batch as sent."""
        with self.lock:
            self.batches += 1
            self.sent += rows
            self._in_flight_since[batch] = time.monotonic()

    def landed(self, batch: int, *, acknowledged: int = 0, rejected: int = 0, failed: int = 0) -> None:
        """Count the rows of a batch as settled, each in one way."""
        with self.settled_or_moved:
            self._in_flight_since.pop(batch, None)
            self.acknowledged += acknowledged
            self.rejected += rejected
            self.failed += failed
            self.settled_or_moved.notify_all()

    def give_up_queue(self) -> int:
        """Count what still waits as failed; returns how many rows that is."""
        with self.settled_or_moved:
            count = len(self.kept)
            for _ in range(count):
                self.kept.popleft()
            self.taken += count
            self.failed += count
            self.settled_or_moved.notify_all()
        self._let_in()
        return count

    # Called from anywhere.

    @property
    def received(self) -> int:
        """Rows that callbacks have brought."""
        return self.taken + self.dropped + len(self.kept)

    @property
    def settled(self) -> int:
        """Rows whose fate is known."""
        return self.acknowledged + self.rejected + self.failed + self.dropped

    @property
    def in_flight(self) -> int:
        """Rows taken from the queue and not settled."""
        return self.taken - (self.acknowledged + self.rejected + self.failed)

    def wait_settled(self, upto: int, deadline: float) -> bool:
        """Wait until ``upto`` rows are settled, or until the monotonic ``deadline``."""
        with self.settled_or_moved:
            return self.settled_or_moved.wait_for(lambda: self.settled >= upto, max(0.0, deadline - time.monotonic()))

    def metrics(self) -> dict[str, Any]:
        """Return the counters by name; ``lag`` is the age in seconds of the oldest batch without an answer."""
        with self.lock:
            oldest = min(self._in_flight_since.values(), default=None)
            return {
                "received": self.received,
                "converted": self.converted,
                "sent": self.sent,
                "acknowledged": self.acknowledged,
                "rejected": self.rejected,
                "dropped": self.dropped,
                "failed": self.failed,
                "queue_rows": len(self.kept),
                "in_flight_rows": self.in_flight,
                "batches": self.batches,
                "last_error": self.last_error,
                "lag": 0.0 if oldest is None else time.monotonic() - oldest,
            }

    def log_seldom(self, key: str, event: str, **values: Any) -> None:
        """Log a warning, at most once a second of each kind; the values are running counts, so none is lost."""
        now = time.monotonic()
        if now - self._logged.get(key, -LOG_INTERVAL_S) >= LOG_INTERVAL_S:
            self._logged[key] = now
            LOG.warning(event, lane=self.name, **values)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
