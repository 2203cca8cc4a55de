"""The first figures: callback to durable, writer to durable, event to visible, bytes a row on disk."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
from cryptofeed.types import Trade

import tickflight
from bench.figures import Figure, figure
from bench.servers import running_server
from tickflight_server.feed import TradeTickflight
from tickflight_server.feed.playback import find_recordings, replay

SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT", "XRP-USDT", "ADA-USDT", "DOGE-USDT")
RUNS = 5
CALLBACK_ROWS = 300_000
WRITER_BATCHES, WRITER_ROWS = 40, 65_536
FRESH_RATE, FRESH_S = 10_000, 6.0
REPO = Path(__file__).parent.parent


def run() -> Iterator[Figure]:
    """Measure everything; about a minute."""
    yield from callback_path()
    yield from writer_path()
    yield from event_to_visible()
    yield from disk_bytes()


def make_trades(rows: int, seed: int = 1) -> list[Trade]:
    """Return cryptofeed trades of several symbols, prices on ticks, string ids."""
    chance = np.random.default_rng(seed)
    ticks = 6_500_000 + np.cumsum(chance.integers(-3, 4, rows))
    lots = chance.integers(1, 10_000, rows)
    which = chance.zipf(1.6, rows) % len(SYMBOLS)
    now = time.time()
    return [
        Trade(
            *("BINANCE", SYMBOLS[which[i]], "buy" if i % 2 else "sell"),
            *(Decimal(int(lots[i])).scaleb(-4), Decimal(int(ticks[i])).scaleb(-2), now + i * 1e-5),
            id=str(10_000_000 + i),
        )
        for i in range(rows)
    ]


def callback_path() -> Iterator[Figure]:
    """Rows per second from the first callback until all are acknowledged durable, one feed process."""
    trades = make_trades(CALLBACK_ROWS)
    with running_server() as (address, _):
        rates = [CALLBACK_ROWS / asyncio.run(_call_back(address, trades)) for _ in range(RUNS)]
    conditions = f"{CALLBACK_ROWS} trades a run, TradeTickflight, one feed process"
    yield figure("smoke", "callback to durable", rates, "rows/s", conditions)


async def _call_back(address: str, trades: list[Trade]) -> float:
    backend = TradeTickflight(address)
    backend.start(asyncio.get_running_loop())
    await asyncio.to_thread(backend.connect, 30.0)
    started = time.perf_counter()
    now = time.time()
    for trade in trades:
        await backend(trade, now)
    await backend.stop()
    return time.perf_counter() - started


def writer_path() -> Iterator[Figure]:
    """Rows per second through ``client.writer``, until all are acknowledged durable."""
    batch = _batch(WRITER_ROWS)
    rates = []
    with running_server() as (address, _), tickflight.connect(address) as client, client.writer("trades") as writer:
        for _ in range(RUNS):
            started = time.perf_counter()
            for _ in range(WRITER_BATCHES):
                writer.write(batch)
            writer.flush()
            rates.append(WRITER_ROWS * WRITER_BATCHES / (time.perf_counter() - started))
    yield figure(
        *("smoke", "writer to durable", rates, "rows/s"),
        f"{WRITER_BATCHES} batches of {WRITER_ROWS} trades a run, client and server processes, default configuration",
    )


def _batch(rows: int) -> pa.RecordBatch:
    chance = np.random.default_rng(2)
    now = time.time_ns() // 1000
    labels = pa.array(SYMBOLS)
    return pa.RecordBatch.from_pydict(
        {
            "exchange": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["BINANCE"])),
            "symbol": pa.DictionaryArray.from_arrays(chance.integers(0, len(SYMBOLS), rows).astype(np.int32), labels),
            "side": pa.DictionaryArray.from_arrays(
                chance.integers(0, 2, rows).astype(np.int32), pa.array(["buy", "sell"])
            ),
            "amount": chance.integers(1, 10_000, rows) / 1e4,
            "price": (6_500_000 + np.cumsum(chance.integers(-3, 4, rows))) / 100,
            "id": pa.array([str(10_000_000 + i) for i in range(rows)]),
            "timestamp": pa.array(now + np.arange(rows), pa.timestamp("us")),
        }
    )


def event_to_visible() -> Iterator[Figure]:
    """Time from a callback until SQL shows its row, at a steady rate; the asking itself is part of it."""
    with running_server() as (address, _):
        p50s, p99s = [], []
        for _ in range(3):
            delays = asyncio.run(_watch(address))
            p50s.append(float(np.percentile(delays, 50)))
            p99s.append(float(np.percentile(delays, 99)))
    conditions = f"{FRESH_RATE} events/s for {FRESH_S:.0f} s, SELECT max(seq) asked again and again by one client"
    yield figure("smoke", "event to visible p50", p50s, "ms", conditions)
    yield figure("smoke", "event to visible p99", p99s, "ms", conditions)


async def _watch(address: str) -> np.ndarray:
    trades = make_trades(int(FRESH_RATE * FRESH_S))
    called = np.zeros(len(trades))
    seen: list[tuple[float, int]] = []
    stop = threading.Event()
    with tickflight.connect(address) as client:
        base = _last_seq(client)

        def ask() -> None:
            while not stop.is_set():
                last = _last_seq(client) - base
                seen.append((time.perf_counter(), last))

        thread = threading.Thread(target=ask)
        thread.start()
        backend = TradeTickflight(address)
        backend.start(asyncio.get_running_loop())
        await asyncio.to_thread(backend.connect, 30.0)
        started = time.perf_counter()
        for i, trade in enumerate(trades):
            while (ahead := started + i / FRESH_RATE - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            called[i] = time.perf_counter()
            await backend(trade, time.time())
        await backend.stop()
        while not seen or seen[-1][1] < len(trades):
            await asyncio.sleep(0.01)
        stop.set()
        thread.join()
    times = np.array([t for t, _ in seen])
    counts = np.array([n for _, n in seen])
    first = np.searchsorted(counts, np.arange(1, len(trades) + 1))
    return (times[first] - called) * 1000


def _last_seq(client: tickflight.Client) -> int:
    # without a filter on time every segment is looked at; that is what a naive dashboard asks
    (row,) = client.sql("SELECT coalesce(max(seq), 0) n FROM trades").arrow().to_pylist()
    return int(row["n"])


def disk_bytes() -> Iterator[Figure]:
    """Bytes of parts against the raw exchange messages they came from."""
    for name, paths in _recordings():
        raw = sum(f.stat().st_size for path in paths for f in path.rglob("*") if ".ws." in f.name)
        with running_server() as (address, folder):
            result = replay(paths, address)
            with tickflight.connect(address) as client:
                client.flush()
            on_disk = sum(f.stat().st_size for f in folder.rglob("*.parquet"))
        rows = sum(result.rows.values())
        conditions = f"{name}: {rows} rows of {result.messages} messages, {raw} raw bytes, {on_disk} bytes of parts"
        yield figure("smoke", f"disk bytes a row, {name}", [on_disk / rows], "bytes/row", conditions)
        saved = 100 * (1 - on_disk / raw)
        yield figure("smoke", f"smaller than the raw messages, {name}", [saved], "%", conditions)


def _recordings() -> Iterator[tuple[str, list[Path]]]:
    """Yield names and folders of recordings: the sandbox's, and real ones where there are some."""
    yield "sandbox recording", [REPO / "tests" / "data" / "sandbox" / "BINANCE"]
    folder = Path(os.environ.get("TICKFLIGHT_RECORDINGS", REPO.parent / "shared" / "recordings"))
    if folder.is_dir() and find_recordings([folder]):
        yield "real recordings", [folder]
