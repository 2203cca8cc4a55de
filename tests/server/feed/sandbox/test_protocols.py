from __future__ import annotations

import ast
import json
import zlib
from decimal import Decimal
from pathlib import Path

import pytest

from tickflight_server.feed import sandbox
from tickflight_server.feed.sandbox.binance import Binance
from tickflight_server.feed.sandbox.events import SECOND_US, BookDelta, CandleEvent, TickerEvent, TradeEvent
from tickflight_server.feed.sandbox.market import Market
from tickflight_server.feed.sandbox.okx import Okx
from tickflight_server.feed.sandbox.protocol import SubscriptionError, event_key

START_US = 1_790_000_000 * SECOND_US


@pytest.fixture
def market():
    return Market(7, ["BTC-USDT", "DOGE-USDT"], rate=2_000.0, start_us=START_US)


def binance_topic(protocol, label):
    (topic,) = protocol.connected({"streams": label}).topics
    return topic


def okx_topic(protocol, channel, symbol="BTC-USDT"):
    answer = protocol.received(json.dumps({"op": "subscribe", "args": [{"channel": channel, "instId": symbol}]}))
    (topic,) = answer.topics
    return topic


def first(events, kind, **wanted):
    return next(e for e in events if isinstance(e, kind) and all(getattr(e, k) == v for k, v in wanted.items()))


def numbers(levels):
    return {Decimal(level[0]): Decimal(level[1]) for level in levels}


def apply(side, levels):
    for price, size in numbers(levels).items():
        if size == 0:
            side.pop(price, None)
        else:
            side[price] = size


def test_binance_messages_have_the_documented_fields(market):
    protocol = Binance(market)
    events = market.step(START_US + 2 * SECOND_US)
    cases = {
        "btcusdt@aggTrade": (TradeEvent, {"e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"}),
        "btcusdt@trade": (TradeEvent, {"e", "E", "s", "t", "p", "q", "T", "m", "M"}),
        "btcusdt@bookTicker": (TickerEvent, {"u", "s", "b", "B", "a", "A"}),
        "btcusdt@depth@100ms": (BookDelta, {"e", "E", "s", "U", "u", "b", "a"}),
        "btcusdt@kline_1m": (CandleEvent, {"e", "E", "s", "k"}),
    }
    for label, (kind, fields) in cases.items():
        topic = binance_topic(protocol, label)
        event = first(events, kind, symbol="BTC-USDT")
        message = json.loads(protocol.render(topic, event))
        assert message["stream"] == label
        assert set(message["data"]) == fields
        assert message["data"]["s"] == "BTCUSDT"


def test_binance_numbers_are_the_market_s_with_eight_decimals(market):
    protocol = Binance(market)
    trade = first(market.step(START_US + SECOND_US), TradeEvent, symbol="DOGE-USDT")
    data = json.loads(protocol.render(binance_topic(protocol, "dogeusdt@aggTrade"), trade))["data"]
    assert Decimal(data["p"]) == Decimal(trade.price).scaleb(-5)
    assert Decimal(data["q"]) == trade.size
    assert len(data["p"].split(".")[1]) == len(data["q"].split(".")[1]) == 8
    assert data["m"] == (trade.side == "sell")
    assert data["T"] == trade.time_us // 1000


def test_binance_rendered_deltas_applied_to_the_rest_snapshot_give_the_market_s_book(market):
    protocol = Binance(market)
    topic = binance_topic(protocol, "btcusdt@depth@100ms")
    depth = protocol.rest_routes()["/api/v3/depth"].answer
    market.step(START_US + SECOND_US)
    snapshot = json.loads(depth({"symbol": "BTCUSDT", "limit": "1000"}))
    bids, asks, last = numbers(snapshot["bids"]), numbers(snapshot["asks"]), snapshot["lastUpdateId"]
    for event in market.step(START_US + 5 * SECOND_US):
        if event_key(event) == topic.key:
            data = json.loads(protocol.render(topic, event))["data"]
            assert data["U"] == last + 1
            last = data["u"]
            apply(bids, data["b"])
            apply(asks, data["a"])
    now = json.loads(depth({"symbol": "BTCUSDT", "limit": "1000"}))
    assert (last, bids, asks) == (now["lastUpdateId"], numbers(now["bids"]), numbers(now["asks"]))


