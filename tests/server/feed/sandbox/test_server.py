from __future__ import annotations

import asyncio
import itertools
import ssl
import stat
import time
from decimal import Decimal

import aiohttp
import pytest
from cryptofeed.defines import CANDLES, L2_BOOK, TICKER, TRADES

from tickflight_server.errors import ConfigError
from tickflight_server.feed.sandbox.server import PROTOCOLS, SandboxExchange

SYMBOLS = ["BTC-USDT", "ETH-USDT"]
COUNTED = (TRADES, TICKER, CANDLES)


def counters(exchange, name):
    return exchange.counters()["exchanges"][name]


def book_of(exchange, symbol):
    """Return the market's book as the numbers that a handler has it in."""
    i, snapshot = exchange.market.instruments[symbol], exchange.market.snapshot(symbol)
    return tuple(
        {Decimal(i.price(price)): Decimal(i.size(size)) for price, size in side}
        for side in (snapshot.bids, snapshot.asks)
    )


async def all_arrived(exchange, client, name, until):
    """Hold the market and wait until the handler has called back for all that was sent."""
    await exchange.pause()
    sent = counters(exchange, name)["sent"]
    sequences = {s: exchange.market.snapshot(s).sequence for s in SYMBOLS}

    def arrived():
        return all(client.count(c) >= sent[c] for c in COUNTED) and all(
            s in client.feed._l2_book and client.feed._l2_book[s].book.bids.to_dict() == book_of(exchange, s)[0]
            for s in sequences
        )

    await until(arrived, lambda: f"sent {sent}, got { {c: client.count(c) for c in client.got} }")
    return sent


@pytest.mark.parametrize("name", PROTOCOLS)
async def test_unmodified_handler_gets_everything_that_was_sent(name, start_sandbox, until, handler_complaints):
    async with start_sandbox(name) as (exchange, clients):
        client = await clients.connect(exchange.describe()[name], SYMBOLS, checksum_validation=True, cross_check=True)
        await until(
            lambda: all(client.count(c) >= 50 for c in (TRADES, TICKER, L2_BOOK)) and client.count(CANDLES) >= 8,
            lambda: {c: client.count(c) for c in client.got},
        )
        sent = await all_arrived(exchange, client, name, until)
        assert {c: client.count(c) for c in COUNTED} == {c: sent[c] for c in COUNTED}
        for symbol in SYMBOLS:
            book = client.feed._l2_book[symbol].book
            assert (book.bids.to_dict(), book.asks.to_dict()) == book_of(exchange, symbol)
            ids = [int(t.id) for t in client.got[TRADES] if t.symbol == symbol]
            assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert {c.symbol for c in client.got[CANDLES]} == set(SYMBOLS)
        assert {c.interval for c in client.got[CANDLES]} == {"1m"}
        assert counters(exchange, name)["connections"] == 1
        assert handler_complaints() == []


def chain(client, name, symbol):
    """Return (number before, number after) of each book callback's change; a snapshot has None before."""
    for got, _, delta, raw in client.got[L2_BOOK]:
        if got != symbol:
            continue
        if name == "BINANCE":
            yield (None, raw["lastUpdateId"]) if delta is None else (raw["U"] - 1, raw["u"])
        else:
            (data,) = raw["data"]
            yield (None if raw["action"] == "snapshot" else data["prevSeqId"]), data["seqId"]


@pytest.mark.parametrize("name", PROTOCOLS)
async def test_book_callbacks_have_one_snapshot_and_no_gap(name, start_sandbox, until):
    async with start_sandbox(name) as (exchange, clients):
        client = await clients.connect(exchange.describe()[name], SYMBOLS)
        await until(lambda: client.count(L2_BOOK) >= 200, lambda: client.count(L2_BOOK))
        await all_arrived(exchange, client, name, until)
        for symbol in SYMBOLS:
            links = list(chain(client, name, symbol))
            assert [before for before, _ in links].count(None) == 1
            assert links[0][0] is None
            for (_, last), (before, after) in itertools.pairwise(links):
                # A Binance client's first delta may begin inside its snapshot; every other one follows on.
                assert before == last or (last == links[0][1] and before < last < after)
            assert links[-1][1] == exchange.market.snapshot(symbol).sequence


