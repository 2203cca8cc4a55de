"""One symbol's last minute, as a dashboard asks for it, on a store that is large in every way.

Ten million rows in memory, of the last hour and 500 symbols, and a hundred thousand parts in the catalog. The rule
of this file: what is timed is the whole way, over ADBC, from the statement to the last row.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc

import tickflight
from bench.figures import Aim, Figure, figure
from bench.lakes import many_parts
from bench.markets import Market, symbols
from bench.processes import elsewhere
from bench.servers import server_on

ROWS, PARTS, NAMES = 10_000_000, 100_000, 500
BATCH_ROWS = 131_072
SPAN_US = 3_600_000_000
RUNS, ASKED = 5, 10
P50_MS = 10.0
_SETTINGS = {
    "TICKFLIGHT_LAKEHOUSE__RING_MB": "4096",
    "TICKFLIGHT_LAKEHOUSE__BUFFER_SIZE_MB": "4096",
    "TICKFLIGHT_LAKEHOUSE__FLUSH_INTERVAL_SECONDS": "3600",
}
_MINUTE = "timestamp > now() - INTERVAL 1 MINUTE"
QUERIES: Mapping[str, str] = {
    "a symbol": f"SELECT * FROM trades WHERE symbol = 'COIN40-USDT' AND {_MINUTE}",
    "an exchange's symbol": f"SELECT * FROM trades WHERE exchange = 'OKX' AND symbol = 'COIN40-USDT' AND {_MINUTE}",
    "the heaviest symbol": f"SELECT * FROM trades WHERE symbol = 'BTC-USDT' AND {_MINUTE}",
    "a symbol's bars by second": (
        "SELECT time_bucket(INTERVAL 1 SECOND, timestamp) t, first(price), max(price), min(price), last(price), "
        f"sum(amount) FROM trades WHERE symbol = 'ETH-USDT' AND {_MINUTE} GROUP BY t ORDER BY t"
    ),
    "the newest rows": f"SELECT * FROM trades WHERE {_MINUTE} ORDER BY seq DESC LIMIT 100",
    "system.tables": "SELECT * FROM system.tables",
    "system.parts, counted": "SELECT count(*) FROM system.parts",
    "system.segments, counted": "SELECT count(*) FROM system.segments",
}
_AIMED = ("a symbol", "an exchange's symbol", "the heaviest symbol")


def run() -> Iterator[Figure]:
    """Measure everything; about 80 seconds, half of them for making the store."""
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        folder = Path(name)
        elsewhere(many_parts, folder / "store", PARTS)
        with server_on(folder, environment=_SETTINGS) as (address, _):
            elsewhere(fill, address)
            found, rows = elsewhere(measure, address)
    for query in QUERIES:
        conditions = (
            f"{ROWS:,} rows in memory of {NAMES} symbols and an hour, {PARTS:,} parts, {rows[query]:,} rows of result, "
            f"ADBC, {RUNS} times {ASKED} queries"
        )
        for percent in (50, 99):
            times = [statistics.quantiles(t, n=100)[percent - 1] * 1000 for t in found[query]]
            aim = Aim("<=", P50_MS) if percent == 50 and query in _AIMED else None
            yield figure("recent", f"{query}: p{percent}", times, "ms", conditions, aim=aim)


def fill(address: str) -> None:
    """Write rows of an hour that ends some minutes from now, so that the last minute always has its share."""
    market = Market(tuple(symbols(NAMES)), ("BINANCE", "COINBASE", "OKX"))
    start_us = time.time_ns() // 1000 - SPAN_US + 300_000_000
    with tickflight.connect(address) as client, client.writer("trades") as writer:
        for batch in market.batches(ROWS, BATCH_ROWS, start_us=start_us, span_us=SPAN_US):
            writer.write(batch)
        writer.flush()


def measure(address: str) -> tuple[dict[str, list[list[float]]], dict[str, int]]:
    """Ask each query in turns; return the seconds by query and run, and the rows of its result."""
    found: dict[str, list[list[float]]] = {name: [] for name in QUERIES}
    rows: dict[str, int] = {}
    with adbc.connect(address) as connection, connection.cursor() as cursor:
        for number in range(RUNS + 1):
            for name, query in QUERIES.items():
                times = []
                for _ in range(ASKED):
                    began = time.perf_counter()
                    rows[name] = cursor.execute(query).fetch_arrow_table().num_rows
                    times.append(time.perf_counter() - began)
                if number:  # the first turn finds files that nobody has looked at yet
                    found[name].append(times)
    return found, rows
