"""BINANCE spot, the public part: exchangeInfo, depth snapshots and the combined streams.

The rule of this file: every field is one that Binance's own documentation of the spot streams shows, in its order and
with its eight decimals; numbers of eight decimals travel as text. Source:
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams and .../rest-api.

A client subscribes by the address, ``/stream?streams=btcusdt@aggTrade/btcusdt@depth@100ms``. Book deltas come as they
happen, whatever the asked interval is; the label keeps what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

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

PLACES = 8
DEPTH_LIMIT_DEFAULT = 100
DEPTH_LIMIT_MAX = 5_000
STREAMS_MAX = 1_024

STREAMS = {
    "aggTrade": Channel.TRADES,
    "trade": Channel.TRADES,
    "bookTicker": Channel.TICKER,
    "depth": Channel.L2_BOOK,
    "depth@100ms": Channel.L2_BOOK,
    "depth@1000ms": Channel.L2_BOOK,
} | {f"kline_{interval}": Channel.CANDLES for interval in INTERVALS_US}
"""What may follow the symbol in the name of a stream."""


class Binance:
    """Binance's formats over a market."""

    name = "BINANCE"
    websocket_base = ""
    websocket_paths = ("/stream",)

    def __init__(self, market: MarketView) -> None:
        self._market = market
        self._instruments = dict(market.instruments)
        self._codes = {symbol: symbol.replace("-", "") for symbol in self._instruments}
        self._symbols = {code: symbol for symbol, code in self._codes.items()}

    def rest_routes(self) -> Mapping[str, RestRoute]:
        """Return the REST calls by path."""
        return {
            "/api/v3/exchangeInfo": RestRoute("symbols", self._exchange_info),
            "/api/v3/depth": RestRoute("snapshots", self._depth),
        }

    def connected(self, query: Mapping[str, str]) -> Answer:
        """Return the topics of ``streams=a/b/c``."""
        labels = [label for label in query.get("streams", "").split("/") if label]
        if not labels or len(labels) > STREAMS_MAX:
            raise SubscriptionError(f"BINANCE: between 1 and {STREAMS_MAX} streams, not {len(labels)}")
        return Answer(topics=tuple(self._topic(label) for label in labels))

    def received(self, text: str) -> Answer:
        """Return Binance's error: subscriptions are in the address here."""
        error = {"error": {"code": 2, "msg": "Invalid request: subscribe in the address"}, "id": None}
        return Answer(texts=(json_text(error),))

    def opening(self, topic: Topic) -> str | None:
        """Return None: a client fetches the book's snapshot by REST."""
        return None

    def render(self, topic: Topic, event: Event) -> str:
        """Return the combined stream's envelope around the event."""
        instrument = self._instruments[event.symbol]
        code = self._codes[event.symbol]
        match event:
            case TradeEvent():
                data = _trade(event, instrument, code, raw=topic.label.endswith("@trade"))
            case TickerEvent():
                data = _book_ticker(event, instrument, code)
            case BookDelta():
                data = (
                    f'{{"e":"depthUpdate","E":{event.time_us // 1000},"s":"{code}","U":{event.first},"u":{event.last},'
                    f'"b":{_levels(instrument, event.bids)},"a":{_levels(instrument, event.asks)}}}'
                )
            case CandleEvent():
                data = _kline(event, instrument, code)
            case _:
                assert_never(event)
        return f'{{"stream":"{topic.label}","data":{data}}}'

    def _topic(self, label: str) -> Topic:
        code, _, stream = label.partition("@")
        symbol = self._symbols.get(code.upper())
        channel = STREAMS.get(stream)
        if symbol is None or channel is None or code != code.lower():
            raise SubscriptionError(f"BINANCE: no stream {label!r}")
        interval = stream.removeprefix("kline_") if channel is Channel.CANDLES else ""
        return Topic(channel, symbol, interval, label)

    def _exchange_info(self, query: Mapping[str, str]) -> str:
        symbols = [
            {
                "symbol": self._codes[symbol],
                "status": "TRADING",
                "baseAsset": i.base,
                "baseAssetPrecision": PLACES,
                "quoteAsset": i.quote,
                "quotePrecision": PLACES,
                "orderTypes": ["LIMIT", "MARKET"],
                "isSpotTradingAllowed": True,
                "filters": [
                    {"filterType": "PRICE_FILTER", "minPrice": i.price(1, PLACES), "tickSize": i.price(1, PLACES)},
                    {"filterType": "LOT_SIZE", "minQty": i.size(1, PLACES), "stepSize": i.size(1, PLACES)},
                ],
                "permissions": ["SPOT"],
            }
            for symbol, i in self._instruments.items()
        ]
        return json_text({"timezone": "UTC", "rateLimits": [], "exchangeFilters": [], "symbols": symbols})

    def _depth(self, query: Mapping[str, str]) -> str:
        symbol = self._symbols.get(query.get("symbol", ""))
        limit = query.get("limit", str(DEPTH_LIMIT_DEFAULT))
        if symbol is None or not limit.isdecimal() or not 1 <= int(limit) <= DEPTH_LIMIT_MAX:
            raise SubscriptionError(f"BINANCE: no book of {query.get('symbol')!r} with limit {limit!r}")
        snapshot = self._market.snapshot(symbol, int(limit))
        instrument = self._instruments[symbol]
        return (
            f'{{"lastUpdateId":{snapshot.sequence},"bids":{_levels(instrument, snapshot.bids)},'
            f'"asks":{_levels(instrument, snapshot.asks)}}}'
        )


