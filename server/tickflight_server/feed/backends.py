"""cryptofeed backends, named as cryptofeed names its own: ``callbacks={TRADES: TradeTickflight("grpc://host:port")}``.

The rule of this file: a callback keeps the object and returns; nothing is converted or awaited on the feed's event loop
(save room in a full queue, where that is the setting). cryptofeed itself is not imported: both of its lifecycles are
methods here, ``start``/``stop`` of 2.4.1 and ``start_writer``/``begin_shutdown``/``stop`` of 3.x, and a backend that is
never started starts itself with its first row.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import structlog

from tickflight_server.errors import ConfigError
from tickflight_server.feed.books import delta_event, kind_of, snapshot_event
from tickflight_server.feed.collector import Collector, CollectorOptions, acquire, release
from tickflight_server.feed.lane import Lane, Overflow
from tickflight_server.feed.sinks import FlightSink, Opener, Params, Sink, embedded_sink
from tickflight_server.schemas import NumericType

LOG = structlog.get_logger(__name__)


class Tickflight:
    """What all backends share: one bounded queue each, one collector per process and server.

    ``address`` is the server's, ``grpc://host:port``; ``embedded`` is a store, a path or settings instead, for a store
    in this process. ``queue_rows_max`` bounds what waits; a full queue blocks the feed or drops the oldest rows,
    counted and logged. Backends of one process with the same address and credentials share a collector, whose batching
    settings are those of the first. ``numeric`` overrides what the server says about its number type.
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
        self._lane = Lane(type(self).__name__, self._split, rows_max=queue_rows_max, overflow=overflow)
        self._attach_lock = threading.Lock()
        self._collector: Collector | None = None
        self._starts = 0
        self._endings = 0

    async def __call__(self, obj: Any, receipt_timestamp: float) -> None:
        """Keep ``obj``. When this returns it is in the queue, or counted."""
        lane = self._lane
        lane.kept.append((obj, receipt_timestamp))
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
        self._starts += 1
        self._attach()

    def start_writer(self, tg: Any, name: str, owner: Any = None) -> None:
        """Begin (cryptofeed 3.x, once per channel and feed). There is no task to wait for: ``stop`` waits itself."""
        self._starts += 1
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


class TradeTickflight(Tickflight):
    """Channel ``trades``."""

    default_key = "trades"


class TickerTickflight(Tickflight):
    """Channel ``ticker``."""

    default_key = "ticker"


class L1BookTickflight(Tickflight):
    """Channel ``l1_book``."""

    default_key = "l1_book"


class FundingTickflight(Tickflight):
    """Channel ``funding``."""

    default_key = "funding"


class OpenInterestTickflight(Tickflight):
    """Channel ``open_interest``."""

    default_key = "open_interest"


class LiquidationsTickflight(Tickflight):
    """Channel ``liquidations``."""

    default_key = "liquidations"


class CandlesTickflight(Tickflight):
    """Channel ``candles``."""

    default_key = "candles"


class IndexTickflight(Tickflight):
    """Channel ``index``."""

    default_key = "index"


class OrderInfoTickflight(Tickflight):
    """Channel ``order_info``."""

    default_key = "order_info"


class FillsTickflight(Tickflight):
    """Channel ``fills``."""

    default_key = "fills"


class BalancesTickflight(Tickflight):
    """Channel ``balances``."""

    default_key = "balances"


class PositionsTickflight(Tickflight):
    """Channel ``positions``."""

    default_key = "positions"


class TransactionsTickflight(Tickflight):
    """Channel ``transactions``."""

    default_key = "transactions"


