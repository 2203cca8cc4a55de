"""Growth: many symbols for many simulated days, flushed every minute; what piles up, and what a query's planning costs.

The rule of this file: the store is the real one and so are the files; only its clock is simulated. The curve, a line a
simulated day, goes to standard error; the figures are its end, each with its ratio to the fifth day.

TICKFLIGHT_GROWTH_DAYS, _SYMBOLS and _ROWS (a minute, all tables together) make it smaller; _FOLDER says where.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.figures import Figure, figure
from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

DAYS = int(os.environ.get("TICKFLIGHT_GROWTH_DAYS", "30"))
SYMBOLS = int(os.environ.get("TICKFLIGHT_GROWTH_SYMBOLS", "500"))
ROWS_A_MINUTE = int(os.environ.get("TICKFLIGHT_GROWTH_ROWS", "6000"))
FOLDER = os.environ.get("TICKFLIGHT_GROWTH_FOLDER")
TABLES = ("trades", "ticker", "l1_book")
START_US = time.time_ns() // 1000  # simulated days lie ahead, so that nothing of them is too young for vacuum
MINUTE_US = 60_000_000
QUERIES = 21


class SimulatedClock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.us = START_US

    def now_us(self) -> int:
        """Return the simulated time."""
        return self.us

    def monotonic(self) -> float:
        """Return the simulated seconds."""
        return self.us / 1e6


@dataclass
class Day:
    """The state at the end of a simulated day; memory is the process's resident set."""

    day: int
    live_parts: int
    files: int
    delta_files: int
    delta_mb: float
    log_mb: float
    plan_ms: float
    query_ms: float
    memory_mb: float
    seconds: float


def run() -> Iterator[Figure]:
    """Simulate the days; up to an hour for thirty days of 500 symbols."""
    folder = Path(tempfile.mkdtemp(prefix="growth-", dir=FOLDER))
    try:
        days = list(simulate(folder))
        where = f"{SYMBOLS} symbols, {len(TABLES)} tables, {DAYS} days, a flush a minute, {ROWS_A_MINUTE} rows a minute"
        early = days[min(4, len(days) - 1)]
        for name, unit in (
            *(("live_parts", "files"), ("files", "files"), ("delta_mb", "MB"), ("log_mb", "MB")),
            *(("plan_ms", "ms"), ("query_ms", "ms"), ("memory_mb", "MB")),
        ):
            values = [getattr(d, name) for d in days]
            last = figure("growth", name, [values[-1]], unit, where)
            yield _ratio(last, values[-1] / max(getattr(early, name), 1e-9), f"day {early.day}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ratio(base: Figure, ratio: float, to: str) -> Figure:
    return Figure(**(asdict(base) | {"ratio": round(ratio, 3), "ratio_to": to}))


def settings(folder: Path, **more: object) -> LakehouseSettings:
    """Return the defaults, but that nothing happens in the background."""
    values = {"storage_path": folder, "flush_interval_seconds": 1e9, "compact_share": 0.0} | more
    return LakehouseSettings.model_validate(values)


def simulate(folder: Path) -> Iterator[Day]:
    """Yield the state at the end of each simulated day."""
    clock = SimulatedClock()
    # versions and removed files are kept for a minute of real time, which is about a simulated day
    quick = settings(folder, wal_commit_interval_ms=0, vacuum_hours=1 / 60)
    with Store(quick, clock, background=False) as store:
        engine = Engine(store, QuerySettings(), clock=clock)
        chance = np.random.default_rng(1)
        weights = 1 / np.arange(1, SYMBOLS + 1)
        weights /= weights.sum()
        labels = pa.array([f"SYM{i:03d}-USDT" for i in range(SYMBOLS)])
        number = 0
        for day in range(1, DAYS + 1):
            started = time.monotonic()
            for minute in range(1440):
                for table in TABLES:
                    batch = minute_of(table, clock.us, labels, weights, chance, number)
                    store.append(table, batch).result()
                    number += batch.num_rows
                clock.us += MINUTE_US
                store.flush("interval")
                if minute % 10 == 0:
                    store.keeper.compact()
            store.keeper.vacuum()
            state = measure(day, store, engine, folder, clock.us, time.monotonic() - started)
            print(json.dumps(asdict(state)), file=sys.stderr, flush=True)
            yield state
        engine.close()


def minute_of(
    table: str, now_us: int, labels: pa.Array, weights: np.ndarray, chance: np.random.Generator, number: int
) -> pa.RecordBatch:
    """Return a minute's rows of ``table``: a heavy head, and at least a row of every symbol."""
    rows = max(len(labels), ROWS_A_MINUTE // len(TABLES))
    which = np.r_[np.arange(len(labels)), chance.choice(len(labels), rows - len(labels), p=weights)]
    times = now_us + np.sort(chance.integers(0, MINUTE_US, rows))
    columns: dict[str, object] = {
        "exchange": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["BINANCE"])),
        "symbol": pa.DictionaryArray.from_arrays(pa.array(chance.permutation(which).astype(np.int32)), labels),
        "timestamp": pa.array(times).cast(pa.timestamp("us")),
    }
    price = 100 + np.cumsum(chance.integers(-3, 4, rows)) * 0.01
    if table == "trades":
        ids = pa.array(np.arange(number, number + rows)).cast(pa.string())
        columns |= {"price": price, "amount": chance.integers(1, 999, rows) / 1e3, "id": ids}
    elif table == "ticker":
        columns |= {"bid": price, "ask": price + 0.01}
    else:
        columns |= {"bid_price": price, "ask_price": price + 0.01}
    return pa.RecordBatch.from_pydict(columns)


def measure(day: int, store: Store, engine: Engine, folder: Path, now_us: int, seconds: float) -> Day:
    """Return what has piled up, and what the last hour of a symbol costs to plan and to read, medians."""
    hour_ago = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now_us / 1e6 - 3600))
    sql = (
        f"SELECT count(*), avg(price) FROM trades WHERE symbol = 'SYM007-USDT' AND timestamp >= TIMESTAMP '{hour_ago}'"
    )
    plans, totals = [], []
    for _ in range(QUERIES):
        started = time.perf_counter()
        plan = engine.plan(sql)
        with engine.execute(plan) as execution:
            plans.append(time.perf_counter() - started)
            for _ in execution.batches():
                pass
        totals.append(time.perf_counter() - started)
    delta = [p for t in TABLES for p in (folder / t / "_delta_log").iterdir()]
    return Day(
        day=day,
        live_parts=sum(len(t.state.parts) for t in store.tables.values()),
        files=sum(1 for t in TABLES for _ in (folder / t).rglob("*.parquet")),
        delta_files=len(delta),
        delta_mb=round(sum(p.stat().st_size for p in delta) / 1e6, 2),
        log_mb=round(store.log.size_bytes / 1e6, 2),
        plan_ms=round(statistics.median(plans) * 1e3, 2),
        query_ms=round(statistics.median(totals) * 1e3, 2),
        memory_mb=round(_resident_mb(), 1),
        seconds=round(seconds, 1),
    )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
