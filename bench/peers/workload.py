"""What all products do: the rows they hold, the questions they answer, the rows that come in.

The rule of this file: a question is the same text for every product that has SQL; the other fields tell the one that
has none what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.markets import Market, symbols

NAMES = tuple(symbols(50))
ROWS = 5_000_000
START = datetime(2026, 3, 2, 10, tzinfo=UTC)
SPAN = timedelta(hours=1)
INGEST_ROWS, INGEST_BATCH_ROWS = 500_000, 10_000
EVENTS = 100_000
COLUMNS = ("exchange", "symbol", "side", "amount", "price", "id", "timestamp", "receipt_timestamp")


def make_files(folder: Path, runs: int) -> None:
    """Write ``trades.parquet`` and, for what comes in later in each run, ``batches-0.parquet``, ``events-0.parquet`` ….

    Every trade has an id of its own: a backend may refuse a trade that is there already.
    """
    market = Market(NAMES)
    start_us, span_us = int(START.timestamp() * 1e6), SPAN // timedelta(microseconds=1)
    _write(folder / "trades.parquet", market, ROWS, start_us, span_us, 10_000_000)
    first_id = 10_000_000 + ROWS
    for name, rows in (("batches", INGEST_ROWS), ("events", EVENTS)):
        for run in range(runs):
            start_us, span_us = start_us + span_us, SPAN // timedelta(microseconds=1) * rows // ROWS
            _write(folder / f"{name}-{run}.parquet", market, rows, start_us, span_us, first_id)
            first_id += rows


def _write(path: Path, market: Market, rows: int, start_us: int, span_us: int, first_id: int) -> None:
    schema = None
    for batch in market.batches(rows, 131_072, start_us=start_us, span_us=span_us, first_id=first_id):
        table = pa.table(batch).select(COLUMNS)
        if schema is None:
            # without a zone, as all of the products store it: the times are UTC
            kinds = [pa.timestamp("us") if pa.types.is_timestamp(field.type) else field.type for field in table.schema]
            schema = pa.schema(zip(COLUMNS, kinds, strict=True))
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(table.cast(schema))
    writer.close()


def _read(*columns: str) -> dict[str, Any]:
    return {"what": "read", "columns": columns, "sql": f"SELECT {', '.join(columns)} FROM trades"}


def _vwap(symbol: str) -> dict[str, Any]:
    sql = (
        "SELECT date_trunc('minute', timestamp) AS minute, sum(price * amount) / sum(amount) AS vwap,"
        f" sum(amount) AS volume, count(*) AS trades FROM trades WHERE symbol = '{symbol}' GROUP BY 1"
    )
    return {"what": "vwap", "symbol": symbol, "sql": sql}


def _recent(symbol: str) -> dict[str, Any]:
    since = START + SPAN - timedelta(minutes=1)
    sql = (
        "SELECT timestamp, price, amount FROM trades"
        f" WHERE symbol = '{symbol}' AND timestamp >= TIMESTAMP '{since:%Y-%m-%d %H:%M:%S}'"
    )
    return {"what": "recent", "symbol": symbol, "since_us": int(since.timestamp() * 1e6), "sql": sql}


TOTALS = {
    "what": "totals",
    "sql": "SELECT symbol, count(*) AS trades, sum(amount) AS volume, min(price) AS low, max(price) AS high"
    " FROM trades GROUP BY symbol",
}
COUNT = {"what": "count", "sql": "SELECT count(*) AS trades FROM trades"}


@dataclass(frozen=True)
class Work:
    """One row of the contest. ``request`` is what a worker is sent in a run; ``amount`` what its rate counts."""

    name: str
    unit: str
    conditions: str
    request: Callable[[Path, int], dict[str, Any]]
    amount: int

    @property
    def asks(self) -> bool:
        """Whether it is a question, so that answers can be compared."""
        return self.unit == "queries/s" or self.name.startswith("read")


def _asking(name: str, unit: str, amount: int, conditions: str, *questions: dict[str, Any]) -> Work:
    return Work(name, unit, conditions, lambda _, __: {"do": "ask", "questions": questions}, amount)


HOLDING = f"{ROWS} trades of {len(NAMES)} symbols in {SPAN.seconds // 60} minutes"
WORKS = (
    _asking("read of all columns", "rows/s", ROWS, f"{HOLDING}, {len(COLUMNS)} columns", _read(*COLUMNS)),
    _asking("read of two columns", "rows/s", ROWS, f"{HOLDING}, timestamp and price", _read("timestamp", "price")),
    _asking(
        *("minute VWAP of a symbol", "queries/s", 3),
        f"{HOLDING}; one question after the other, of 1st, 5th and 20th symbol",
        *(_vwap(NAMES[rank]) for rank in (0, 4, 19)),
    ),
    _asking("totals of all symbols", "queries/s", 1, f"{HOLDING}: count, volume, low and high of each", TOTALS),
    _asking(
        *("last minute of a symbol", "queries/s", 10),
        f"{HOLDING}; timestamp, price and amount, one question after the other, of the 10 heaviest symbols",
        *(_recent(name) for name in NAMES[:10]),
    ),
    Work(
        *(
            "ingest",
            "rows/s",
            f"{INGEST_ROWS} more trades in batches of {INGEST_BATCH_ROWS}, until durable and visible",
        ),
        lambda folder, run: {
            "do": "ingest",
            "path": str(folder / f"batches-{run}.parquet"),
            "batch_rows": INGEST_BATCH_ROWS,
        },
        INGEST_ROWS,
    ),
    Work(
        *("ingest by cryptofeed's callback", "rows/s", f"{EVENTS} trades through the backend, until durable"),
        lambda folder, run: {"do": "events", "path": str(folder / f"events-{run}.parquet")},
        EVENTS,
    ),
)
