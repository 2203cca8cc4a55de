"""Binance's public data files, as https://data.binance.vision has them.

Columns and file names are those of https://github.com/binance/binance-public-data. Spot files have no header, futures
files have one since 2022; times are milliseconds, in spot files microseconds from 2025-01-01 on; they are told apart by
size. No file says in a column whose it is: exchange and symbol come from its name, its folders, its header, or the
user.

The rule of this file: a market is never guessed. Where spot and futures files look alike and no folder says which one
it is, the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.app.backfill.cells import Cells
from tickflight_server.app.backfill.files import SourceFile
from tickflight_server.app.backfill.layout import Layout, Rows, Wishes, batch_of, choose_table
from tickflight_server.app.backfill.symbols import symbol_name
from tickflight_server.errors import InputError, UnsupportedError

SPOT, USD_M, COIN_M = "BINANCE", "BINANCE_FUTURES", "BINANCE_DELIVERY"
_VENUES = {SPOT: "binance", USD_M: "binance-futures", COIN_M: "binance-delivery"}
_INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1mo")
_REFUSED = {
    "bookDepth": "holds depth by percentage of the price, which no table takes",
    "indexPriceKlines": "holds candles of an index, not of trades",
    "markPriceKlines": "holds candles of the mark price, not of trades",
    "premiumIndexKlines": "holds candles of the premium index, not of trades",
}
_NAME = re.compile(r"(?P<symbol>[^-]+)-(?P<kind>[A-Za-z0-9]+)-\d{4}-\d{2}(?:-\d{2})?")


@dataclass(frozen=True)
class _Kind:
    """A kind of file: its columns as futures files name them, how many a spot file has, and where its rows go."""

    columns: tuple[str, ...]
    tables: tuple[str, ...]
    spot_columns: int = 0


KINDS: Mapping[str, _Kind] = {
    "trades": _Kind(("id", "price", "qty", "quote_qty", "time", "is_buyer_maker"), ("trades",), 7),
    "aggTrades": _Kind(
        ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker"),
        ("trades",),
        8,
    ),
    "klines": _Kind(
        (
            *("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count"),
            *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
        ),
        ("candles",),
        12,
    ),
    "bookTicker": _Kind(
        (
            *("update_id", "best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty"),
            *("transaction_time", "event_time"),
        ),
        ("l1_book", "ticker"),
    ),
    "fundingRate": _Kind(("calc_time", "funding_interval_hours", "last_funding_rate"), ("funding",)),
    "metrics": _Kind(
        (
            *("create_time", "symbol", "sum_open_interest", "sum_open_interest_value"),
            *("count_toptrader_long_short_ratio", "sum_toptrader_long_short_ratio"),
            *("count_long_short_ratio", "sum_taker_long_short_vol_ratio"),
        ),
        ("open_interest",),
    ),
    "liquidationSnapshot": _Kind(
        (
            *("time", "side", "order_type", "time_in_force", "original_quantity", "price", "average_price"),
            *("order_status", "last_fill_quantity", "accumulated_fill_quantity"),
        ),
        ("liquidations",),
    ),
}
_USED: Mapping[str, tuple[str, ...]] = {
    "trades": ("id", "price", "qty", "time", "is_buyer_maker"),
    "aggTrades": ("agg_trade_id", "price", "quantity", "transact_time", "is_buyer_maker"),
    "klines": ("open_time", "open", "high", "low", "close", "volume", "close_time", "count"),
    "bookTicker": ("best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty", "event_time"),
    "fundingRate": ("calc_time", "last_funding_rate"),
    "metrics": ("create_time", "sum_open_interest"),
    "liquidationSnapshot": ("time", "side", "original_quantity", "price", "order_status"),
}
_FIRST = frozenset(k.columns[0] for k in KINDS.values())
_SPOT_FIRST = frozenset({"trade_id", "aggregate_trade_id"})


class Binance:
    """The conversions of one file."""

    def __init__(self, exchange: str, symbol: str, table: str, interval: str | None) -> None:
        self._exchange, self._symbol, self._table, self._interval = exchange, symbol, table, interval

    def _rows(self, cells: Cells, time: pa.Array, columns: dict[str, pa.Array]) -> list[Rows]:
        """Add what all tables have; nobody wrote down when the row was received, so its own time stands in."""
        head = {
            "exchange": cells.constant(self._exchange),
            "symbol": cells.constant(self._symbol),
            "timestamp": time,
            "receipt_timestamp": time,
        }
        return [(self._table, batch_of(cells, head | columns))]

    def trades(self, cells: Cells) -> list[Rows]:
        """A trade, or the trades of one order at one price: the taker sold where the buyer was the maker."""
        aggregated = "agg_trade_id" in cells
        maker = cells.require("is_buyer_maker", cells.flag("is_buyer_maker"))
        time = "transact_time" if aggregated else "time"
        amount = "quantity" if aggregated else "qty"
        columns = {
            "side": pc.if_else(maker, "sell", "buy").dictionary_encode(),
            "amount": cells.require(amount, cells.number(amount)),
            "price": cells.require("price", cells.number("price")),
            "id": cells.text("agg_trade_id" if aggregated else "id"),
        }
        return self._rows(cells, cells.require(time, cells.time(time, unit="ms_us")), columns)

    def klines(self, cells: Cells) -> list[Rows]:
        """A finished candle; its time is that of its end."""
        stop = cells.require("close_time", cells.time("close_time", unit="ms_us"))
        columns = {
            "start": cells.require("open_time", cells.time("open_time", unit="ms_us")),
            "stop": stop,
            "interval": cells.constant(str(self._interval)),
            "trades": cells.integer("count"),
            **{n: cells.require(n, cells.number(n)) for n in ("open", "close", "high", "low", "volume")},
            "closed": pa.array(np.ones(cells.rows, bool)),
        }
        return self._rows(cells, stop, columns)

    def book_ticker(self, cells: Cells) -> list[Rows]:
        """The best bid and ask."""
        time = cells.require("event_time", cells.time("event_time", unit="ms_us"))
        columns = {}
        for side in ("bid", "ask"):
            columns[f"{side}_price" if self._table == "l1_book" else side] = cells.number(f"best_{side}_price")
            if self._table == "l1_book":
                columns[f"{side}_size"] = cells.number(f"best_{side}_qty")
        return self._rows(cells, time, columns)

    def funding(self, cells: Cells) -> list[Rows]:
        """A rate that was paid at the row's time."""
        time = cells.require("calc_time", cells.time("calc_time", unit="ms_us"))
        rate = cells.require("last_funding_rate", cells.number("last_funding_rate"))
        return self._rows(cells, time, {"rate": rate})

    def metrics(self, cells: Cells) -> list[Rows]:
        """The open interest, every five minutes."""
        time = cells.require("create_time", cells.time("create_time", unit="ms_us"))
        interest = cells.require("sum_open_interest", cells.number("sum_open_interest"))
        return self._rows(cells, time, {"open_interest": interest})

    def liquidations(self, cells: Cells) -> list[Rows]:
        """A forced order."""
        time = cells.require("time", cells.time("time", unit="ms_us"))
        sides = {"BUY": "buy", "SELL": "sell"}
        columns = {
            "side": cells.label("side", sides.get, "is neither BUY nor SELL"),
            "quantity": cells.require("original_quantity", cells.number("original_quantity")),
            "price": cells.require("price", cells.number("price")),
            # cryptofeed knows these two
            "status": cells.label("order_status", lambda s: "filled" if s == "FILLED" else "unfilled"),
        }
        return self._rows(cells, time, columns)


