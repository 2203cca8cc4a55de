"""How soon a full scan's first batch is there, of rows in memory and of rows in parts.

The rule of this file: what is timed begins with the statement and ends with the first batch in the client's hands; the
rest of the result is given up before the next run begins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
from adbc_driver_flightsql import dbapi

import tickflight
from bench.figures import Aim, Figure, figure
from bench.scans import MARKET_WORDS, server_with_parts, server_with_ring

ROWS = int(os.environ.get("TICKFLIGHT_BENCH_FIRST_ROWS", "10000000"))
DAYS = 5
RUNS, CALLS = 5, 7
PAUSE_S = 0.05
SQL = "SELECT * FROM trades"
AIM = Aim("<=", 40.0)


def run() -> Iterator[Figure]:
    """Measure both; about half a minute."""
    with server_with_ring(ROWS) as address:
        yield from _measure("rows in memory", address, f"{ROWS} trades in memory, {MARKET_WORDS}")
    with server_with_parts(ROWS, DAYS) as (address, folder):
        files = len(list((folder / "trades").rglob("*.parquet")))
        conditions = f"{ROWS} trades in {files} parts, which are in the page cache, {MARKET_WORDS}"
        yield from _measure("rows in parts", address, conditions)


def _measure(name: str, address: str, conditions: str) -> Iterator[Figure]:
    with dbapi.connect(address, autocommit=True) as connection, tickflight.connect(address) as client:
        first = _by_adbc(connection)
        rounds = [[_by_adbc(connection) for _ in range(CALLS)] for _ in range(RUNS)]
        ours = [[_by_client(client) for _ in range(CALLS)] for _ in range(RUNS)]
    where = f"{SQL}: {conditions}; {CALLS} calls a run"
    p50 = [float(np.percentile(one, 50)) for one in rounds]
    yield figure("first_batch", f"{name}, ADBC p50", p50, "ms", where, aim=AIM)
    yield figure("first_batch", f"{name}, ADBC max", [max(one) for one in rounds], "ms", where)
    yield figure("first_batch", f"{name}, ADBC, first call to the server", [first], "ms", where)
    p50 = [float(np.percentile(one, 50)) for one in ours]
    yield figure("first_batch", f"{name}, our client p50", p50, "ms", where)


def _by_adbc(connection: dbapi.Connection) -> float:
    time.sleep(PAUSE_S)
    cursor = connection.cursor()
    try:
        started = time.perf_counter()
        cursor.execute(SQL)
        reader = cursor.fetch_record_batch()
        batch = reader.read_next_batch()
        seconds = time.perf_counter() - started
        assert batch.num_rows
        del reader
    finally:
        cursor.close()
    return seconds * 1e3


def _by_client(client: tickflight.Client) -> float:
    time.sleep(PAUSE_S)
    started = time.perf_counter()
    with client.sql(SQL) as result:
        batch = next(iter(result))
        seconds = time.perf_counter() - started
        assert batch.num_rows
    return seconds * 1e3
