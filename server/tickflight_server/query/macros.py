"""SQL macros of schema ``market``: what quants ask of books and trades, in the engine's own words.

The rule of this file: a macro is a row of ``MARKET_MACROS``, with an example that a test runs. A parameter hides a
column of its name, so columns are named with their table; filters are plain comparisons, which reach the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tickflight_server.query.trees import CATALOG

MacroKind = Literal["scalar", "aggregate", "table"]


@dataclass(frozen=True)
class Macro:
    """A macro: its parameters as SQL writes them, what it is in the engine's words, and the tables that it reads."""

    name: str
    kind: MacroKind
    parameters: str
    body: str
    description: str
    example: str
    reads: tuple[str, ...] = ()

    @property
    def signature(self) -> str:
        """How it is called."""
        return f"{self.name}({self.parameters})"

    @property
    def create(self) -> str:
        """The statement that makes it."""
        table = "TABLE " if self.kind == "table" else ""
        return f'CREATE OR REPLACE MACRO {CATALOG}.market."{self.name}"({self.parameters}) AS {table}{self.body}'


_BOOKS = "FROM books('BINANCE', 'BTC-USDT', now() - INTERVAL 1 MINUTE, now(), INTERVAL 1 SECOND)"
_SCALARS = (
    Macro(
        "spread",
        "scalar",
        "bid_prices, ask_prices",
        "(ask_prices[1] - bid_prices[1])",
        "Best ask less best bid of price lists that begin with the best.",
        f"SELECT t, spread(bid_prices, ask_prices) {_BOOKS}",
    ),
    Macro(
        "mid",
        "scalar",
        "bid_prices, ask_prices",
        "((bid_prices[1] + ask_prices[1]) / 2)",
        "The middle between best bid and best ask.",
        f"SELECT t, mid(bid_prices, ask_prices) {_BOOKS}",
    ),
    Macro(
        "microprice",
        "scalar",
        "bid_prices, bid_sizes, ask_prices, ask_sizes",
        "((bid_prices[1] * ask_sizes[1] + ask_prices[1] * bid_sizes[1]) / (bid_sizes[1] + ask_sizes[1]))",
        "Best bid and ask, each weighted with the size on the other side.",
        f"SELECT t, microprice(bid_prices, bid_sizes, ask_prices, ask_sizes) {_BOOKS}",
    ),
    Macro(
        "imbalance",
        "scalar",
        "bid_sizes, ask_sizes, levels := 1",
        "((list_sum(bid_sizes[1:levels]) - list_sum(ask_sizes[1:levels]))"
        " / (list_sum(bid_sizes[1:levels]) + list_sum(ask_sizes[1:levels])))",
        "From -1, all size is asked, to 1, all is bid; over the best levels.",
        f"SELECT t, imbalance(bid_sizes, ask_sizes, levels := 5) {_BOOKS}",
    ),
    Macro(
        "depth_within",
        "scalar",
        "prices, sizes, mid_price, percent",
        "coalesce(list_sum(list_transform(list_filter(list_zip(prices, sizes),"
        " lambda __l: abs(__l[1] - mid_price) <= mid_price * percent / 100), lambda __l: __l[2])), 0)",
        "Size of one side at prices at most a percentage away from a price.",
        f"SELECT t, depth_within(bid_prices, bid_sizes, mid(bid_prices, ask_prices), 0.1) {_BOOKS}",
    ),
    Macro(
        "price_for_volume",
        "scalar",
        "prices, sizes, volume",
        "CASE WHEN list_sum(sizes) >= volume THEN list_sum(list_transform(range(1, len(prices) + 1), lambda __i:"
        " prices[__i] * greatest(0, least(sizes[__i], volume - coalesce(list_sum(sizes[1:__i - 1]), 0))))) / volume"
        " END",
        "Mean price for which a volume is filled from the best level on; NULL where one side has not so much.",
        f"SELECT t, price_for_volume(ask_prices, ask_sizes, 1.5) {_BOOKS}",
    ),
    Macro(
        "vwap",
        "aggregate",
        "price, amount",
        "(sum(price * amount) / sum(amount))",
        "Mean price of trades, weighted with their amounts.",
        "SELECT symbol, vwap(price, amount) FROM trades WHERE timestamp > now() - INTERVAL 1 HOUR GROUP BY symbol",
    ),
)
# which instrument and when: what all table macros of one symbol end with
_RANGE = "since := NULL, until := NULL, exchange := NULL"
_WHERE = """t.symbol = symbol AND (exchange IS NULL OR t.exchange = exchange)
AND (since IS NULL OR t.timestamp >= since) AND (until IS NULL OR t.timestamp < until)"""
_LAST_HOUR = "since := now() - INTERVAL 1 HOUR"


