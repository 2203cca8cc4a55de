"""What happens on the sandbox market, as frozen facts, and the instruments it happens on.

The rule of this file: prices are whole ticks, sizes whole lots, times whole microseconds since 1970 UTC. They become
text in one place, `decimal_text`, so that every protocol prints the same digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US

Side = Literal["buy", "sell"]
Level = tuple[int, int]
"""A price in ticks and a size in lots."""


class Channel(StrEnum):
    """The kinds of events, by the names that cryptofeed and the tables give them."""

    TRADES = "trades"
    TICKER = "ticker"
    L2_BOOK = "l2_book"
    CANDLES = "candles"


INTERVALS_US = {
    "1m": MINUTE_US,
    "3m": 3 * MINUTE_US,
    "5m": 5 * MINUTE_US,
    "15m": 15 * MINUTE_US,
    "30m": 30 * MINUTE_US,
    "1h": 60 * MINUTE_US,
    "2h": 120 * MINUTE_US,
    "4h": 240 * MINUTE_US,
    "6h": 360 * MINUTE_US,
    "8h": 480 * MINUTE_US,
    "12h": 720 * MINUTE_US,
    "1d": DAY_US,
    "3d": 3 * DAY_US,
    "1w": 7 * DAY_US,
}
"""Candle intervals and their lengths. Months are not of one length and are not offered."""

MONDAY_US = 4 * DAY_US
"""1970-01-01 was a Thursday; weeks start on Mondays."""


def interval_start(interval: str, time_us: int) -> int:
    """Return the start of the interval that holds ``time_us``."""
    length = INTERVALS_US[interval]
    offset = MONDAY_US if interval == "1w" else 0
    return time_us - (time_us - offset) % length


def decimal_text(units: int, decimals: int, places: int = 0) -> str:
    """Return ``units`` of 10**-``decimals`` as exact decimal text, with zeros up to ``places`` after the point."""
    pad = "0" * (places - decimals)
    if decimals == 0:
        return f"{units}.{pad}" if pad else str(units)
    whole, part = divmod(units, 10**decimals)
    return f"{whole}.{part:0{decimals}d}{pad}"


@dataclass(frozen=True, slots=True)
class Instrument:
    """A traded pair.

    ``price_ticks`` is where the price starts and what it is drawn to, ``gap_ticks`` the usual distance of neighbouring
    book levels, ``size_lots`` the usual size of an order.
    """

    symbol: str
    price_decimals: int
    lot_decimals: int
    price_ticks: int
    gap_ticks: int
    size_lots: int

    @property
    def base(self) -> str:
        """The currency that is bought and sold."""
        return self.symbol.split("-")[0]

    @property
    def quote(self) -> str:
        """The currency that prices are in."""
        return self.symbol.split("-")[1]

    def price(self, ticks: int, places: int = 0) -> str:
        """Return a price as decimal text."""
        return decimal_text(ticks, self.price_decimals, places)

    def size(self, lots: int, places: int = 0) -> str:
        """Return a size as decimal text."""
        return decimal_text(lots, self.lot_decimals, places)

    def value(self, ticks_lots: int, places: int = 0) -> str:
        """Return a sum of price times size as decimal text."""
        return decimal_text(ticks_lots, self.price_decimals + self.lot_decimals, places)


@dataclass(frozen=True, slots=True)
class TradeEvent:
    """A trade. ``side`` is the taker's. ``trade_id`` is dense and increasing per symbol."""

    channel: ClassVar[Channel] = Channel.TRADES
    symbol: str
    time_us: int
    trade_id: int
    side: Side
    price: int
    size: int


@dataclass(frozen=True, slots=True)
class BookDelta:
    """Changed levels of a book; size 0 removes a level.

    ``first`` to ``last`` are the numbers of the changes, dense per symbol: the delta applies to the book whose sequence
    is ``first - 1`` and leaves it at ``last``.
    """

    channel: ClassVar[Channel] = Channel.L2_BOOK
    symbol: str
    time_us: int
    first: int
    last: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class TickerEvent:
    """The best bid and ask after the book's change ``sequence``, and the last trade."""

    channel: ClassVar[Channel] = Channel.TICKER
    symbol: str
    time_us: int
    sequence: int
    bid: int
    bid_size: int
    ask: int
    ask_size: int
    last: int
    last_size: int


@dataclass(frozen=True, slots=True)
class CandleEvent:
    """A candle as of ``time_us``; ``turnover`` is the sum of price times size, ``buy_`` what takers bought of it."""

    channel: ClassVar[Channel] = Channel.CANDLES
    symbol: str
    time_us: int
    interval: str
    start_us: int
    stop_us: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    turnover: int
    buy_volume: int
    buy_turnover: int
    trades: int
    first_trade_id: int
    last_trade_id: int
    closed: bool


Event = TradeEvent | BookDelta | TickerEvent | CandleEvent


@dataclass(frozen=True, slots=True)
class BookSnapshot:
    """A whole book, best levels first, as it is after the change ``sequence``."""

    symbol: str
    time_us: int
    sequence: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
