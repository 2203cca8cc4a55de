"""A small market whose every value tells whose row it is, in every place where rows can be.

The rule of this file: rows are plain dicts, known here before the server knows them; nothing is asked of the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from tickflight_server.config import LakehouseSettings
from tickflight_server.schemas import STORED
from tickflight_server.store import Store

Row = Mapping[str, Any]

MARKETS = (
    ("ALPHA", "XBT-USDT"),
    ("ALPHA", "XBT-EUR"),
    ("ALPHA", "ETX-USDT"),
    ("BRAVO", "XBT-USDT"),
    ("BRAVO", "SOL-USDT"),
    ("BRAVO", "XMR-GBP"),
)
TABLES = ("trades", "ticker", "l2_book", "funding", "order_info", "balances", "rejected", "gaps")
"""The stored tables that have rows here; the others are empty."""

# Hours back from now, by step of the building. 46 and 50 are on the same UTC day mostly, and a history of two days
# ends between them: rows of one part are to be seen and not to be seen.
_STEPS: Mapping[str, tuple[float, ...]] = {
    "old": (5 * 24, 5 * 24 - 0.1, 5 * 24 - 0.2),
    "border": (50, 49, 48.5, 47.5, 47, 46),
    "held": (30, 29.9, 6, 5.9),
    "memory": (5, 4, 3.9, 2, 1),
}
HISTORY_DAYS = 2


@dataclass
class RightsMarket:
    """The rows by table in order of ``seq``, and the last ``seq`` of each table in each of its versions."""

    now: datetime
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    versions: dict[str, list[int]] = field(default_factory=dict)

    @property
    def cut(self) -> datetime:
        """Where a history of ``HISTORY_DAYS`` begins; no row is near it."""
        return self.now - timedelta(days=HISTORY_DAYS)

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns in order."""
        return [c.name for c in STORED[table].columns]


def build(settings: LakehouseSettings) -> RightsMarket:
    """Write the market to a folder: parts of two versions, rows that a flush has left, and rows in the log alone."""
    now = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)
    market = RightsMarket(now, {t: [] for t in STORED}, {t: [] for t in STORED})
    with Store(settings) as store:
        for step in ("old", "border"):
            _append(store, market, step)
            store.flush()
            for table in TABLES:
                market.versions[table].append(len(market.rows[table]))
    store = Store(settings)
    _append(store, market, "held")
    store.tables["trades"].flush("memory", keep_bytes=4_000)
    _append(store, market, "memory")
    store.close(flush=False)
    return market


def _append(store: Store, market: RightsMarket, step: str) -> None:
    for table in TABLES:
        made = [
            dict(_row(table, exchange, symbol, market.now - timedelta(hours=hours), len(market.rows[table]), hours))
            for hours in _STEPS[step]
            for exchange, symbol in MARKETS
        ]
        # numbered as they come: the last number of each is its place in the table
        rows = [_numbered(table, row, len(market.rows[table]) + 1 + i) for i, row in enumerate(made)]
        schema = STORED[table].arrow_input("float64")
        ack = store.append(table, pa.RecordBatch.from_pylist(rows, schema=schema)).result()
        assert (ack.first_seq, ack.rows, ack.rejected) == (len(market.rows[table]) + 1, len(rows), 0)
        market.rows[table] += rows


def _numbered(table: str, row: dict[str, Any], seq: int) -> dict[str, Any]:
    """Return ``row`` as the table has it: with all columns, its ``seq``, and numbers that no other row has."""
    row["seq"] = seq
    for name in ("price", "mark_price", "bid", "amount", "balance"):
        if name in row:
            row[name] += seq / 4  # quarters: sums of them are exact in whatever order
    if "id" in row:
        row["id"] += str(seq)
    if "row" in row:
        row["row"] = row["row"].replace("#", str(seq))
    return {column.name: row.get(column.name) for column in STORED[table].columns}


def _row(table: str, exchange: str, symbol: str, at: datetime, number: int, hours: float) -> Iterator[tuple[str, Any]]:
    place = MARKETS.index((exchange, symbol)) + 1
    base = 10_000.0 * place
    tag = f"{exchange.lower()}{symbol.partition('-')[0].lower()}"
    yield from (("exchange", exchange), ("symbol", symbol), ("timestamp", at))
    yield "receipt_timestamp", at + timedelta(milliseconds=place)
    side = ("buy", "sell")[(place + int(hours * 10)) % 2]
    # what is not of ALPHA or is old does not read as a number: an expression that is tried on it fails
    id_ = "" if exchange == "ALPHA" and hours <= 24 * HISTORY_DAYS else f"x{tag}"
    match table:
        case "trades":
            yield from (("side", side), ("amount", 1.0 * place), ("price", base), ("id", id_), ("type", f"type-{tag}"))
        case "ticker":
            yield from (("bid", base), ("ask", base + 5_000))
        case "l2_book":
            yield from (("sequence_number", int(hours * 1000)), ("is_snapshot", True), ("checksum", f"sum-{tag}"))
            yield from (("bid_prices", [base + 0.125, base - 0.875]), ("bid_sizes", [1.0 * place, 2.0 + number]))
            yield from (("ask_prices", [base + 1.125, base + 2.125]), ("ask_sizes", [3.0 * place, 4.0 + number]))
        case "funding":
            yield from (("mark_price", base), ("rate", place / 1024))
        case "order_info":
            yield from (("id", id_), ("client_order_id", f"cl-{tag}"), ("side", side), ("account", f"acct-{tag}"))
            yield from (("price", base), ("amount", 2.0 * place))
        case "balances":
            yield from (("currency", symbol), ("balance", base), ("reserved", 1.0 * place))
        case "rejected":
            yield from (("table", "trades"), ("reason", f"why-{tag}"), ("row", f'{{"bad": "{tag}-#"}}'))
        case "gaps":
            yield from (("channel", f"ch-{tag}"), ("cause", f"cause-{tag}"), ("start", at - timedelta(minutes=1)))
            yield from (("end", at), ("expected", 100 * place), ("detail", f"detail-{tag}"))