class BookTickflight(Tickflight):
    """Channels ``l2_book`` and ``l3_book``: which one is seen from the book, or said by ``channel``.

    ``snapshots_only`` stores the full book at every event instead of deltas. ``snapshot_interval=N`` stores the full
    book besides, after every N deltas of a symbol; 0, the default, stores an event a callback.
    """

    default_key = "book"

    def __init__(
        self,
        address: str | None = None,
        *,
        channel: str | None = None,
        snapshots_only: bool = False,
        snapshot_interval: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(address, **options)
        if channel not in (None, "l2_book", "l3_book"):
            raise ConfigError(f"channel={channel!r} is not a book.", hint="l2_book and l3_book are.")
        if snapshot_interval < 0:
            raise ConfigError(f"snapshot_interval={snapshot_interval} is negative.", hint="0 is off.")
        self._channel = channel
        self._snapshots_only = snapshots_only
        self._snapshot_interval = snapshot_interval
        self._deltas: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._kinds: dict[tuple[Any, Any], str] = {}

    async def __call__(self, book: Any, receipt_timestamp: float) -> None:
        """Keep the event. cryptofeed changes ``book`` afterwards, so its levels are copied now, at C speed."""
        lane = self._lane
        if book.delta is None or self._snapshots_only:
            lane.kept.append(snapshot_event(book, receipt_timestamp))
        else:
            lane.kept.append(delta_event(book, receipt_timestamp))
            if self._snapshot_interval and self._snapshot_due(book):
                lane.kept.append(snapshot_event(book, receipt_timestamp))
        if len(lane.kept) > lane.attention:
            await lane.attend(self._attach)

    async def write(self, data: Mapping[str, Any]) -> None:
        """Keep an event given as the dict that ``to_dict`` makes: with ``book`` a snapshot, else a ``delta``."""
        levels = {"bid": (), "ask": ()} | dict(data.get("book") or data.get("delta") or {})
        book = SimpleNamespace(
            exchange=data.get("exchange"),
            symbol=data.get("symbol"),
            timestamp=data.get("timestamp"),
            sequence_number=data.get("sequence_number"),
            checksum=data.get("checksum"),
            delta=None if data.get("book") is not None else levels,
            book=SimpleNamespace(bids=levels["bid"], asks=levels["ask"]),
        )
        await self(book, data.get("receipt_timestamp"))  # type: ignore[arg-type]

    def _snapshot_due(self, book: Any) -> bool:
        key = (book.exchange, book.symbol)
        self._deltas[key] += 1
        if self._deltas[key] < self._snapshot_interval:
            return False
        self._deltas[key] = 0
        return True

    def _split(self, items: Sequence[Any]) -> list[tuple[str, Sequence[Any]]]:
        if self._channel is not None:
            return [(self._channel, items)]
        tables: dict[str, list[Any]] = {"l2_book": [], "l3_book": []}
        for event in items:
            tables[kind_of(event, self._kinds)].append(event)
        return [(table, events) for table, events in tables.items() if events]


BACKENDS: Mapping[str, type[Tickflight]] = {
    "trades": TradeTickflight,
    "ticker": TickerTickflight,
    "l1_book": L1BookTickflight,
    "l2_book": BookTickflight,
    "l3_book": BookTickflight,
    "funding": FundingTickflight,
    "open_interest": OpenInterestTickflight,
    "liquidations": LiquidationsTickflight,
    "candles": CandlesTickflight,
    "index": IndexTickflight,
    "order_info": OrderInfoTickflight,
    "fills": FillsTickflight,
    "balances": BalancesTickflight,
    "positions": PositionsTickflight,
    "transactions": TransactionsTickflight,
}
"""The backend of every channel, by cryptofeed's own constant."""


def backend_for(
    channel: str,
    address: str | None = None,
    *,
    snapshots_only: bool = False,
    snapshot_interval: int = 0,
    **options: Any,
) -> Tickflight:
    """Return a backend for ``channel``; the snapshot settings matter to books alone."""
    if BACKENDS[channel] is BookTickflight:
        return BookTickflight(
            address, channel=channel, snapshots_only=snapshots_only, snapshot_interval=snapshot_interval, **options
        )
    return BACKENDS[channel](address, **options)


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
