"""The holes that one backend knows of: what its connections, its queue and its events tell, put together.

The rule of this file: the event loop only leaves news here, in a queue without a lock; everything is worked out on the
collector's thread, once a batch. News are read after the batch is taken out of the lane, so that what happened before
an event is known when the event is looked at.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tickflight_server.errors import ConfigError
from tickflight_server.feed.columns import SECONDS_END
from tickflight_server.feed.finder import Gap, GapFinder, Outage
from tickflight_server.schemas import MARKET

STALL_SECONDS = 300.0
STALL_CHANNELS = ("trades", "ticker", "l1_book", "l2_book", "l3_book")
"""Channels that are silent only when something is wrong; the others have pauses of hours by their nature."""

DROPS_JOIN_S = 1.0
"""Drops of a full queue go into one row a symbol for so long; an overload of minutes is told by so many rows."""

Split = Callable[[Sequence[Any]], list[tuple[str, Sequence[Any]]]]


@dataclass(frozen=True, slots=True)
class Carried:
    """What a connection carries for one channel. ``symbols`` None stands for all of the exchange."""

    connection: str
    channel: str
    exchange: str
    symbols: frozenset[str] | None


@dataclass(slots=True)
class Drop:
    """Events of one symbol that a full queue pushed out: an item as a sample, first and last receipt, how many."""

    sample: Any
    first: Any
    last: Any
    rows: int = 1


@dataclass(frozen=True, slots=True)
class _Opened:
    what: Carried
    at: float


@dataclass(frozen=True, slots=True)
class _Lost:
    what: Carried
    at: float
    why: str


class GapWatch:
    """Finds the holes in what one lane brings. ``stall_seconds`` of silence in ``stall_channels`` are one; 0 is never.

    ``opened`` and ``lost`` are called on the event loop, ``stalled`` from anywhere, the rest on the collector's thread.
    """

    def __init__(
        self, split: Split, *, stall_seconds: float = STALL_SECONDS, stall_channels: Sequence[str] = STALL_CHANNELS
    ) -> None:
        if stall_seconds < 0:
            raise ConfigError(f"stall_seconds={stall_seconds} is negative.", hint="0 is off.")
        unknown = sorted(set(stall_channels) - set(MARKET))
        if unknown:
            raise ConfigError(f"stall_channels: no channel {unknown[0]!r}.", hint=f"There are {', '.join(MARKET)}.")
        self._split = split
        self._stall_us = dict.fromkeys(stall_channels, round(stall_seconds * 1e6))
        self._lock = threading.Lock()
        self._news: deque[_Opened | _Lost] = deque()
        self._finders: dict[str, GapFinder] = {}
        self._outages: dict[Carried, Outage] = {}
        self._drops: dict[tuple[str, str, str], Drop] = {}
        self._drops_since = 0.0
        self._gaps: list[Gap] = []
        self.found = 0

    # On the event loop.

    def opened(self, what: Carried, at: float) -> None:
        """Take note that a connection is open, for the first time or again."""
        self._news.append(_Opened(what, at))

    def lost(self, what: Carried, at: float, why: str) -> None:
        """Take note that a connection is lost, for a reason in words."""
        self._news.append(_Lost(what, at, why))

    # On the collector's thread.

    def begin(self, drops: dict[tuple[Any, Any], Drop] | None = None) -> None:
        """Take the news in, and what the queue dropped before the events that come now."""
        with self._lock:
            self._take_news()
            if drops:
                self._take_drops(drops)

    def see(self, table: str, batch: pa.RecordBatch, *, whole: bool) -> None:
        """Look at a batch; ``whole`` says that no event between its first and last went to ``rejected``."""
        with self._lock:
            self._keep(self._finder(table).see(batch, whole=whole))

    def take(self, *, stopped: bool = False) -> list[Gap]:
        """Return the holes found since; ``stopped`` adds those that end with the feed, and forgets everything."""
        with self._lock:
            if stopped:
                self._take_news()
                now_us = time.time_ns() // 1000
                for finder in self._finders.values():
                    self._keep(finder.stop(now_us))
                self._outages.clear()
            if self._drops and (stopped or time.monotonic() - self._drops_since >= DROPS_JOIN_S):
                self._keep(_dropped(key, drop) for key, drop in self._drops.items())
                self._drops.clear()
            taken, self._gaps = self._gaps, []
            return taken

    # From anywhere.

    def stalled(self) -> list[dict[str, Any]]:
        """Return what is silent at this moment for longer than it may be."""
        now_us = time.time_ns() // 1000
        with self._lock:
            return [
                {"channel": table, "exchange": exchange, "symbol": symbol, "since": since_us / 1e6}
                for table, finder in self._finders.items()
                for exchange, symbol, since_us in finder.stalled(now_us)
            ]

    def _keep(self, gaps: Iterable[Gap]) -> None:
        before = len(self._gaps)
        self._gaps.extend(gaps)
        self.found += len(self._gaps) - before

    def _finder(self, table: str) -> GapFinder:
        finder = self._finders.get(table)
        if finder is None:
            finder = self._finders[table] = GapFinder(table, self._stall_us.get(table, 0))
        return finder

    def _take_news(self) -> None:
        while self._news:
            news = self._news.popleft()
            what, at_us = news.what, round(news.at * 1e6)
            if isinstance(news, _Lost):
                outage = self._outages[what] = Outage(what.exchange, what.symbols, at_us, news.why)
                self._finder(what.channel).lost(outage)
            elif (lasting := self._outages.pop(what, None)) is not None:
                lasting.open_us = at_us
            else:
                self._finder(what.channel).connected(what.exchange, what.symbols, at_us)

    def _take_drops(self, drops: dict[tuple[Any, Any], Drop]) -> None:
        if not self._drops:
            self._drops_since = time.monotonic()
        for (exchange, symbol), drop in drops.items():
            if not (isinstance(exchange, str) and isinstance(symbol, str) and exchange and symbol):
                continue  # it would have gone to table rejected: no exchange or symbol to tell the hole of
            ((table, _),) = self._split([drop.sample])
            finder = self._finder(table)
            finder.forget_numbers()
            if (last_us := _us(drop.last)) is not None:
                finder.passed((exchange, symbol), last_us)
            known = self._drops.get((table, exchange, symbol))
            if known is None:
                self._drops[table, exchange, symbol] = drop
            else:
                known.last = drop.last
                known.rows += drop.rows


def note_drop(drops: dict[tuple[Any, Any], Drop], item: Any) -> None:
    """Add an item that is pushed out of a queue to ``drops``. Costs about 0.2 microseconds."""
    obj, receipt = item[0], item[1]
    if type(obj) is tuple:  # attributes, of which these are the first
        key = (obj[0], obj[1])
    else:
        key = (getattr(obj, "exchange", None), getattr(obj, "symbol", None) or getattr(obj, "currency", None))
    drop = drops.get(key)
    if drop is None:
        drops[key] = Drop(item, receipt, receipt)
    else:
        drop.last = receipt
        drop.rows += 1


def _dropped(key: tuple[str, str, str], drop: Drop) -> Gap:
    table, exchange, symbol = key
    now = time.time()
    start, end = (now if (us := _us(value)) is None else us / 1e6 for value in (drop.first, drop.last))
    detail = f"{drop.rows} events dropped from a full queue: the first and the last of them"
    return Gap(exchange, symbol, table, "dropped", start, end, detail, received=drop.rows)


def _us(seconds: Any) -> int | None:
    """Return a time of receipt in microseconds, None for what is none."""
    try:
        value = float(seconds)
    except (TypeError, ValueError, OverflowError):
        return None
    return round(value * 1e6) if 0 < value < SECONDS_END else None
