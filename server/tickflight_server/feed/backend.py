"""What all cryptofeed backends of this project share: a bounded queue each, cryptofeed's lifecycles, the counters.

The rule of this file: a callback keeps the object's attributes and returns; nothing is converted or awaited on the
feed's event loop (save room in a full queue, where that is the setting). cryptofeed is not needed for it: both of its
lifecycles are methods here, ``start``/``stop`` of 2.4.1 and ``start_writer``/``begin_shutdown``/``stop`` of 3.x, and a
backend that is never started starts itself with its first row.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import structlog

from tickflight_server.errors import ConfigError
from tickflight_server.feed.collector import Collector, CollectorOptions, acquire, release
from tickflight_server.feed.convert import reader
from tickflight_server.feed.gaps import STALL_CHANNELS, STALL_SECONDS, Carried, GapWatch
from tickflight_server.feed.lane import Lane, Overflow
from tickflight_server.feed.sinks import FlightSink, Opener, Params, Sink, embedded_sink
from tickflight_server.schemas import STORED, NumericType

LOG = structlog.get_logger(__name__)


class Tickflight:
    """What all backends share: one bounded queue each, one collector per process and server.

    ``address`` is the server's, ``grpc://host:port``; ``embedded`` is a store, a path or settings instead, for a store
    in this process. ``queue_rows_max`` bounds what waits; a full queue blocks the feed or drops the oldest rows,
    counted and logged. Backends of one process with the same address and credentials share a collector, whose batching
    settings are those of the first. Holes go to table ``system.gaps``, unless ``gaps`` is false: reconnects, missing
    book numbers, drops, and ``stall_seconds`` (0 is never) without an event of a symbol in one of ``stall_channels``.
    ``numeric`` overrides what the server says about its number type.
    """

    default_key: ClassVar[str]

    def __init__(
        self,
        address: str | None = None,
        *,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        embedded: Any = None,
        open_store: Opener | None = None,
        queue_rows_max: int = 1_000_000,
        overflow: Overflow = "block",
        batch_interval_ms: float = 10.0,
        batch_rows_max: int = 65_536,
        drain_timeout_s: float = 30.0,
        stall_seconds: float = STALL_SECONDS,
        stall_channels: Sequence[str] = STALL_CHANNELS,
        gaps: bool = True,
        numeric: NumericType | None = None,
    ) -> None:
        _check(address, embedded, queue_rows_max, overflow, batch_interval_ms, batch_rows_max)
        self._options = CollectorOptions(batch_interval_ms, batch_rows_max, drain_timeout_s, numeric)
        self._key: Hashable
        self._make_sink: Callable[[], Sink]
        if embedded is not None:
            self._key = ("embedded", _place(embedded))
            self._make_sink = lambda: embedded_sink(embedded, open_store)
        else:
            assert address is not None, "_check refuses this"
            self._key = (address, username, password, token)
            self._make_sink = lambda: FlightSink(address, username=username, password=password, token=token)
        watch = GapWatch(self._split, stall_seconds=stall_seconds, stall_channels=stall_channels)
        self._watch = watch if gaps else None
        self._lane = Lane(
            type(self).__name__, self._split, rows_max=queue_rows_max, overflow=overflow, watch=self._watch
        )
        self._read = reader(self.default_key) if self.default_key in STORED else _unread  # books are no flat channel
        self._attach_lock = threading.Lock()
        self._collector: Collector | None = None
        self._starts = 0
        self._endings = 0

    async def __call__(self, obj: Any, receipt_timestamp: float) -> None:
        """Keep what is stored of ``obj``. When this returns it is in the queue, or counted.

        The object itself is let go, and with it the message it came from: thousands of messages in memory cost more
        than their reading, since Python's garbage collector walks through all of them again and again.
        """
        lane = self._lane
        lane.kept.append((self._read(obj), receipt_timestamp))
        if len(lane.kept) > lane.attention:
            await lane.attend(self._attach)

    def _split(self, items: Sequence[Any]) -> list[tuple[str, Sequence[Any]]]:
        return [(self.default_key, items)]

    # cryptofeed's lifecycle.

    def start(self, loop: asyncio.AbstractEventLoop | None = None, multiprocess: bool = False) -> None:
        """Begin (cryptofeed 2.4.1, once per channel and feed). ``multiprocess`` is not needed: a thread collects."""
        if multiprocess:
            LOG.info(
                "backend_multiprocessing has no effect here: rows are collected by a thread",
                backend=type(self).__name__,
            )
        self._begin()

    def start_writer(self, tg: Any, name: str, owner: Any = None) -> None:
        """Begin (cryptofeed 3.x, once per channel and feed). There is no task to wait for: ``stop`` waits itself."""
        self._begin()

    def _begin(self) -> None:
        self._starts += 1
        if self._watch is not None and "cryptofeed" in sys.modules:
            from tickflight_server.feed.compat import watch_connections  # late: a backend works without cryptofeed

            watch_connections()
        self._attach()

    def begin_shutdown(self) -> None:
        """Let callbacks that wait for room go on, once all feeds are about to close connections (cryptofeed 3.x)."""
        self._endings += 1
        if self._endings >= self._starts:
            self._lane.close_soon()

    async def stop(self) -> bool:
        """Drain. When this returns, every row called back before is durable, or counted as failed and logged.

        Called once per channel and feed; the last call lets go of the collector. Returns whether it was the last.
        """
        self._starts = max(0, self._starts - 1)
        self._endings = max(0, self._endings - 1)
        last = self._starts == 0
        if last:
            self._lane.close_soon()
        await asyncio.get_running_loop().run_in_executor(None, self.close if last else self.drain)
        return last

    async def write(self, data: Mapping[str, Any]) -> None:
        """Keep a row given as the dict that ``to_dict`` makes, its ``receipt_timestamp`` included."""
        await self(SimpleNamespace(**data), data.get("receipt_timestamp"))  # type: ignore[arg-type]

    # What `connections` tells.

    def connection_opened(self, what: Carried, at: float) -> None:
        """Take note that a connection of cryptofeed is open; ``at`` is in seconds."""
        if self._watch is not None:
            self._watch.opened(what, at)

    def connection_lost(self, what: Carried, at: float, why: str) -> None:
        """Take note that a connection of cryptofeed is lost: a hole in what it carries begins."""
        if self._watch is not None:
            self._watch.lost(what, at, why)

    # The adapter methods of the specification.

    async def query(self, sql: str, params: Params = None) -> pa.Table:
        """Run ``sql`` where the rows go, with bound ``params``."""
        return await asyncio.get_running_loop().run_in_executor(
            None, lambda: self._attached().sink().query(sql, params)
        )

    async def flush_buffer(self) -> int:
        """Send what is kept and wait for the answers; returns how many rows have none."""
        return await asyncio.get_running_loop().run_in_executor(None, self.drain)

    def get_metrics(self) -> dict[str, Any]:
        """Return the counters: where each row is that was called back (see ``lane``), and the last error."""
        return self._lane.metrics()

    def get_gaps(self) -> tuple[int, list[dict[str, Any]]]:
        """Return how many holes were found, and what is silent at this moment for longer than it may be."""
        return (0, []) if self._watch is None else (self._watch.found, self._watch.stalled())

    # Without an event loop.

    def connect(self, timeout_s: float = 30.0) -> None:
        """Reach the server or open the store now. Blocks; raises what keeps it from that after ``timeout_s``."""
        self._attached().sink(timeout_s)

    def drain(self, timeout_s: float | None = None) -> int:
        """Wait until every row called back before is settled. Blocks; returns how many rows are not."""
        if self._collector is None and not self._lane.kept:
            return 0
        return self._attached().drain(self._lane, timeout_s)

    def close(self) -> None:
        """Drain and let go of the collector. Blocks. A later callback starts the backend again."""
        missing = self.drain()
        with self._attach_lock:
            collector, self._collector = self._collector, None
            if collector is not None:
                collector.remove(self._lane)
        if collector is not None:
            collector.tell_gaps(self._lane, stopped=True)
            collector.drain_gaps()
            release(collector)
        if self._lane.kept and not missing:
            # cryptofeed 2.4.1 closes connections after it has stopped backends: what came since waits for the next
            # stop, or for the end of the process.
            self._attach()

    def _attached(self) -> Collector:
        self._attach()
        assert self._collector is not None, "just attached"
        return self._collector

    def _attach(self) -> Callable[[bool], None]:
        with self._attach_lock:
            if self._collector is None:
                self._collector = acquire(self._key, self._make_sink, self._options)
                self._collector.add(self._lane)
            wake = self._lane.wake
        assert wake is not None, "an attached lane can wake its collector"
        if self._lane.kept:
            wake(False)
        return wake


def _unread(obj: Any) -> tuple[Any, ...]:
    raise NotImplementedError("a backend of no one table has a callback of its own")


def _place(embedded: Any) -> Hashable:
    """Return what tells one embedded store from another: its folder, or the object itself."""
    section = getattr(embedded, "lakehouse", embedded)
    folder = getattr(section, "storage_path", section)
    return str(Path(folder).resolve()) if isinstance(folder, str | Path) else id(embedded)


def _check(
    address: str | None,
    embedded: Any,
    queue_rows_max: int,
    overflow: str,
    batch_interval_ms: float,
    batch_rows_max: int,
) -> None:
    if (address is None) == (embedded is None):
        raise ConfigError("a backend needs either an address or embedded=.", hint="TradeTickflight('grpc://host:8815')")
    if overflow not in ("block", "drop_oldest"):
        raise ConfigError(f"overflow={overflow!r} is not known.", hint="'block' and 'drop_oldest' are.")
    for name, value in (("queue_rows_max", queue_rows_max), ("batch_rows_max", batch_rows_max)):
        if value < 1:
            raise ConfigError(f"{name}={value} leaves no room.", hint="At least 1.")
    if batch_interval_ms < 0:
        raise ConfigError(f"batch_interval_ms={batch_interval_ms} is negative.", hint="10 is the default.")
