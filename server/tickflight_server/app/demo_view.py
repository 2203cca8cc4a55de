"""What the demo shows: asked over ADBC once a second, drawn in the terminal, or as plain lines where there is none.

The rule of this file: every number on the screen came back from SQL.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from tickflight_server.schemas import MARKET

_TABLES = """
    SELECT t."table" AS name, t.rows, t.rows_in_memory, t.rows_on_disk, t.parts, t.bytes_on_disk,
           t.rows_not_flushed, t.last_seq
    FROM system.tables t WHERE t.rows > 0 ORDER BY t."table"
"""
_PRICES = """
    SELECT t.exchange, t.symbol, arg_max(t.price, t.seq) AS price,
           sum(t.price * t.amount) / sum(t.amount) AS vwap, count(*) AS trades,
           epoch_ms(now()) - epoch_ms(max(t.receipt_timestamp)) AS age_ms
    FROM market.trades t WHERE t.timestamp > now() - INTERVAL 1 MINUTE
    GROUP BY ALL ORDER BY trades DESC, symbol LIMIT 8
"""
_LOG = "SELECT count(*) AS files, coalesce(sum(bytes), 0)::BIGINT AS bytes FROM system.log"
_FEED = "SELECT received, acknowledged, rejected, dropped, queue_rows, last_error FROM system.feeds"
_METRICS = "SELECT name, value FROM system.metrics"


@dataclass(frozen=True)
class TableSample:
    """How much of one table is where."""

    name: str
    rows: int
    rows_in_memory: int
    rows_on_disk: int
    parts: int
    bytes_on_disk: int
    rows_not_flushed: int
    last_seq: int


@dataclass(frozen=True)
class Sample:
    """Everything the view shows, at one moment."""

    tables: list[TableSample]
    prices: list[dict[str, Any]]
    log: Mapping[str, Any]
    feed: Mapping[str, Any]
    metrics: Mapping[str, float]
    gaps: int
    dense: Mapping[str, bool] = field(default_factory=dict)


class View:
    """The live view of a server at ``address``."""

    def __init__(self, address: str, folder: Path, say: Callable[[str], None]) -> None:
        self._address = address
        self._folder = folder
        self._say = say
        self._connection = flight_sql.connect(address, autocommit=True)
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._history: deque[tuple[float, dict[str, int]]] = deque(maxlen=6)

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        else:
            for line in self._how_to_connect():
                self._say(line)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _rows(self, query: str) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
            return rows

    def sample(self) -> Sample:
        """Ask the server for everything, and whether each table's ``seq`` is dense."""
        return self._ask(dense=True)

    def _ask(self, *, dense: bool = False) -> Sample:
        tables = [TableSample(**row) for row in self._rows(_TABLES)]
        market = [t for t in tables if t.name in MARKET]
        checks = {t.name: self._is_dense(t) for t in market if dense}
        feeds = self._rows(_FEED)
        return Sample(
            tables=market,
            gaps=sum(t.rows for t in tables if t.name == "gaps"),
            prices=self._rows(_PRICES),
            log=self._rows(_LOG)[0],
            feed=feeds[0] if feeds else {},
            metrics={row["name"]: row["value"] for row in self._rows(_METRICS)},
            dense=checks,
        )

    def _is_dense(self, table: TableSample) -> bool:
        query = f'SELECT count(*) n, count(DISTINCT seq) d, min(seq) low, max(seq) high FROM market."{table.name}"'
        (row,) = self._rows(query)
        return bool(row["n"] == row["d"] == row["high"] and row["low"] == 1)

    def show(self) -> None:
        """Ask and draw."""
        sample = self._ask()
        rates = self._rates(sample)
        if self._live is not None:
            self._live.update(self._draw(sample, rates), refresh=True)
        else:
            self._say(_line(sample, rates))

    def _rates(self, sample: Sample) -> dict[str, float]:
        """Return rows per second by table over the last few seconds."""
        self._history.append((time.monotonic(), {t.name: t.rows for t in sample.tables}))
        (then, before), (now, after) = self._history[0], self._history[-1]
        span = now - then
        return {name: (rows - before.get(name, 0)) / span if span else 0.0 for name, rows in after.items()}

    def _how_to_connect(self) -> list[str]:
        return [
            f"serving at {self._address}, data in {self._folder}",
            "from a notebook:",
            f'    import tickflight; client = tickflight.connect("{self._address}")',
            '    client.sql("SELECT * FROM trades ORDER BY seq DESC LIMIT 10").polars()',
        ]

    def _draw(self, sample: Sample, rates: Mapping[str, float]) -> Group:
        tables = Table(title="rows", expand=True)
        for name in ("table", "rows/s", "rows", "in memory", "on disk", "parts", "MB on disk", "not flushed"):
            tables.add_column(name, justify="left" if name == "table" else "right")
        for t in sample.tables:
            tables.add_row(
                *(t.name, f"{rates.get(t.name, 0.0):,.0f}", f"{t.rows:,}", f"{t.rows_in_memory:,}"),
                *(f"{t.rows_on_disk:,}", f"{t.parts:,}", f"{t.bytes_on_disk / 1e6:,.2f}", f"{t.rows_not_flushed:,}"),
            )
        prices = Table(title="last minute of trades, asked over ADBC", expand=True)
        for name in ("exchange", "symbol", "last price", "VWAP", "trades", "age ms"):
            prices.add_column(name, justify="left" if name in ("exchange", "symbol") else "right")
        for row in sample.prices:
            prices.add_row(
                *(row["exchange"], row["symbol"], f"{row['price']:,.6g}", f"{row['vwap']:,.8g}"),
                *(f"{row['trades']:,}", f"{row['age_ms']:,}"),
            )
        help_text = "\n".join([*self._how_to_connect(), "Ctrl-C stops everything and loses nothing."])
        return Group(tables, prices, Panel(_state(sample), title="log, flush, feed"), Panel(help_text, title="connect"))


def _state(sample: Sample) -> str:
    metrics, feed = sample.metrics, sample.feed
    commits = metrics.get("log_commits", 0)
    each = 1000 * metrics.get("log_commit_seconds", 0) / commits if commits else 0.0
    return (
        f"log {sample.log['bytes'] / 1e6:.2f} MB in {sample.log['files']} files, {commits:.0f} syncs of {each:.1f} ms; "
        f"{metrics.get('flushes', 0):.0f} flushes; feed called back {feed.get('received', 0):,}, "
        f"acknowledged {feed.get('acknowledged', 0):,}, waiting {feed.get('queue_rows', 0):,}, "
        f"rejected {feed.get('rejected', 0):,}, dropped {feed.get('dropped', 0):,}; {sample.gaps:,} holes"
    )


def _line(sample: Sample, rates: Mapping[str, float]) -> str:
    counts = ", ".join(f"{t.name} {t.rows:,} (+{rates.get(t.name, 0):,.0f}/s)" for t in sample.tables)
    prices = ", ".join(f"{r['symbol']} {r['price']:,.6g} vwap {r['vwap']:,.6g}" for r in sample.prices[:3])
    return f"{counts or 'no rows yet'} | {prices} | {_state(sample)}"
