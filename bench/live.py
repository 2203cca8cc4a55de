"""An update of a live query: kept by its buckets, beside asking the whole query again.

The time is the clock's, around ``LiveQuery.update``, after a thousand rows came. The whole query is the same text with
a LIMIT that is never reached, which is why it is not kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.figures import Figure, figure
from tickflight_server.clock import SystemClock
from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.query.engine import Engine
from tickflight_server.query.live import LiveQuery
from tickflight_server.query.session import DEFAULTS
from tickflight_server.query.stability import Stability
from tickflight_server.store import Store

ROWS = 5_000_000
BATCH = 100_000
NEW = 1_000
RUNS = 5
START_US = 1_790_000_000_000_000 // 86_400_000_000 * 86_400_000_000
STEP_US = 86_400_000_000 // (ROWS + RUNS * NEW * 20)  # all of it is one day
VWAP = "sum(price * amount) / sum(amount)"
QUERIES = {
    "vwap by second": f"SELECT symbol, time_bucket(INTERVAL 1 SECOND, timestamp) AS t, {VWAP} AS vwap",
    "median by minute": "SELECT symbol, time_bucket(INTERVAL 1 MINUTE, timestamp) AS t, median(price) AS m",
    "vwap by hour": f"SELECT symbol, date_trunc('hour', timestamp) AS t, {VWAP} AS vwap",
    "vwap by day": f"SELECT symbol, date_trunc('day', timestamp) AS t, {VWAP} AS vwap",
}


def run() -> Iterator[Figure]:
    """Measure everything; about a minute."""
    with tempfile.TemporaryDirectory() as folder:
        settings = LakehouseSettings(storage_path=Path(folder), flush_interval_seconds=3600, ring_mb=2048)
        with Store(settings) as store:
            engine = Engine(store, QuerySettings(live_result_mb=256))
            try:
                yield from measured(store, engine)
            finally:
                engine.close()


def measured(store: Store, engine: Engine) -> Iterator[Figure]:
    """Measure over rows in memory, then over parts, then with rows that come late."""
    first = 0
    for first in range(0, ROWS, BATCH):
        store.append("trades", trades(first, BATCH)).result()
    stability = Stability(engine.connections)
    first = ROWS
    for place in ("in memory", "in parts", "in parts, new rows late"):
        if place == "in parts":
            store.flush()
            for table in store.tables.values():
                while table.release_oldest():
                    pass
        for name, sql in QUERIES.items():
            texts = (f"{sql} FROM trades GROUP BY ALL", f"{sql} FROM trades GROUP BY ALL LIMIT 1000000000")
            kept, whole = (live(engine, stability, text) for text in texts)
            assert (kept.mode, whole.mode) == ("incremental", "asked again")
            kept.update()
            whole.update()
            times: tuple[list[float], list[float]] = ([], [])
            for number in range(RUNS):
                at = number * 50_000 if "late" in place else first
                first += NEW
                store.append("trades", trades(at, NEW)).result()
                for query, spent in zip((kept, whole), times, strict=True):
                    began = time.perf_counter()
                    query.update()
                    spent.append((time.perf_counter() - began) * 1000)
            conditions = f"{ROWS} trades of 10 symbols in a day, {place}; {NEW} new rows an update"
            again = figure("live", f"{name}, asked again", times[1], "ms an update", conditions)
            one = figure("live", f"{name}, incremental", times[0], "ms an update", conditions)
            yield again
            yield replace(one, ratio=float(f"{one.value / again.value:.3g}"), ratio_to=again.name)


def live(engine: Engine, stability: Stability, sql: str) -> LiveQuery:
    """Return a live query as a server makes it."""
    return LiveQuery(engine, SystemClock(), stability, sql, {}, options=DEFAULTS, result_mb=256, started=lambda _: None)


def trades(first: int, rows: int) -> pa.RecordBatch:
    """Return trades of ten symbols, evenly over the day."""
    numbers = np.arange(first, first + rows, dtype=np.int64)
    symbols = pa.DictionaryArray.from_arrays(pa.array(numbers % 10, pa.int32()), [f"S{n}-USDT" for n in range(10)])
    return pa.record_batch(
        {
            "exchange": pa.repeat("BINANCE", rows),
            "symbol": symbols.cast(pa.string()),
            "side": pa.repeat("buy", rows),
            "amount": np.full(rows, 1.5),
            "price": (numbers % 997).astype(np.float64),
            "timestamp": pa.array(START_US + numbers * STEP_US).cast(pa.timestamp("us")),
        }
    )