def _levels(instrument: Instrument, levels: tuple[Level, ...]) -> str:
    price, size = instrument.price, instrument.size
    return "[" + ",".join(f'["{price(p, PLACES)}","{size(s, PLACES)}"]' for p, s in levels) + "]"


def _trade(event: TradeEvent, instrument: Instrument, code: str, *, raw: bool) -> str:
    time_ms = event.time_us // 1000
    if raw:
        head = f'"e":"trade","E":{time_ms},"s":"{code}","t":{event.trade_id}'
        ids = ""
    else:  # an aggregate of one trade
        head = f'"e":"aggTrade","E":{time_ms},"s":"{code}","a":{event.trade_id}'
        ids = f'"f":{event.trade_id},"l":{event.trade_id},'
    maker = "true" if event.side == "sell" else "false"  # m: the buyer is the maker
    return (
        f'{{{head},"p":"{instrument.price(event.price, PLACES)}","q":"{instrument.size(event.size, PLACES)}",'
        f'{ids}"T":{time_ms},"m":{maker},"M":true}}'
    )


def _book_ticker(event: TickerEvent, instrument: Instrument, code: str) -> str:
    price, size = instrument.price, instrument.size
    return (
        f'{{"u":{event.sequence},"s":"{code}","b":"{price(event.bid, PLACES)}","B":"{size(event.bid_size, PLACES)}",'
        f'"a":"{price(event.ask, PLACES)}","A":"{size(event.ask_size, PLACES)}"}}'
    )


def _kline(event: CandleEvent, instrument: Instrument, code: str) -> str:
    price, size, value = instrument.price, instrument.size, instrument.value
    return (
        f'{{"e":"kline","E":{event.time_us // 1000},"s":"{code}","k":{{"t":{event.start_us // 1000},'
        f'"T":{event.stop_us // 1000 - 1},"s":"{code}","i":"{event.interval}","f":{event.first_trade_id},'
        f'"L":{event.last_trade_id},"o":"{price(event.open, PLACES)}","c":"{price(event.close, PLACES)}",'
        f'"h":"{price(event.high, PLACES)}","l":"{price(event.low, PLACES)}","v":"{size(event.volume, PLACES)}",'
        f'"n":{event.trades},"x":{"true" if event.closed else "false"},"q":"{value(event.turnover, PLACES)}",'
        f'"V":"{size(event.buy_volume, PLACES)}","Q":"{value(event.buy_turnover, PLACES)}","B":"0"}}}}'
    )
