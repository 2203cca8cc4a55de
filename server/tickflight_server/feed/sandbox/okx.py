"""OKX v5, the public part: instruments, book snapshots and the channels trades, tickers, books and candles.

The rule of this file: every field is one that OKX's own documentation of the v5 API shows; numbers and times travel as
text, times in milliseconds. Source: https://www.okx.com/docs-v5/en/#order-book-trading-market-data.

A client subscribes by message, ``{"op":"subscribe","args":[{"channel":"books","instId":"BTC-USDT"}]}``, and everything
comes in an envelope that repeats the argument. A book begins with a snapshot on the same socket; ``prevSeqId`` chains
the updates, and each carries the checksum over its best 25 levels that older clients verify. Daily candles begin at
midnight UTC here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import assert_never

from tickflight_server.feed.sandbox.book import Book
from tickflight_server.feed.sandbox.events import (
    INTERVALS_US,
    BookDelta,
    CandleEvent,
    Channel,
    Event,
    Instrument,
    Level,
    TickerEvent,
    TradeEvent,
)
from tickflight_server.feed.sandbox.protocol import Answer, MarketView, RestRoute, SubscriptionError, Topic, json_text

CHECKSUM_LEVELS = 25
DEPTH_MAX = 400
ARGS_MAX = 4_096

_UPPER = ("h", "d", "w")  # OKX writes minutes small and the longer units large
CHANNELS = {
    "trades": (Channel.TRADES, ""),
    "tickers": (Channel.TICKER, ""),
    "books": (Channel.L2_BOOK, ""),
} | {f"candle{i.upper() if i.endswith(_UPPER) else i}": (Channel.CANDLES, i) for i in INTERVALS_US if i != "8h"}
"""Channel and interval by the name of the channel. OKX has no candles of eight hours."""


class Okx:
    """OKX's formats over a market."""

    name = "OKX"
    websocket_base = "/ws/v5/public"
    websocket_paths = ("/ws/v5/public", "/ws/v5/business")

    def __init__(self, market: MarketView) -> None:
        self._market = market
        self._instruments = dict(market.instruments)
        # The books of the topics that have subscribers: a checksum is over the book as it is after its update.
        self._books: dict[str, Book] = {}

    def rest_routes(self) -> Mapping[str, RestRoute]:
        """Return the REST calls by path."""
        return {
            "/api/v5/public/instruments": RestRoute("symbols", self._public_instruments),
            "/api/v5/public/underlying": RestRoute("underlyings", lambda query: _rest([[]])),
            "/api/v5/market/books": RestRoute("snapshots", self._market_books),
        }

    def connected(self, query: Mapping[str, str]) -> Answer:
        """Return nothing: clients subscribe by message."""
        return Answer()

    def received(self, text: str) -> Answer:
        """Answer ``ping`` and subscriptions."""
        if text == "ping":
            return Answer(texts=("pong",))
        try:
            message = json.loads(text)
            args = message["args"]
            if message["op"] != "subscribe" or not isinstance(args, list) or len(args) > ARGS_MAX:
                return _error("60012", f"Invalid request: {text[:200]}")
            topics = tuple(self._topic(arg) for arg in args)
        except SubscriptionError as error:
            return _error("60018", error.message)
        except (ValueError, KeyError, TypeError, AttributeError):
            return _error("60012", f"Invalid request: {text[:200]}")
        texts = tuple(json_text({"event": "subscribe", "arg": arg, "connId": "sandbox"}) for arg in args)
        return Answer(texts, topics)

    def opening(self, topic: Topic) -> str | None:
        """Return a book's snapshot."""
        if topic.channel is not Channel.L2_BOOK:
            return None
        snapshot = self._market.snapshot(topic.symbol)
        book = self._books[topic.symbol] = Book.of(snapshot)
        return self._book(topic, "snapshot", snapshot.bids, snapshot.asks, snapshot.time_us, -1, book)

    def render(self, topic: Topic, event: Event) -> str:
        """Return the envelope of the topic's argument around the event."""
        instrument = self._instruments[event.symbol]
        match event:
            case TradeEvent():
                data = _trade(event, instrument)
            case TickerEvent():
                data = _ticker(event, instrument)
            case BookDelta():
                book = self._books[event.symbol]
                before = book.sequence
                book.apply(event)
                return self._book(topic, "update", event.bids, event.asks, event.time_us, before, book)
            case CandleEvent():
                data = _candle(event, instrument)
            case _:
                assert_never(event)
        return f'{{"arg":{{"channel":"{topic.label}","instId":"{event.symbol}"}},"data":[{data}]}}'

    def _topic(self, arg: Mapping[str, str]) -> Topic:
        symbol, label = arg["instId"], arg["channel"]
        if symbol not in self._instruments or label not in CHANNELS:
            raise SubscriptionError(f"Wrong URL or channel:{label},instId:{symbol} doesn't exist.")
        channel, interval = CHANNELS[label]
        return Topic(channel, symbol, interval, label)

    def _book(
        self,
        topic: Topic,
        action: str,
        bids: tuple[Level, ...],
        asks: tuple[Level, ...],
        time_us: int,
        before: int,
        book: Book,
    ) -> str:
        instrument = self._instruments[topic.symbol]
        return (
            f'{{"arg":{{"channel":"{topic.label}","instId":"{topic.symbol}"}},"action":"{action}","data":[{{'
            f'"asks":{_levels(instrument, asks)},"bids":{_levels(instrument, bids)},"ts":"{time_us // 1000}",'
            f'"checksum":{checksum(instrument, book)},"prevSeqId":{before},"seqId":{book.sequence}}}]}}'
        )

    def _public_instruments(self, query: Mapping[str, str]) -> str:
        if query.get("instType") != "SPOT":
            return _rest([])
        return _rest(
            [
                {
                    "instType": "SPOT",
                    "instId": symbol,
                    "baseCcy": i.base,
                    "quoteCcy": i.quote,
                    "tickSz": i.price(1),
                    "lotSz": i.size(1),
                    "minSz": i.size(1),
                    "state": "live",
                }
                for symbol, i in self._instruments.items()
            ]
        )

    def _market_books(self, query: Mapping[str, str]) -> str:
        symbol, depth = query.get("instId", ""), query.get("sz", "1")
        if symbol not in self._instruments or not depth.isdecimal() or not 1 <= int(depth) <= DEPTH_MAX:
            raise SubscriptionError(f"OKX: no book of {symbol!r} with {depth!r} levels")
        snapshot = self._market.snapshot(symbol, int(depth))
        instrument = self._instruments[symbol]
        asks, bids = _levels(instrument, snapshot.asks), _levels(instrument, snapshot.bids)
        return (
            f'{{"code":"0","msg":"","data":[{{"asks":{asks},"bids":{bids},"ts":"{snapshot.time_us // 1000}",'
            f'"seqId":{snapshot.sequence}}}]}}'
        )


