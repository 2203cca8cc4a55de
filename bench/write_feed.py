"""The feed's side of ingest: cryptofeed's objects to durable rows, and raw messages beside an empty callback.

The rule of this file: this process is the feed process, the server is one of its own, and the clock stops when every
row is acknowledged durable. No key comes twice.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptofeed.types import Trade

from bench.figures import Aim, Figure, figure
from bench.markets import Market, symbols
from bench.messages import record
from bench.servers import running_server
from tickflight_server.feed import TradeTickflight
from tickflight_server.feed.backends import BACKENDS, backend_for
from tickflight_server.feed.playback import find_recordings, play

RUNS = 5
ROWS = 300_000
MESSAGES = {"trades": 30_000, "ticker": 20_000, "l2_book": 10_000}
REPO = Path(__file__).parent.parent
_DAY_US = 86_400_000_000
_START_US = 1_780_012_800_000_000


def run() -> Iterator[Figure]:
    """Measure both; about a minute."""
    yield from callbacks()
    yield from messages()


def callbacks() -> Iterator[Figure]:
    """Trades per second from the first callback until all are acknowledged durable, one feed process."""
    market = Market(tuple(symbols(50)))
    rates, limits = [], []
    with running_server() as (address, _):
        for turn in range(RUNS + 1):
            trades = market.trades(ROWS, start_us=_START_US + turn * _DAY_US)  # of another day: none is a repeat
            seconds = asyncio.run(_call_back(address, trades))
            if turn:
                rates.append(ROWS / seconds)
                limits.append(_read_all(trades))
    conditions = f"{ROWS} trades of 50 symbols a run, TradeTickflight, one feed process"
    yield figure("write_feed", "callback to durable", rates, "events/s", conditions, aim=Aim(">=", 500_000))
    what = "reading each trade's seven attributes, numbers to float, in list comprehensions, and nothing else"
    yield figure("write_feed", "limit: one core's reading of objects", limits, "events/s", what)


def _read_all(trades: Sequence[Trade]) -> float:
    started = time.perf_counter()
    for _ in (
        [t.exchange for t in trades],
        [t.symbol for t in trades],
        [t.side for t in trades],
        [t.id for t in trades],
        [t.timestamp for t in trades],
        [float(t.amount) for t in trades],
        [float(t.price) for t in trades],
    ):
        pass
    return len(trades) / (time.perf_counter() - started)


async def _call_back(address: str, trades: Sequence[Trade]) -> float:
    backend = TradeTickflight(address)
    backend.start(asyncio.get_running_loop())
    await asyncio.to_thread(backend.connect, 30.0)
    started = time.perf_counter()
    for trade in trades:
        await backend(trade, trade.timestamp + 0.01)
    await backend.stop()
    seconds = time.perf_counter() - started
    told = backend.get_metrics()
    assert told["acknowledged"] == len(trades), told
    return seconds


class _Nothing:
    """A callback that does nothing: what cryptofeed itself costs."""

    def start(self, *_: object) -> None:
        """Be started, as backends are."""

    async def stop(self) -> None:
        """Be stopped, as backends are."""

    async def __call__(self, obj: Any, receipt_timestamp: Any) -> None:
        """Take an event and forget it."""


def messages() -> Iterator[Figure]:
    """Messages per second through cryftofeed's parsers to durable rows, beside an empty callback, in turns."""
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        made = Path(name) / "BINANCE"
        record(made, MESSAGES)
        for what, paths in (("generated messages", [made]), *_longer(recordings())):
            ours, empty = [], []
            count = 0
            for turn in range(RUNS + 1):
                with running_server() as (address, _):
                    count, seconds = _stored(address, paths)
                played, nothing = _played(paths)
                assert played == count
                if turn:
                    ours.append(count / seconds)
                    empty.append(count / nothing)
            conditions = f"{count} messages through cryptofeed's playback, until every row is durable"
            yield figure(
                *("write_feed", f"{what} to durable", ours, "messages/s", conditions),
                beside=empty,
                ratio_to="cryptofeed with an empty callback",
                aim=Aim(">=", 0.9),
            )
            yield figure("write_feed", f"{what}, empty callback", empty, "messages/s", conditions)


def _longer(found: Iterator[tuple[str, list[Path]]]) -> Iterator[tuple[str, list[Path]]]:
    """Yield the recordings that take long enough to have a rate, without BITSTAMP, whose handler sleeps for seconds.

    The sandbox's 755 messages take cryptofeed 6 ms, less than one sync of the log.
    """
    for name, folders in found:
        exchanges = [p for f in folders for p in sorted(f.iterdir()) if p.is_dir() and p.name != "BITSTAMP"]
        if exchanges:
            yield f"{name} but BITSTAMP's", exchanges


def _played(paths: Sequence[Path]) -> tuple[int, float]:
    started = time.perf_counter()
    nothing = _Nothing()
    result = play(paths, dict.fromkeys(BACKENDS, nothing))
    return result.messages, time.perf_counter() - started


def _stored(address: str, paths: Sequence[Path]) -> tuple[int, float]:
    backends = {channel: backend_for(channel, address, gaps=False) for channel in BACKENDS}
    for backend in backends.values():
        backend.start()
        backend.connect()
    started = time.perf_counter()
    result = play(paths, backends)
    for backend in backends.values():
        backend.drain()
    seconds = time.perf_counter() - started
    told = {channel: backend.get_metrics() for channel, backend in backends.items()}
    for backend in backends.values():
        backend.close()
    stored = {c: m["acknowledged"] + m["rejected"] for c, m in told.items() if m["received"]}
    assert stored == result.callbacks, (stored, result.callbacks)
    return result.messages, seconds


def recordings() -> Iterator[tuple[str, list[Path]]]:
    """Yield names and folders of recordings: the sandbox's, and real ones where there are some."""
    yield "sandbox recording", [REPO / "tests" / "data" / "sandbox" / "BINANCE"]
    folder = Path(os.environ.get("TICKFLIGHT_RECORDINGS", REPO.parent / "shared" / "recordings"))
    if folder.is_dir() and find_recordings([folder]):
        yield "real recordings", [folder]