async def test_both_protocols_show_the_same_market(start_sandbox, until):
    async with start_sandbox(*PROTOCOLS) as (exchange, clients):
        seen = {name: await clients.connect(exchange.describe()[name], SYMBOLS) for name in PROTOCOLS}
        both = list(seen.values())
        await until(lambda: min(c.count(TRADES) for c in both) > 100, lambda: [c.count(TRADES) for c in both])
        for name, client in seen.items():
            await all_arrived(exchange, client, name, until)
        trades, tickers, books = [], [], []
        for client in both:
            trades.append({(t.symbol, t.id): (t.price, t.amount, t.side, t.timestamp) for t in client.got[TRADES]})
            tickers.append([(t.symbol, t.bid, t.ask) for t in client.got[TICKER]][-50:])
            books.append({s: (b.book.bids.to_dict(), b.book.asks.to_dict()) for s, b in client.feed._l2_book.items()})
        common = trades[0].keys() & trades[1].keys()
        assert len(common) > 90
        assert all(trades[0][key] == trades[1][key] for key in common)
        assert tickers[0] == tickers[1]
        assert books[0] == books[1]


async def test_closed_candle_comes_at_the_end_of_its_minute(start_sandbox, until):
    # The market's clock begins five seconds before the end of a minute.
    shift_us = 55_000_000 - (time.time_ns() // 1000) % 60_000_000
    async with start_sandbox("BINANCE", clock_us=lambda: time.time_ns() // 1000 + shift_us) as (exchange, clients):
        client = await clients.connect(exchange.describe()["BINANCE"], SYMBOLS, [CANDLES], candle_closed_only=True)
        await until(lambda: client.count(CANDLES) == 2, lambda: client.got)
        assert {c.symbol for c in client.got[CANDLES]} == set(SYMBOLS)
        assert all(c.closed and c.start % 60 == 0 for c in client.got[CANDLES])


async def test_connecting_again_begins_a_new_book_without_a_gap(start_sandbox, until, handler_complaints):
    async with start_sandbox("BINANCE", "OKX") as (exchange, clients):
        for name in PROTOCOLS:
            for _ in range(2):
                client = await clients.connect(exchange.describe()[name], SYMBOLS, [L2_BOOK])
                await until(lambda client=client: client.count(L2_BOOK) > 20, lambda: "a book")
        assert handler_complaints() == []


async def test_resumed_market_goes_on_without_a_gap(start_sandbox, until, handler_complaints):
    async with start_sandbox("BINANCE") as (exchange, clients):
        client = await clients.connect(exchange.describe()["BINANCE"], SYMBOLS)
        await until(lambda: client.count(L2_BOOK) > 20, lambda: client.count(L2_BOOK))
        await exchange.pause()
        count = client.count(L2_BOOK)
        exchange.resume()
        await until(lambda: client.count(L2_BOOK) > count + 20, lambda: client.count(L2_BOOK))
        assert handler_complaints() == []


async def test_slow_subscriber_is_closed_and_counted_and_others_are_not(start_sandbox, until):
    async with start_sandbox("BINANCE", rate=20_000.0, queue_messages_max=3_000) as (exchange, _):
        endpoints = exchange.describe()["BINANCE"]
        context = ssl.create_default_context(cafile=endpoints["ca_file"])
        streams = "/".join(f"{s}@depth@100ms" for s in ("btcusdt", "ethusdt", "solusdt"))
        url = f"{endpoints['websocket']}/stream?streams="
        async with aiohttp.ClientSession() as session:
            slow = await session.ws_connect(url + streams, ssl=context)  # never reads
            quick = await session.ws_connect(url + "adausdt@trade", ssl=context)
            async with asyncio.timeout(60):
                while counters(exchange, "BINANCE")["closed_slow"] == 0:
                    await quick.receive()
            assert not quick.closed
            assert counters(exchange, "BINANCE")["subscribers"] == 1
            await quick.close()
            await slow.close()
        await until(lambda: counters(exchange, "BINANCE")["subscribers"] == 0, lambda: exchange.counters())


async def test_unknown_streams_and_books_are_refused_before_the_upgrade(start_sandbox):
    async with start_sandbox("BINANCE") as (exchange, _):
        endpoints = exchange.describe()["BINANCE"]
        context = ssl.create_default_context(cafile=endpoints["ca_file"])
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(endpoints["websocket"] + "/stream?streams=nono@trade", ssl=context)
            async with session.get(endpoints["rest"] + "/api/v3/depth?symbol=NONO") as response:
                assert response.status == 400
        assert counters(exchange, "BINANCE")["refused"] == 2


async def test_ca_file_is_the_owner_s_alone_and_holds_no_key(start_sandbox, tmp_path):
    async with start_sandbox("OKX"):
        file = tmp_path / "ca.pem"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "PRIVATE" not in file.read_text()


async def test_lagging_market_catches_up_by_bounded_steps(tmp_path):
    now = [0]
    exchange = SandboxExchange(["OKX"], directory=tmp_path, clock_us=lambda: now[0])
    now[0] = 1_000_000
    steps = 1
    while exchange.advance(now[0]):
        steps += 1
    assert steps == 50
    assert exchange.market.now_us == now[0]


@pytest.mark.parametrize(
    "settings",
    [{"protocols": ["NONO"]}, {"protocols": []}, {"rate": 0}, {"depth": 3}, {"symbols": []}, {"symbols": ["BTCUSDT"]}],
)
def test_impossible_settings_are_the_operator_s_error(settings, tmp_path):
    with pytest.raises(ConfigError):
        SandboxExchange(**{"protocols": ["OKX"], "directory": tmp_path, **settings})


async def test_faults_hold_back_what_they_are_told_to_and_nothing_else(start_sandbox, until):
    async with start_sandbox("BINANCE", symbols=SYMBOLS) as (exchange, clients):
        where = exchange.describe()["BINANCE"]
        client = await clients.connect(where, SYMBOLS, [L2_BOOK, TRADES], retries=-1)

        async def fault(what):
            async with aiohttp.ClientSession() as session, session.post(f"{where['rest']}/faults/{what}") as answer:
                return answer.status, await answer.read()

        def snapshots():
            return [symbol for symbol, _, delta, _ in client.got[L2_BOOK] if delta is None]

        def trades(symbol):
            return sum(trade.symbol == symbol for trade in client.got[TRADES])

        await until(lambda: set(snapshots()) == set(SYMBOLS) and all(trades(s) for s in SYMBOLS), snapshots)
        assert (await fault("skip?symbol=BTC-USDT"))[0] == 200
        await until(lambda: snapshots().count("BTC-USDT") == 2, snapshots)
        assert (await fault("silence?symbol=ETH-USDT"))[0] == 200
        await exchange.pause()
        sent = counters(exchange, "BINANCE")["sent"][TRADES]
        await until(lambda: client.count(TRADES) == sent, snapshots)
        exchange.resume()
        before = trades("ETH-USDT"), trades("BTC-USDT")
        await until(lambda: trades("BTC-USDT") > before[1] + 20, snapshots)
        assert trades("ETH-USDT") == before[0]
        await fault("speak?symbol=ETH-USDT")
        await until(lambda: trades("ETH-USDT") > before[0], snapshots)
        assert await fault("drop") == (200, b'{"connections": 1}')
        await until(lambda: counters(exchange, "BINANCE")["connections"] == 2, lambda: exchange.counters())
        assert (await fault("skip"))[0] == (await fault("dance?symbol=X"))[0] == 400
