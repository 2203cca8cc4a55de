"""How soon a subscriber has an event: callback to received and durable to received, by rate and number of subscribers.

Server, feed and subscribers are processes of their own, with one clock. The time of the callback is the row's receipt
timestamp, and the mark of a batch tells since when its oldest row is durable: all of its rows count with that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing as mp
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from cryptofeed.types import Trade

import tickflight
from bench.figures import Figure, figure
from bench.processes import cpu_s
from bench.servers import server_on
from tickflight_server.feed import TradeTickflight

RATES = (1_000, 10_000, 100_000)
SUBSCRIBERS = (1, 10, 100)
WARM_S = 1.0  # what comes first finds modules that are not loaded yet, and is not counted
SECONDS = float(os.environ.get("TICKFLIGHT_BENCH_TAIL_S", "4"))
RUNS = 3
READING_PROCESSES = 2
SYMBOLS = [f"COIN{i}-USDT" for i in range(50)]
_SPAWN = mp.get_context("spawn")


@dataclass(frozen=True)
class Run:
    """What one run gave: milliseconds for each row and subscriber, and the server's processor time a second."""

    callback_ms: np.ndarray
    durable_ms: np.ndarray
    server_cpu: float


def run() -> Iterator[Figure]:
    """Measure every rate with every number of subscribers; about four minutes."""
    cost: dict[tuple[int, int], float] = {}
    for rate in RATES:
        for count in SUBSCRIBERS:
            runs = [_measure(rate, count, asking=False) for _ in range(RUNS)]
            conditions = f"{rate} trades/s for {SECONDS:g} s in batches as the feed makes them, {count} subscribers"
            yield from _figures(f"{rate}/s to {count}", runs, conditions)
            cpu = [r.server_cpu for r in runs]
            cost[rate, count] = float(np.median(cpu))
            name = f"server's processor time, {rate}/s to {count}"
            yield figure("tail", name, cpu, "s/s", conditions)
        ratio = cost[rate, 10] / cost[rate, 1]
        yield figure("tail", f"cost of 10 subscribers beside 1, {rate}/s", [ratio], "x", "processor time of the server")
    for rate in RATES:
        runs = [_measure(rate, 1, asking=True) for _ in range(RUNS)]
        conditions = f"{rate} trades/s for {SECONDS:g} s, SELECT * WHERE seq > … every 100 ms by one client"
        yield from _figures(f"asking every 100 ms, {rate}/s", runs, conditions)


def _figures(name: str, runs: list[Run], conditions: str) -> Iterator[Figure]:
    for what, values in (
        ("callback to received", [r.callback_ms for r in runs]),
        ("durable to received", [r.durable_ms for r in runs]),
    ):
        if any(len(v) == 0 for v in values):
            continue
        for percentile in (50, 99):
            found = [float(np.percentile(v, percentile)) for v in values]
            yield figure("tail", f"{what} p{percentile}, {name}", found, "ms", conditions)


def _measure(rate: int, subscribers: int, *, asking: bool) -> Run:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tickflight-bench-"))
        address, pid = stack.enter_context(server_on(Path(folder)))
        total, warm = int(rate * (SECONDS + WARM_S)), int(rate * WARM_S)
        answers: Any = _SPAWN.Queue()
        ready: Any = _SPAWN.Semaphore(0)
        target = _ask if asking else _subscribe
        shares = np.array_split(np.arange(subscribers), min(subscribers, READING_PROCESSES))
        readers = [
            _SPAWN.Process(target=target, args=(address, len(share), total, warm, ready, answers)) for share in shares
        ]
        go: Any = _SPAWN.Event()
        fed: Any = _SPAWN.Event()
        feed = _SPAWN.Process(target=_feed, args=(address, rate, total, go, fed))
        for process in (*readers, feed):
            process.start()
            stack.callback(process.kill)
        for _ in range(subscribers):
            ready.acquire(timeout=60)
        fed.wait(120)
        cpu, began = cpu_s(pid), time.monotonic()
        go.set()
        got = [answers.get(timeout=120) for _ in readers]
        used = (cpu_s(pid) - cpu) / (time.monotonic() - began)
        callback, durable = (np.concatenate([g[i] for g in got]) for i in (0, 1))
        return Run(callback, durable, used)


def _feed(address: str, rate: int, total: int, go: Any, fed: Any) -> None:
    asyncio.run(_call_back(address, rate, total, go, fed))


async def _call_back(address: str, rate: int, total: int, go: Any, fed: Any) -> None:
    chance = np.random.default_rng(7)
    which = (chance.zipf(1.4, total) % len(SYMBOLS)).tolist()
    now, price, amount = time.time(), Decimal("65000.01"), Decimal("0.015")
    trades = [
        Trade("BINANCE", SYMBOLS[which[i]], "buy", amount, price, now + i * 1e-6, id=str(i)) for i in range(total)
    ]
    backend = TradeTickflight(address)
    backend.start(asyncio.get_running_loop())
    await asyncio.to_thread(backend.connect, 30.0)
    fed.set()
    await asyncio.to_thread(go.wait, 120)
    started, done = time.perf_counter(), 0
    while done < total:
        due = min(total, int((time.perf_counter() - started) * rate) + 1)
        for trade in trades[done:due]:
            await backend(trade, time.time())
        done = due
        await asyncio.sleep(0.0005)
    await backend.stop()


def _subscribe(address: str, count: int, total: int, warm: int, ready: Any, answers: Any) -> None:
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def follow() -> None:
        callback, durable = [], []
        with tickflight.connect(address) as client, client.tail("trades") as tail:
            ready.release()
            left = total
            while left:
                batch = next(tail)
                now_us = time.time_ns() // 1000
                callback.append(now_us - batch.column("receipt_timestamp").cast("int64").to_numpy())
                durable.append(np.full(batch.num_rows, now_us - tail.durable_us))
                left -= batch.num_rows
        found.append((np.concatenate(callback)[warm:] / 1000, np.concatenate(durable)[warm:] / 1000))

    threads = [threading.Thread(target=follow) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    callback, durable = (np.concatenate([f[i] for f in found]) for i in (0, 1))
    if len(callback) > 2_000_000:  # a sample of the rows is enough, and the way to the parent is a pipe
        callback, durable = callback[:: len(callback) // 1_000_000], durable[:: len(durable) // 1_000_000]
    answers.put((callback.astype(np.float32), durable.astype(np.float32)))


def _ask(address: str, count: int, total: int, warm: int, ready: Any, answers: Any) -> None:
    callback, last = [], 0
    with tickflight.connect(address) as client:
        ready.release()
        left = total
        while left:
            asked = time.monotonic()
            table = client.sql("SELECT * FROM trades WHERE seq > ?", [last]).arrow()
            if table.num_rows:
                now_us = time.time_ns() // 1000
                callback.append(now_us - table["receipt_timestamp"].cast("int64").to_numpy())
                last, left = max(table["seq"].to_pylist()), left - table.num_rows
            time.sleep(max(0.0, asked + 0.1 - time.monotonic()))
    answers.put(((np.concatenate(callback)[warm:] / 1000).astype(np.float32), np.zeros(0, np.float32)))