def _latest(table: str) -> Macro:
    return Macro(
        f"latest_{table}",
        "table",
        "symbol := NULL, exchange := NULL, within := INTERVAL 1 DAY",
        f"""SELECT t.* FROM {CATALOG}.market.{table} AS t
        WHERE (symbol IS NULL OR t.symbol = symbol) AND (exchange IS NULL OR t.exchange = exchange)
        AND t.timestamp >= getvariable('__now')::TIMESTAMP - within
        QUALIFY row_number() OVER (PARTITION BY t.exchange, t.symbol ORDER BY t.timestamp DESC, t.seq DESC) = 1""",
        f"The newest row of {table} of each exchange and symbol; what is older than within is left out.",
        f"FROM latest_{table}(symbol := 'BTC-USDT')",
        (table,),
    )


def _with_quotes(name: str, table: str, bid: str, ask: str) -> Macro:
    return Macro(
        name,
        "table",
        f"symbol, {_RANGE}, max_age := INTERVAL 1 HOUR",
        f"""SELECT t.*, q.bid, q.ask, (q.bid + q.ask) / 2 AS mid, q.quoted
        FROM (SELECT t.* FROM {CATALOG}.market.trades AS t WHERE {_WHERE}) AS t
        ASOF LEFT JOIN (
            SELECT t.exchange, t.symbol, t.{bid} AS bid, t.{ask} AS ask, t.timestamp AS quoted
            FROM {CATALOG}.market.{table} AS t
            WHERE t.symbol = symbol AND (exchange IS NULL OR t.exchange = exchange)
            AND (since IS NULL OR t.timestamp >= since::TIMESTAMP - max_age) AND (until IS NULL OR t.timestamp < until)
        ) AS q
        ON t.exchange = q.exchange AND t.symbol = q.symbol AND t.timestamp >= q.quoted""",
        f"Trades with the quote of {table} as of their time; quotes older than max_age before since are not looked at.",
        f"FROM {name}('BTC-USDT', {_LAST_HOUR})",
        ("trades", table),
    )


def _markouts() -> Macro:
    return Macro(
        "markouts",
        "table",
        f"symbol, horizon, {_RANGE}",
        f"""SELECT t.exchange, t.symbol, t.timestamp, t.side, t.price, t.amount, q.mid AS mid_after,
        CASE t.side WHEN 'sell' THEN t.price - q.mid ELSE q.mid - t.price END AS markout
        FROM (SELECT t.*, t.timestamp + horizon AS "at" FROM {CATALOG}.market.trades AS t WHERE {_WHERE}) AS t
        ASOF LEFT JOIN (
            SELECT t.exchange, t.symbol, (t.bid + t.ask) / 2 AS mid, t.timestamp AS quoted
            FROM {CATALOG}.market.ticker AS t
            WHERE t.symbol = symbol AND (exchange IS NULL OR t.exchange = exchange)
            AND (since IS NULL OR t.timestamp >= since::TIMESTAMP - INTERVAL 1 HOUR)
            AND (until IS NULL OR t.timestamp < until::TIMESTAMP + horizon)
        ) AS q
        ON t.exchange = q.exchange AND t.symbol = q.symbol AND t."at" >= q.quoted""",
        "Trades with the ticker's middle a while after them, and what the taker has gained by then.",
        f"SELECT avg(markout) FROM markouts('BTC-USDT', INTERVAL 5 SECONDS, {_LAST_HOUR})",
        ("trades", "ticker"),
    )


_TABLES = (
    Macro(
        "ohlcv",
        "table",
        f"symbol, step, {_RANGE}",
        f"""SELECT t.exchange, t.symbol, time_bucket(step, t.timestamp) AS t,
        arg_min(t.price, (t.timestamp, t.seq)) AS open, max(t.price) AS high, min(t.price) AS low,
        arg_max(t.price, (t.timestamp, t.seq)) AS close, sum(t.amount) AS volume,
        sum(t.price * t.amount) / sum(t.amount) AS vwap, count(*) AS trades
        FROM {CATALOG}.market.trades AS t WHERE {_WHERE}
        GROUP BY t.exchange, t.symbol, time_bucket(step, t.timestamp) ORDER BY 1, 2, 3""",
        "Bars of a symbol's trades, of each exchange: a row for each step that has trades.",
        f"FROM ohlcv('BTC-USDT', INTERVAL 1 MINUTE, {_LAST_HOUR})",
        ("trades",),
    ),
    *map(_latest, ("trades", "ticker", "l1_book", "funding", "open_interest", "index")),
    _with_quotes("trades_with_ticker", "ticker", "bid", "ask"),
    _with_quotes("trades_with_l1_book", "l1_book", "bid_price", "ask_price"),
    _markouts(),
)

MARKET_MACROS: Mapping[str, Macro] = {macro.name: macro for macro in (*_SCALARS, *_TABLES)}
"""Every macro by name."""

TABLE_MACROS = frozenset(macro.name for macro in MARKET_MACROS.values() if macro.kind == "table")
AGGREGATES = frozenset(macro.name for macro in MARKET_MACROS.values() if macro.kind == "aggregate")