_CONVERT: Mapping[str, Callable[[Binance], Callable[[Cells], list[Rows]]]] = {
    "trades": lambda b: b.trades,
    "aggTrades": lambda b: b.trades,
    "klines": lambda b: b.klines,
    "bookTicker": lambda b: b.book_ticker,
    "fundingRate": lambda b: b.funding,
    "metrics": lambda b: b.metrics,
    "liquidationSnapshot": lambda b: b.liquidations,
}


def is_binance(file: SourceFile, header: tuple[str, ...]) -> bool:
    """Whether a file's name or first line is that of a public data file of Binance."""
    if any(header == k.columns for k in KINDS.values()):
        return True
    match = _NAME.fullmatch(file.name)
    return bool(match) and _kind_of(str(match and match["kind"])) is not None


def _kind_of(word: str) -> str | None:
    if word in _INTERVALS:
        return "klines"
    return word if word in KINDS or word in _REFUSED else None


def binance_layout(file: SourceFile, first: tuple[str, ...], wishes: Wishes) -> Layout:
    """Return the layout of a public data file, whose ``first`` line is a header or not.

    Raises:
        InputError: its kind, market, symbol or interval cannot be told.
        UnsupportedError: it is of a kind that no table takes.
    """
    match = _NAME.fullmatch(file.name)
    kind = _find_kind(file, first, match)
    header = first[0] in _FIRST | _SPOT_FIRST
    columns = _columns(file, kind, first)
    exchange, venue = _market(file, kind, first, header, match, wishes)
    symbol = wishes.symbol or _symbol(file, venue, match)
    table = choose_table(wishes.table, KINDS[kind].tables, f"Binance's {kind}")
    interval = _interval(file, match) if kind == "klines" else None
    binance = Binance(exchange, symbol, table, interval)
    return Layout(
        name=f"binance {kind}",
        columns=columns,
        used=_USED[kind],
        header=header,
        tables=(table,),
        mapping={"exchange": exchange, "symbol": symbol, "interval": interval},
        convert=_CONVERT[kind](binance),
    )