def checksum(instrument: Instrument, book: Book) -> int:
    """Return the signed CRC-32 of ``bid:size:ask:size:…`` over the best 25 levels, as OKX defines it."""
    sides = (
        [f"{instrument.price(price)}:{instrument.size(size)}" for price, size in side.top(CHECKSUM_LEVELS)]
        for side in (book.bids, book.asks)
    )
    text = ":".join(part for part in chain.from_iterable(zip_longest(*sides)) if part is not None)
    crc = zlib.crc32(text.encode())
    return crc - (1 << 32) if crc >= 1 << 31 else crc


def _rest(data: list[object]) -> str:
    return json_text({"code": "0", "msg": "", "data": data})


def _error(code: str, text: str) -> Answer:
    return Answer(texts=(json_text({"event": "error", "code": code, "msg": text, "connId": "sandbox"}),))


def _levels(instrument: Instrument, levels: tuple[Level, ...]) -> str:
    price, size = instrument.price, instrument.size
    # The third field is deprecated and always 0; the fourth is the number of orders, here one per level.
    return "[" + ",".join(f'["{price(p)}","{size(s)}","0","{int(s > 0)}"]' for p, s in levels) + "]"


def _trade(event: TradeEvent, instrument: Instrument) -> str:
    return (
        f'{{"instId":"{event.symbol}","tradeId":"{event.trade_id}","px":"{instrument.price(event.price)}",'
        f'"sz":"{instrument.size(event.size)}","side":"{event.side}","ts":"{event.time_us // 1000}","count":"1"}}'
    )


def _ticker(event: TickerEvent, instrument: Instrument) -> str:
    price, size = instrument.price, instrument.size
    return (
        f'{{"instType":"SPOT","instId":"{event.symbol}","last":"{price(event.last)}",'
        f'"lastSz":"{size(event.last_size)}","askPx":"{price(event.ask)}","askSz":"{size(event.ask_size)}",'
        f'"bidPx":"{price(event.bid)}","bidSz":"{size(event.bid_size)}","ts":"{event.time_us // 1000}"}}'
    )


def _candle(event: CandleEvent, instrument: Instrument) -> str:
    price, value = instrument.price, instrument.value(event.turnover)
    return (
        f'["{event.start_us // 1000}","{price(event.open)}","{price(event.high)}","{price(event.low)}",'
        f'"{price(event.close)}","{instrument.size(event.volume)}","{value}","{value}","{int(event.closed)}"]'
    )
