"""A seeded market: what happens, decided without I/O, clock or formats.

The rule of this file: the events depend on the seed, the start and the settings alone. `Market.step` only says up to
when they are wanted, so however the time is cut into steps, the same events come out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate

from tickflight_server.feed.sandbox.book import Book, Ladder
from tickflight_server.feed.sandbox.candles import Candles
from tickflight_server.feed.sandbox.events import (
    SECOND_US,
    BookDelta,
    BookSnapshot,
    Event,
    Instrument,
    Side,
    TickerEvent,
    TradeEvent,
)

KNOWN = {
    i.symbol: i
    for i in (
        Instrument("BTC-USDT", 2, 5, 6_500_000, 40, 2_000),
        Instrument("ETH-USDT", 2, 4, 340_000, 4, 3_000),
        Instrument("SOL-USDT", 2, 3, 15_000, 2, 8_000),
        Instrument("XRP-USDT", 4, 1, 25_500, 2, 4_000),
        Instrument("DOGE-USDT", 5, 0, 12_000, 2, 1_500),
        Instrument("ADA-USDT", 4, 1, 6_500, 1, 3_000),
    )
}
"""Instruments whose numbers look like the real ones. Others get made-up numbers, see `instrument`."""

DEFAULT_SYMBOLS = tuple(KNOWN)
DEFAULT_RATE = 2_000.0
DEFAULT_DEPTH = 150

TRADE_SHARE = 0.2  # of what happens; the rest are quotes
MOMENTUM = 0.15  # by how much a taker rather does what the last one did
REVERSION = 5.0  # how strongly takers pull the price back to where it started, per relative distance
SWEEP_LEVELS_MAX = 5  # levels that one taker eats at most
DEPTH_MIN = 30  # levels that takers and cancels leave on a side; more than any checksum looks at
CHANGES_MAX = 4  # levels that one quote event changes
NEAR_LEVELS = 12.0  # how far from the best a quote is on average
CANDLE_EVERY_US = SECOND_US // 2  # running candles are shown this often; divides every interval


def instrument(symbol: str) -> Instrument:
    """Return the instrument of a symbol: a known one, or one whose numbers follow from its name."""
    if symbol in KNOWN:
        return KNOWN[symbol]
    rng = random.Random(symbol)  # noqa: S311 - a market, not a secret
    return Instrument(symbol, 4, 2, rng.randrange(5_000, 5_000_000), rng.randrange(1, 5), rng.randrange(500, 50_000))


class _Pair:
    """The state of one instrument."""

    __slots__ = ("book", "candles", "instrument", "last", "last_size", "side", "top", "trade_id")

    def __init__(self, instrument: Instrument, start_us: int) -> None:
        self.instrument = instrument
        self.book = Book(instrument.symbol)
        self.candles = Candles(instrument.symbol, start_us)
        self.trade_id = 0
        self.side: Side = "buy"
        self.last = instrument.price_ticks
        self.last_size = instrument.size_lots
        self.top: tuple[int, int, int, int] = (0, 0, 0, 0)


class Market:
    """A market of several symbols, the first ones busier than the later.

    ``rate`` is the number of trades, book deltas and tickers per second in all; candles come on top. ``depth`` is about
    how many levels a side of a book has. ``start_us`` is the time of the first event.
    """

    def __init__(
        self,
        seed: int,
        symbols: Sequence[str] = DEFAULT_SYMBOLS,
        *,
        rate: float = DEFAULT_RATE,
        depth: int = DEFAULT_DEPTH,
        start_us: int = 0,
    ) -> None:
        assert symbols, "a market needs a symbol"
        assert rate > 0, "a market needs a rate"
        assert depth > DEPTH_MIN, f"a book needs more than {DEPTH_MIN} levels"
        self.rate = rate
        self.depth = depth
        self.now_us = start_us
        self._rng = random.Random(seed)  # noqa: S311 - a market, not a secret
        self._pairs = {symbol: _Pair(instrument(symbol), start_us) for symbol in symbols}
        self._list = list(self._pairs.values())
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._list) + 1)))
        self._next_us = start_us
        self._candles_us = start_us - start_us % CANDLE_EVERY_US + CANDLE_EVERY_US
        for pair in self._list:
            self._fill(pair)

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """The instruments by symbol."""
        return {symbol: pair.instrument for symbol, pair in self._pairs.items()}

    def snapshot(self, symbol: str, depth: int | None = None) -> BookSnapshot:
        """Return the book of a symbol as it is after everything that `step` has returned."""
        return self._pairs[symbol].book.snapshot(self.now_us, depth)

    def step(self, now_us: int) -> list[Event]:
        """Return what happened since the last step up to and including ``now_us``, in order of time."""
        events: list[Event] = []
        while min(self._next_us, self._candles_us) <= now_us:
            if self._candles_us <= self._next_us:
                for pair in self._list:
                    pair.candles.show(self._candles_us, events)
                self._candles_us += CANDLE_EVERY_US
            else:
                before = len(events)
                self._act(self._next_us, events)
                # The pause follows from how much was said, so that the rate holds whatever the mix is.
                pause = self._rng.expovariate(1.0) * (len(events) - before) * SECOND_US / self.rate
                self._next_us += max(1, round(pause))
        self.now_us = max(self.now_us, now_us)
        return events

    def skip(self, now_us: int) -> None:
        """Let the time until ``now_us`` pass without events."""
        self.now_us = max(self.now_us, now_us)
        self._next_us = max(self._next_us, now_us)
        self._candles_us = max(self._candles_us, now_us - now_us % CANDLE_EVERY_US)

    def _fill(self, pair: _Pair) -> None:
        gap = pair.instrument.gap_ticks
        for side in (pair.book.bids, pair.book.asks):
            price = pair.instrument.price_ticks
            for _ in range(self.depth):
                price += side.sign * self._rng.randint(1, 2 * gap - 1)
                if price >= 1:
                    pair.book.change(side, ((price, self._size(pair)),))
        pair.book.sequence = self._rng.randrange(1_000_000, 9_000_000)
        pair.trade_id = self._rng.randrange(1_000_000, 9_000_000)

    def _size(self, pair: _Pair) -> int:
        return max(1, round(pair.instrument.size_lots * self._rng.lognormvariate(0.0, 1.0)))

    def _act(self, time_us: int, events: list[Event]) -> None:
        """Let one trader do one thing; say what came of it."""
        pair = self._rng.choices(self._list, cum_weights=self._weights)[0]
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        if self._rng.random() < TRADE_SHARE:
            self._take(pair, time_us, bids, asks, events)
        else:
            for _ in range(self._rng.randint(1, CHANGES_MAX)):
                if self._rng.random() < 0.5:
                    self._quote(pair, pair.book.bids, pair.book.asks, bids)
                else:
                    self._quote(pair, pair.book.asks, pair.book.bids, asks)
        book = pair.book
        first, book.sequence = book.sequence + 1, book.sequence + len(bids) + len(asks)
        symbol = pair.instrument.symbol
        events.append(BookDelta(symbol, time_us, first, book.sequence, tuple(bids.items()), tuple(asks.items())))
        bid, ask = book.bids.price(0), book.asks.price(0)
        top = (bid, book.bids.sizes[bid], ask, book.asks.sizes[ask])
        if top != pair.top:
            pair.top = top
            events.append(TickerEvent(symbol, time_us, book.sequence, *top, pair.last, pair.last_size))

    def _take(self, pair: _Pair, time_us: int, bids: dict[int, int], asks: dict[int, int], events: list[Event]) -> None:
        """Let a taker eat from the best levels of the other side."""
        start = pair.instrument.price_ticks
        pull = REVERSION * (start - pair.last) / start
        buys = 0.5 + max(-0.2, min(0.2, pull)) + (MOMENTUM if pair.side == "buy" else -MOMENTUM)
        pair.side = "buy" if self._rng.random() < buys else "sell"
        ladder, changes = (pair.book.asks, asks) if pair.side == "buy" else (pair.book.bids, bids)
        wanted = self._size(pair)
        for _ in range(SWEEP_LEVELS_MAX):
            price = ladder.price(0)
            there = ladder.sizes[price]
            taken = min(wanted, there)
            if taken == there and len(ladder) <= DEPTH_MIN:
                taken = there - 1  # the last levels are never eaten whole
            if taken <= 0:
                taken = 1
                changes[price] = there  # a hidden order was met: the level stays as it is
            else:
                changes[price] = there - taken
            pair.book.change(ladder, ((price, changes[price]),))
            pair.trade_id += 1
            pair.last, pair.last_size = price, taken
            trade = TradeEvent(pair.instrument.symbol, time_us, pair.trade_id, pair.side, price, taken)
            pair.candles.add(trade)
            events.append(trade)
            wanted -= taken
            if wanted <= 0 or changes[price] > 0:
                return

    def _quote(self, pair: _Pair, side: Ladder, other: Ladder, changes: dict[int, int]) -> None:
        """Let a maker improve, add, cancel or resize one level of a side."""
        rng, gap = self._rng, pair.instrument.gap_ticks
        best = side.price(0)
        room = abs(other.price(0) - best) - 1  # ticks strictly between the two sides
        index = min(int(rng.expovariate(1 / NEAR_LEVELS)), len(side) - 1)
        price, size = side.price(index), self._size(pair)
        what = rng.random()
        if room > 0 and what < (0.6 if room > gap else 0.05):
            price = best - side.sign * rng.randint(1, min(room, gap))
        elif len(side) > self.depth:
            price, size = side.price(len(side) - 1), 0
        elif what < 0.7 or len(side) <= DEPTH_MIN:
            price += side.sign * rng.randint(1, 2 * gap)  # away from the other side, maybe onto an existing level
        elif what < 0.85:
            size = 0
        if price < 1:
            price = best
            size = max(1, size)
        changes[price] = size
        pair.book.change(side, ((price, size),))