def _find_kind(file: SourceFile, first: tuple[str, ...], match: re.Match[str] | None) -> str:
    for word in (*file.path.parts[:-1], match["kind"] if match else ""):
        if word in _REFUSED:
            raise UnsupportedError(f"{file.path} {_REFUSED[word]}.", hint="Leave it out.")
    kind = _kind_of(match["kind"]) if match else None
    if kind is None:
        # renamed: the header of a futures file still says it
        kind = next((k for k, v in KINDS.items() if v.columns[0] == first[0] and len(first) == len(v.columns)), None)
    if kind is None:
        raise InputError(
            f"{file.path} does not say what it holds.",
            hint="Keep Binance's file name, such as BTCUSDT-trades-2025-01-01.zip.",
        )
    return kind


def _columns(file: SourceFile, kind: str, first: tuple[str, ...]) -> tuple[str, ...]:
    known = KINDS[kind]
    if len(first) == len(known.columns):
        return known.columns
    if len(first) == known.spot_columns:
        return (*known.columns, "is_best_match")
    raise InputError(
        f"{file.path} has {len(first)} columns, {kind} have {len(known.columns)}.",
        hint="Is it Binance's? See the file.",
    )


def _market(
    file: SourceFile, kind: str, first: tuple[str, ...], header: bool, match: re.Match[str] | None, wishes: Wishes
) -> tuple[str, str]:
    """Return the exchange's name and whose rules its symbols follow."""
    told = _told_market(file, kind, first, header, match["symbol"] if match else "")
    if wishes.exchange in _VENUES:
        told = wishes.exchange
    if told is not None:
        return wishes.exchange or told, _VENUES[told]
    if wishes.exchange is not None and wishes.symbol is not None:
        return wishes.exchange, ""
    raise InputError(
        f"{file.path} may be of Binance's spot or futures market: its folders, name and header do not say which.",
        hint=f"Give --exchange {SPOT} or --exchange {USD_M}, or keep Binance's folders (data/spot, data/futures/um).",
    )


def _told_market(file: SourceFile, kind: str, first: tuple[str, ...], header: bool, symbol: str) -> str | None:
    folders = file.path.absolute().parts[:-1]
    if "futures" in folders:
        inside = folders[folders.index("futures") + 1 :]
        return {"um": USD_M, "cm": COIN_M}.get(inside[0] if inside else "")
    if "spot" in folders:
        return SPOT
    if symbol.endswith("_PERP") or "base_qty" in first or re.fullmatch(r".+USD_\d{6}", symbol):
        return COIN_M
    if re.fullmatch(r".+_\d{6}", symbol):
        return USD_M
    if kind in ("trades", "aggTrades"):
        return SPOT if len(first) == KINDS[kind].spot_columns else USD_M
    if kind in ("bookTicker", "fundingRate", "metrics", "liquidationSnapshot"):
        return USD_M
    if header:
        return USD_M
    times = first[0]
    return SPOT if len(times) >= 16 else None  # only spot files count in microseconds


def _symbol(file: SourceFile, venue: str, match: re.Match[str] | None) -> str:
    own = match["symbol"] if match else None
    found = symbol_name(venue, own) if own else None
    if found is None:
        what = f"symbol {own!r}" if own else "its symbol"
        raise InputError(
            f"{file.path}: {what} cannot be told apart into base and quote.", hint="Give --symbol BTC-USDT."
        )
    return found


def _interval(file: SourceFile, match: re.Match[str] | None) -> str:
    words = [match["kind"]] if match else list(reversed(file.path.parts[:-1]))
    found = next((w for w in words if w in _INTERVALS), None)
    if found is None:
        raise InputError(
            f"{file.path} does not say how long its candles are.",
            hint="Keep Binance's file name, such as BTCUSDT-1m-2025-01.zip.",
        )
    return "1M" if found == "1mo" else found
