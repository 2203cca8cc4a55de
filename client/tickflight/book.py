"""Order books: one as it stood at an instant, and what is asked of it.

The rule of this file: the server makes books; here they are looked at. Levels stay Arrow arrays, best first, and a
figure is computed from them when it is asked for, in Python's numbers of the server's kind (float or Decimal).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

from tickflight.errors import QueryError
from tickflight.result import Result

DEPTH = 10
_AT = "FROM book_at(?, ?, ?, ?)"
_NOW = "FROM book_at(?, ?, now(), ?)"
_SERIES = "FROM books(?, ?, ?, ?, to_microseconds(?), ?)"
Number = Any
"""A float, or a Decimal where the server keeps exact decimals."""


@dataclass(frozen=True)
class Side:
    """The levels of one side, best first, as Arrow arrays of one length; ``to_numpy()`` of each costs no copy."""

    prices: pa.Array
    sizes: pa.Array

    def __len__(self) -> int:
        return len(self.prices)

    def __getitem__(self, level: int) -> tuple[Number, Number]:
        """Return price and size of a level, 0 for the best."""
        return self.prices[level].as_py(), self.sizes[level].as_py()


class Book:
    """An order book after its last event before an instant.

    ``timestamp`` (UTC, without a zone) and ``seq`` are the event's; both are None, and the sides empty, where the
    server has no levels at that instant. ``stale`` says that events are known to be missing since the last snapshot.

    Args:
        exchange: as the server names it.
        symbol: as the server names it.
        levels: the rows of ``book_at``.
    """

    def __init__(self, exchange: str, symbol: str, levels: pa.Table) -> None:
        self.exchange = exchange
        self.symbol = symbol
        known = levels.num_rows > 0
        self.timestamp: datetime | None = levels["timestamp"][0].as_py() if known else None
        self.seq: int | None = levels["seq"][0].as_py() if known else None
        self.stale: bool = bool(known and levels["stale"][0].as_py())
        self.bids = _side(levels, "bid")
        self.asks = _side(levels, "ask")

    @property
    def mid(self) -> Number | None:
        """The middle between best bid and best ask; None where a side is empty."""
        return (self.bids[0][0] + self.asks[0][0]) / 2 if self._two_sided else None

    @property
    def spread(self) -> Number | None:
        """Best ask less best bid; None where a side is empty."""
        return self.asks[0][0] - self.bids[0][0] if self._two_sided else None

    @property
    def microprice(self) -> Number | None:
        """Best bid and ask, each weighted with the size on the other side; None where a side is empty."""
        if not self._two_sided:
            return None
        (bid, bid_size), (ask, ask_size) = self.bids[0], self.asks[0]
        return (bid * ask_size + ask * bid_size) / (bid_size + ask_size)

    @property
    def _two_sided(self) -> bool:
        return len(self.bids) > 0 and len(self.asks) > 0

    def imbalance(self, levels: int = 1) -> Number | None:
        """Return from -1, all size is asked, to 1, all is bid, over the best ``levels``; None of an empty book."""
        bid = sum(self.bids.sizes.slice(0, levels).to_pylist())
        ask = sum(self.asks.sizes.slice(0, levels).to_pylist())
        return (bid - ask) / (bid + ask) if bid + ask else None

    def price_for(self, volume: Number, side: Literal["buy", "sell"]) -> Number | None:
        """Return the mean price for which a taker buys or sells ``volume``; None where the levels have not so much.

        Raises:
            QueryError: ``side`` is neither, or the volume is not above zero.
        """
        if side not in ("buy", "sell") or not volume > 0:
            raise QueryError(f"price_for({volume!r}, {side!r}): a volume above zero, and 'buy' or 'sell', are wanted.")
        levels = self.asks if side == "buy" else self.bids
        volume = Decimal(str(volume)) if pa.types.is_decimal(levels.prices.type) else volume
        left, paid = volume, volume * 0
        for price, size in zip(levels.prices.to_pylist(), levels.sizes.to_pylist(), strict=True):
            taken = min(left, size)
            paid += price * taken
            left -= taken
            if left <= 0:
                return paid / volume
        return None

    def __repr__(self) -> str:
        head = f"{self.exchange} {self.symbol}"
        if self.timestamp is None:
            return f"<no book of {head}>"
        told = f"{head} at {self.timestamp} (seq {self.seq}{', stale' if self.stale else ''})"
        shown = [(f"{size:.12g}", f"{price:.12g}", "") for price, size in _best(self.bids)]
        asks = [("", f"{price:.12g}", f"{size:.12g}") for price, size in _best(self.asks)]
        rows = [("bid", "price", "ask"), *reversed(asks), *shown]
        widths = [max(len(row[place]) for row in rows) for place in range(3)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([told, *(line.rstrip() for line in lines)])


_SHOWN = 5


def _best(side: Side) -> list[tuple[Number, Number]]:
    return [side[level] for level in range(min(_SHOWN, len(side)))]


def _side(levels: pa.Table, side: str) -> Side:
    prices, sizes = (_one(levels[f"{side}_{what}"]) for what in ("price", "size"))
    count = len(prices) - prices.null_count  # the shorter side ends with nulls
    return Side(prices.slice(0, count), sizes.slice(0, count))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


Sql = Callable[[str, Sequence[Any]], Result]


def book(sql: Sql, exchange: str, symbol: str, t: datetime | str | None, depth: int) -> Book:
    """Return the book at ``t``, now where it is None; ``sql`` runs queries."""
    if t is None:
        return Book(exchange, symbol, sql(_NOW, [exchange, symbol, depth]).arrow())
    return Book(exchange, symbol, sql(_AT, [exchange, symbol, instant(t), depth]).arrow())


def books(
    sql: Sql,
    exchange: str,
    symbol: str,
    start: datetime | str,
    end: datetime | str,
    step: timedelta | float,
    depth: int,
) -> Result:
    """Return the books at each instant of a grid; ``step`` is a timedelta, or seconds."""
    seconds = step if isinstance(step, timedelta) else timedelta(seconds=step)
    every = seconds // timedelta(microseconds=1)
    return sql(_SERIES, [exchange, symbol, instant(start), instant(end), every, depth])


def instant(t: datetime | str) -> datetime:
    """Return a time in UTC without a zone; without one it is UTC already.

    Raises:
        QueryError: it is none.
    """
    if isinstance(t, str):
        try:
            t = datetime.fromisoformat(t)
        except ValueError:
            raise QueryError(f"{t!r} is no time: write '2026-11-22 10:00:00'.") from None
    if not isinstance(t, datetime):
        raise QueryError(f"{t!r} is no time: give a datetime, or '2026-11-22 10:00:00'.")
    return t.astimezone(UTC).replace(tzinfo=None) if t.tzinfo is not None else t