def test_okx_rendered_updates_applied_to_the_opening_give_the_market_s_book_and_its_checksum(market):
    protocol = Okx(market)
    market.step(START_US + SECOND_US)
    topic = okx_topic(protocol, "books")
    opening = json.loads(protocol.opening(topic))
    assert opening["action"] == "snapshot"
    sides, last = {s: numbers(opening["data"][0][s]) for s in ("bids", "asks")}, opening["data"][0]["seqId"]
    texts = {s: {Decimal(row[0]): ":".join(row[:2]) for row in opening["data"][0][s]} for s in ("bids", "asks")}
    for event in market.step(START_US + 5 * SECOND_US):
        if event_key(event) != topic.key:
            continue
        (data,) = json.loads(protocol.render(topic, event))["data"]
        assert data["prevSeqId"] == last
        last = data["seqId"]
        for side in ("bids", "asks"):
            apply(sides[side], data[side])
            texts[side].update({Decimal(row[0]): ":".join(row[:2]) for row in data[side]})
        best = zip(sorted(sides["bids"], reverse=True)[:25], sorted(sides["asks"])[:25], strict=True)
        text = ":".join(f"{texts['bids'][bid]}:{texts['asks'][ask]}" for bid, ask in best)
        assert data["checksum"] & 0xFFFFFFFF == zlib.crc32(text.encode())
    now = json.loads(protocol.opening(topic))["data"][0]
    assert (last, sides) == (now["seqId"], {s: numbers(now[s]) for s in ("bids", "asks")})


def test_okx_messages_repeat_the_argument(market):
    protocol = Okx(market)
    events = market.step(START_US + 2 * SECOND_US)
    for channel, kind in {"trades": TradeEvent, "tickers": TickerEvent, "candle1m": CandleEvent}.items():
        topic = okx_topic(protocol, channel)
        message = json.loads(protocol.render(topic, first(events, kind, symbol="BTC-USDT")))
        assert message["arg"] == {"channel": channel, "instId": "BTC-USDT"}
        assert len(message["data"]) == 1


def test_both_protocols_offer_the_intervals_that_the_handlers_know(market):
    from cryptofeed.exchanges import EXCHANGE_MAP

    for interval in EXCHANGE_MAP["BINANCE"].valid_candle_intervals - {"1M"}:
        assert binance_topic(Binance(market), f"btcusdt@kline_{interval}").interval == interval
    for interval in EXCHANGE_MAP["OKX"].valid_candle_intervals - {"1M"}:
        assert okx_topic(Okx(market), f"candle{interval}").interval == interval.lower()


@pytest.mark.parametrize("streams", ["", "nono@trade", "btcusdt@nono", "BTCUSDT@trade", "btcusdt@kline_1M", "btcusdt"])
def test_binance_refuses_streams_that_it_does_not_have(market, streams):
    with pytest.raises(SubscriptionError):
        Binance(market).connected({"streams": streams})


@pytest.mark.parametrize(
    "query", [{}, {"symbol": "NONO"}, {"symbol": "BTCUSDT", "limit": "-1"}, {"symbol": "BTCUSDT", "limit": "9999"}]
)
def test_binance_refuses_books_that_it_does_not_have(market, query):
    with pytest.raises(SubscriptionError):
        Binance(market).rest_routes()["/api/v3/depth"].answer(query)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        '{"op":"subscribe"}',
        '{"op":"subscribe","args":[1]}',
        '{"op":"unsubscribe","args":[]}',
        '{"op":"subscribe","args":[{"channel":"nono","instId":"BTC-USDT"}]}',
        '{"op":"subscribe","args":[{"channel":["trades"],"instId":"BTC-USDT"}]}',
    ],
)
def test_okx_answers_nonsense_with_its_error(market, text):
    answer = Okx(market).received(text)
    assert answer.topics == ()
    assert [json.loads(t)["event"] for t in answer.texts] == ["error"]


def test_okx_answers_ping_with_pong(market):
    assert Okx(market).received("ping").texts == ("pong",)


def test_sandbox_does_not_know_cryptofeed():
    folder = Path(sandbox.__file__).parent
    nodes = [n for f in folder.glob("*.py") for n in ast.walk(ast.parse(f.read_text()))]
    imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}
    assert not [name for name in imported if name.split(".")[0] in ("cryptofeed", "order_book")]


def test_market_does_not_know_formats_and_formats_do_no_io():
    folder = Path(sandbox.__file__).parent
    forbidden = {
        "market.py": {"json", "asyncio", "time", "aiohttp"},
        "book.py": {"json", "asyncio", "time", "aiohttp"},
        "candles.py": {"json", "asyncio", "time", "aiohttp"},
        "events.py": {"json", "asyncio", "time", "aiohttp"},
        "protocol.py": {"asyncio", "time", "aiohttp"},
        "binance.py": {"asyncio", "time", "aiohttp", "random"},
        "okx.py": {"asyncio", "time", "aiohttp", "random"},
    }
    for name, modules in forbidden.items():
        nodes = list(ast.walk(ast.parse((folder / name).read_text())))
        imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        imported |= {str(n.module).split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)}
        assert not imported & modules, name
