"""Ingest and queries at once: what 32 readers take from a stream of a million rows a second, and how long they wait.

The rule of this file: runs with and without readers come in turns on one server. Writer and
readers are processes of their own: the machine's cores are shared by all of them.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import numpy as np
import pyarrow as pa

import tickflight
from bench.figures import Aim, Figure, figure
from bench.markets import Market, symbols
from bench.processes import together
from bench.servers import running_server

RATE = 1_000_000
BATCH_ROWS = 50_000
READERS, PROCESSES = 32, 4
RUNS = 5
WARM_S, SECONDS = 1.0, 4.0
NAMES = symbols(200)
MARKET = Market(tuple(NAMES), ("BINANCE", "COINBASE", "OKX"), seed=3)
_MINUTE = "timestamp > now() - INTERVAL 1 MINUTE"
_SECOND = "timestamp > now() - INTERVAL 1 SECOND"
_BARS = "time_bucket(INTERVAL 1 SECOND, timestamp) t, max(price), min(price), sum(amount)"
# kind → its statement, and what gives a value for its parameter if it has one
QUERIES: Mapping[str, tuple[str, Callable[[], object] | None]] = {
    "SELECT 1": ("SELECT 1", None),
    "last second of a symbol": (f"SELECT * FROM trades WHERE symbol = 'COIN40-USDT' AND {_SECOND}", None),
    "bars of a symbol's minute": (
        f"SELECT {_BARS} FROM trades WHERE symbol = 'COIN20-USDT' AND {_MINUTE} GROUP BY t ORDER BY t",
        None,
    ),
    "top of the last second": (
        f"SELECT symbol, sum(price * amount) v FROM trades WHERE {_SECOND} GROUP BY symbol ORDER BY v DESC LIMIT 10",
        None,
    ),
    "some thousand rows": (f"SELECT timestamp, symbol, price FROM trades WHERE {_SECOND} LIMIT 5000", None),
    "newest price, with a value": (
        f"SELECT max_by(price, seq) FROM trades WHERE symbol = ? AND {_SECOND}",
        lambda: random.choice(NAMES),
    ),
    "system.tables": ("SELECT * FROM system.tables", None),
}


def run() -> Iterator[Figure]:
    """Measure everything; about a minute and a half."""
    with running_server() as (address, _):
        rates, *readers = together(1 + PROCESSES, play, address)
    conditions = (
        f"{RATE:,} trades/s wanted in batches of {BATCH_ROWS:,}, client.writer; {READERS} readers in {PROCESSES} "
        f"processes, half ADBC and half our client, {len(QUERIES)} kinds of queries without a pause; "
        f"{SECONDS:g} s with and without, in turns"
    )
    yield figure("mixed", "ingest without readers", rates["alone"], "rows/s", conditions)
    yield figure(
        *("mixed", "ingest with readers", rates["beside"], "rows/s", conditions),
        beside=rates["alone"],
        ratio_to="the same without readers",
        aim=Aim(">=", 0.667),
    )
    errors = [e for r in readers for e in r["errors"]]
    told = f"{conditions}; {errors[0]}" if errors else conditions
    yield figure("mixed", "errors", [float(len(errors))], "errors", told, aim=Aim("<=", 0))
    total = [sum(len(times) for r in readers for times in r["times"][i].values()) / SECONDS for i in range(RUNS)]
    yield figure("mixed", "queries", total, "queries/s", conditions)
    for kind in QUERIES:
        runs = [[t * 1000 for r in readers for t in r["times"][i][kind]] for i in range(RUNS)]
        for percent in (50, 99):
            found = [statistics.quantiles(times, n=100)[percent - 1] for times in runs if len(times) > 1]
            yield figure("mixed", f"{kind}: p{percent}", found, "ms", conditions)


def play(turn: Callable[[], None], place: int, address: str) -> Any:
    """Be the writer, or some of the readers."""
    if place == 0:
        return write(turn, address)
    with ExitStack() as held:
        return read(turn, [reader(address, number, held) for number in range(READERS // PROCESSES)])


def write(turn: Callable[[], None], address: str) -> dict[str, list[float]]:
    """Write at the wanted rate, or as near to it as it goes; return rows a second until all were durable."""
    rates: dict[str, list[float]] = {"alone": [], "beside": []}
    kept = list(MARKET.batches(20 * BATCH_ROWS, BATCH_ROWS, start_us=0, span_us=1_000_000))
    base = [batch.column("timestamp").cast("int64").to_numpy() for batch in kept]
    first_id = 10_000_000
    with tickflight.connect(address) as client, client.writer("trades") as writer:
        for number in range(2 * RUNS):
            turn()
            began = time.perf_counter()
            sent, until = 0, WARM_S + SECONDS
            while (now := time.perf_counter() - began) < until:
                if sent > now * RATE:
                    time.sleep(sent / RATE - now)
                which = (sent // BATCH_ROWS) % len(kept)
                batch = moved(kept[which], base[which], first_id)
                first_id += BATCH_ROWS
                writer.write(batch)
                sent += BATCH_ROWS
            writer.flush()
            rates["beside" if number % 2 else "alone"].append(sent / (time.perf_counter() - began))
            turn()
    return rates


def moved(batch: pa.RecordBatch, base: np.ndarray, first_id: int) -> pa.RecordBatch:
    """Return a batch with the times of now and ids that nobody has seen."""
    times = pa.array(base - base[0] + time.time_ns() // 1000, pa.timestamp("us", "UTC"))
    ids = pa.array(np.arange(first_id, first_id + batch.num_rows)).cast(pa.string())
    for name, column in (("timestamp", times), ("receipt_timestamp", times), ("id", ids)):
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    return batch


Ask = Callable[[str], object]


def reader(address: str, number: int, held: ExitStack) -> Ask:
    """Return what asks one of ``QUERIES``: every other reader is one of ADBC."""
    if number % 2:
        client = held.enter_context(tickflight.connect(address))

        def ask(kind: str) -> object:
            query, value = QUERIES[kind]
            return client.sql(query, [value()] if value else None).arrow()

        return ask
    connection = held.enter_context(adbc.connect(address))

    def ask_adbc(kind: str) -> object:
        query, value = QUERIES[kind]
        with connection.cursor() as cursor:
            return cursor.execute(query, [value()] if value else None).fetch_arrow_table()

    return ask_adbc


def read(turn: Callable[[], None], asks: list[Ask]) -> dict[str, Any]:
    """Ask in every other turn; return the seconds of each query by run and kind, and what went wrong."""
    answer: dict[str, Any] = {"times": [], "errors": []}
    for number in range(2 * RUNS):
        turn()
        if number % 2:
            times: dict[str, list[float]] = {kind: [] for kind in QUERIES}
            began = time.perf_counter()
            threads = [threading.Thread(target=_read, args=(ask, began, times, answer["errors"])) for ask in asks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            answer["times"].append(times)
        turn()
    return answer


def _read(ask: Ask, began: float, times: dict[str, list[float]], errors: list[str]) -> None:
    while (now := time.perf_counter() - began) < WARM_S + SECONDS:
        kind = random.choice(list(QUERIES))
        try:
            ask(kind)
        except Exception as error:
            errors.append(f"{kind}: {error}"[:200])
            continue
        if now > WARM_S:
            times[kind].append(time.perf_counter() - began - now)
