"""How soon SQL shows an event: from the feed's callback until an answer has its row, by rate.

The rule of this file: server, feed and the one who asks are processes of their own, with one clock.
The feed writes the time of the callback as the row's receipt timestamp; a row is seen when the first
answer with its ``seq`` or a later one is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import tickflight
from bench.figures import Aim, Figure, figure
from bench.markets import Market, symbols
from bench.processes import together
from bench.servers import running_server
from tickflight_server.feed import TradeTickflight

RATES = (10_000, 100_000)
RUNS = 5
WARM_S, SECONDS = 0.5, 2.0
P99_MS = 50.0
MARKET = Market(tuple(symbols(50)), seed=7)
NEWEST = "SELECT max(seq) AS n FROM trades"


def run() -> Iterator[Figure]:
    """Measure every rate; about a minute."""
    for rate in RATES:
        delays: list[np.ndarray] = []
        asked: list[float] = []
        for _ in range(RUNS):
            with running_server() as (address, _):
                _, (waits, answers) = together(2, play, address, rate)
            delays.append(waits)
            asked.append(answers)
        conditions = (
            f"{rate:,} trades/s for {SECONDS:g} s, TradeTickflight in a feed process, `{NEWEST}` asked again and again "
            "by one client"
        )
        for percent in (50, 99):
            found = [float(np.percentile(d, percent)) for d in delays]
            aim = Aim("<=", P99_MS) if percent == 99 else None
            yield figure("fresh", f"callback to visible p{percent}, {rate:,}/s", found, "ms", conditions, aim=aim)
        yield figure("fresh", f"answers, {rate:,}/s", asked, "queries/s", conditions)


def play(turn: Any, place: int, address: str, rate: int) -> Any:
    """Be the feed, or the one who asks."""
    total = int(rate * (WARM_S + SECONDS))
    return watch(turn, address, total, int(rate * WARM_S)) if place else asyncio.run(feed(turn, address, rate, total))


async def feed(turn: Any, address: str, rate: int, total: int) -> None:
    """Call back at an even rate."""
    trades = MARKET.trades(total, start_us=time.time_ns() // 1000)
    backend = TradeTickflight(address)
    backend.start(asyncio.get_running_loop())
    await asyncio.to_thread(backend.connect, 30.0)
    await asyncio.to_thread(turn)
    began, done = time.perf_counter(), 0
    while done < total:
        due = min(total, int((time.perf_counter() - began) * rate) + 1)
        for trade in trades[done:due]:
            await backend(trade, time.time())
        done = due
        await asyncio.sleep(0.0005)
    await backend.stop()


def watch(turn: Any, address: str, total: int, warm: int) -> tuple[np.ndarray, float]:
    """Ask until all is seen; return the milliseconds of each row after the first ``warm``, and answers a second."""
    seen: list[tuple[int, int]] = []
    with tickflight.connect(address) as client:
        newest = 0
        client.sql(NEWEST).arrow()
        turn()
        began = time.monotonic()
        while newest < total:
            newest = client.sql(NEWEST).arrow()["n"][0].as_py() or 0
            seen.append((time.time_ns() // 1000, newest))
        rate = len(seen) / (time.monotonic() - began)
        called = client.sql("SELECT receipt_timestamp FROM trades ORDER BY seq").arrow()
    times, counts = (np.array(column) for column in zip(*seen, strict=True))
    first = np.searchsorted(counts, np.arange(1, total + 1))
    waits = (times[first] - called["receipt_timestamp"].cast("int64").to_numpy()) / 1000
    return waits[warm:], rate
