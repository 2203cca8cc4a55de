"""Order books of any instant: ``client.book`` over a made-up day of one symbol, from a server process of its own.

The rule of this file: the day has one snapshot, at its start, so that nothing but what the server keeps shortens the
way to a book. An event changes about ten levels of a thousand and more. The rows are on disk.

TICKFLIGHT_BOOK_EVENTS makes the day larger or smaller.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

import tickflight
from bench.figures import Figure, figure
from bench.servers import running_server

EVENTS = int(os.environ.get("TICKFLIGHT_BOOK_EVENTS", "1000000"))
START = datetime(2026, 11, 22, tzinfo=UTC)
DAY_US = 86_400_000_000
TICK = 0.1
SNAPSHOT_LEVELS = 1000
BATCH_ROWS = 50_000
ROUNDS, CALLS = 5, 40
ON_DISK = {"TICKFLIGHT_LAKEHOUSE__RING_SECONDS": "1"}
IN_MEMORY = "SELECT sum(rows_in_memory)::BIGINT AS rows FROM system.tables"
INSTRUMENT = ("BINANCE", "BTC-USDT")


def run() -> Iterator[Figure]:
    """Measure everything; about a minute for a million events."""
    chance = np.random.default_rng(1)
    conditions = f"client.book over Flight, depth 10, {EVENTS} events of about 10 levels in a day with one snapshot"
    with running_server(environment=ON_DISK) as (address, _), tickflight.connect(address) as client:
        with client.writer("l2_book") as writer:
            for batch in make_day(chance):
                writer.write(batch)
        client.flush()
        while client.sql(IN_MEMORY).arrow()["rows"][0].as_py():
            time.sleep(0.2)

        def took(share: float) -> float:
            moment = START + timedelta(microseconds=int(share * DAY_US))
            started = time.perf_counter()
            book = client.book(*INSTRUMENT, moment)
            assert len(book.bids) == 10
            return (time.perf_counter() - started) * 1e3

        yield figure("book", "first of the day, at its end", [took(1 - 1e-6)], "ms", conditions)
        everywhere = [took(share) for share in chance.uniform(0.01, 1, 20)]
        yield figure("book", "first calls after it, anywhere", everywhere, "ms", conditions)
        yield from _rounds("anywhere in the day", lambda: took(chance.uniform(0.01, 1)), conditions)
        yield from _rounds("within ten minutes", lambda: took(chance.uniform(0.5, 0.507)), conditions)
        yield _series(client, conditions)


def _rounds(name: str, took: Callable[[], float], conditions: str) -> Iterator[Figure]:
    """Measure many calls in rounds."""
    rounds = [[took() for _ in range(CALLS)] for _ in range(ROUNDS)]
    for percent in (50, 95):
        values = [float(np.percentile(one, percent)) for one in rounds]
        yield figure("book", f"{name}, p{percent}", values, "ms", f"{conditions}; {CALLS} calls a run")


def _series(client: tickflight.Client, conditions: str) -> Figure:
    started = time.perf_counter()
    found = client.books(*INSTRUMENT, START, START + timedelta(days=1), 10).arrow()
    seconds = time.perf_counter() - started
    return figure("book", "series of the day, 10 s apart", [found.num_rows / seconds], "books/s", conditions)


def make_day(chance: np.random.Generator) -> Iterator[pa.RecordBatch]:
    """Yield a day's events: the middle wanders, and levels near it are set and taken away."""
    stamps = np.sort(chance.integers(1, DAY_US, EVENTS)) + int(START.timestamp() * 1e6)
    middle = 50_000 + np.cumsum(chance.normal(0, 0.05, EVENTS))
    for first in range(0, EVENTS, BATCH_ROWS):
        rows = min(BATCH_ROWS, EVENTS - first)
        columns: dict[str, object] = {"exchange": [INSTRUMENT[0]] * rows, "symbol": [INSTRUMENT[1]] * rows}
        for side, sign in (("bid", -1), ("ask", 1)):
            counts = chance.integers(3, 8, rows)
            counts[0] = SNAPSHOT_LEVELS if first == 0 else counts[0]
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
            levels = np.floor(chance.exponential(30, starts[-1])) + 1
            sizes = np.where(chance.random(starts[-1]) < 0.4, 0, np.round(chance.exponential(1, starts[-1]), 5))
            if first == 0:
                levels[:SNAPSHOT_LEVELS], sizes[:SNAPSHOT_LEVELS] = np.arange(1, SNAPSHOT_LEVELS + 1), 1
            prices = np.round(np.repeat(middle[first : first + rows], counts) + sign * levels * TICK, 1)
            for what, values in (("prices", prices), ("sizes", sizes)):
                columns[f"{side}_{what}"] = pa.ListArray.from_arrays(pa.array(starts), pa.array(values))
        snapshot = np.zeros(rows, dtype=bool)
        snapshot[0] = first == 0
        times = pa.array(stamps[first : first + rows]).cast(pa.timestamp("us"))
        yield pa.record_batch({**columns, "is_snapshot": snapshot, "timestamp": times, "receipt_timestamp": times})
