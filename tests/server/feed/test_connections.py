"""Connections of the installed cryptofeed, as a user's own script runs them: opened, lost, opened again."""

from __future__ import annotations

import asyncio
import functools
from types import SimpleNamespace
from typing import Any

import pytest

from tickflight_server.config import Endpoints, FeedSettings
from tickflight_server.feed import compat, connections
from tickflight_server.feed.backends import BookTickflight, TickerTickflight, TradeTickflight
from tickflight_server.feed.gaps import Carried
from tickflight_server.feed.handlers import build_handler
from tickflight_server.feed.sandbox.server import SandboxExchange

SYMBOLS = ["BTC-USDT", "ETH-USDT"]


class Loop:
    """Stands for cryptofeed's connection handler: the two calls that are watched."""

    def __init__(self, subscribe: Any, handler: Any, conn: Any) -> None:
        self.subscribe, self.handler, self.conn = subscribe, handler, conn
        self.running = True
        self.timeout = 120
        self.ends: list[Exception | None] = []

    async def _handler(self, connection: Any, handler: Any) -> None:
        if (end := self.ends.pop(0)) is not None:
            raise end

    async def connect(self) -> None:
        await self.subscribe(self.conn)
        await self._handler(self.conn, self.handler)


class Listening:
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def connection_opened(self, what: Carried, at: float) -> None:
        self.told.append(("open", what))

    def connection_lost(self, what: Carried, at: float, why: str) -> None:
        self.told.append(("lost", what, why))


class Feed:
    id = "X"

    def __init__(self, **callbacks: Any) -> None:
        self.callbacks = {channel: [callback] for channel, callback in callbacks.items()}
        self.connection_handlers: list[Any] = [None]

    def std_channel_to_exchange(self, channel: str) -> str:
        if channel == "funding":
            raise ValueError(channel)
        return f"own_{channel}"

    def exchange_symbol_to_std_symbol(self, symbol: str) -> str:
        return f"{symbol[:3]}-{symbol[3:]}"

    async def message_handler(self, *_: Any) -> None:
        pass


def make(feed: Feed, subscribe: Any = None, **conn: Any) -> Loop:
    class Watched(Loop):
        _handler = Loop._handler

    connections.install(Watched)
    connections.install(Watched)

    async def fine(_: Any) -> None:
        pass

    made = SimpleNamespace(**({"id": "X.ws.1", "subscription": None, "last_message": None, "conn": None} | conn))
    return Watched(subscribe or fine, functools.partial(feed.message_handler, 1), made)


async def test_backend_hears_of_each_opening_and_loss_with_its_reason() -> None:
    listening = Listening()
    loop = make(Feed(trades=SimpleNamespace(handler=listening), ticker=print), last_message=1.0)
    error = ValueError("two\nlines")
    loop.ends = [error, None]
    with pytest.raises(ValueError, match="two"):
        await loop.connect()
    await loop.connect()
    what = Carried("X.ws.1", "trades", "X", None)
    assert listening.told == [
        ("open", what),
        ("lost", what, "ValueError: two lines"),
        ("open", what),
        ("lost", what, "closed by the feed: no message for 120 s"),
    ]


async def test_subscription_that_fails_is_a_loss_of_its_own() -> None:
    listening, failing = Listening(), [False, True, False]

    async def subscribe(_: Any) -> None:
        if failing.pop(0):
            raise ConnectionResetError("gone")

    loop = make(Feed(trades=listening), subscribe, conn=SimpleNamespace(close_code=1012))
    loop.ends = [None, None]
    await loop.connect()
    with pytest.raises(ConnectionResetError):
        await loop.connect()
    loop.running = False
    await loop.connect()
    assert [each[0] for each in listening.told] == ["open", "lost", "open", "lost", "open"], "a stop is no loss"
    assert listening.told[1][2] == "closed with code 1012"
    assert listening.told[3][2] == "ConnectionResetError: gone"


async def test_what_a_connection_carries_is_what_it_subscribes_to() -> None:
    heard = {name: Listening() for name in ("trades", "ticker", "funding", "candles")}
    feed = Feed(**heard)
    loop = make(
        feed,
        subscription={"own_trades": ["BTCUSD", "ETHUSD"], "own_candles": ["ETHUSD"]},
        address="wss://x/stream?streams=btcusd@own_trades/ethusd@own_ticker",
    )
    loop.ends = [None]
    await loop.connect()
    assert heard["trades"].told[0] == ("open", Carried("X.ws.1", "trades", "X", frozenset({"BTC-USD"})))
    assert not heard["ticker"].told
    assert not heard["funding"].told
    assert not heard["candles"].told


async def test_poll_besides_other_connections_concerns_nobody() -> None:
    listening = Listening()
    feed = Feed(trades=listening)
    feed.connection_handlers = [None, None]
    loop = make(feed)
    loop.ends = [None]
    await loop.connect()
    assert listening.told == []


async def test_fault_of_a_listener_leaves_the_connection_alone() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    loop = make(Feed(trades=SimpleNamespace(connection_opened=fail, connection_lost=fail)))
    loop.ends = [None, None]
    await loop.connect()
    await loop.connect()


@pytest.fixture
async def exchange(tmp_path: Any) -> Any:
    sandbox = SandboxExchange(["BINANCE", "OKX"], directory=tmp_path, seed=7, rate=400.0, symbols=SYMBOLS)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


class Script:
    """A feed of a user's own script, with a backend a channel that writes into ``sink``."""

    def __init__(self, exchange: Any, sink: Any, name: str) -> None:
        self.exchange, self.sink, self.name = exchange, sink, name
        self.callbacks = {
            "trades": TradeTickflight(embedded=sink),
            "ticker": TickerTickflight(embedded=sink),
            "l2_book": BookTickflight(embedded=sink),
        }
        self.streams = {(channel, symbol) for channel in self.callbacks for symbol in SYMBOLS}
        self.stop = asyncio.Event()

    async def start(self) -> None:
        where = {k: v for k, v in self.exchange.describe()[self.name].items() if k != "exchange"}
        settings = FeedSettings(
            exchange=self.name,
            symbols=SYMBOLS,
            channels=list(self.callbacks),
            endpoints=Endpoints.model_validate(where),
        )
        feed = await asyncio.to_thread(build_handler, settings, self.callbacks)
        feed.checksum_validation = True  # OKX of 2.4.1 has nothing else to see a missing delta by
        self.running = asyncio.create_task(compat.run_until([feed], self.stop))
        await self.until(lambda: self.seen() == self.streams)

    def seen(self) -> set[tuple[str, str]]:
        """Return what has come; of books, deltas: a snapshot after a snapshot tells nothing."""
        rows = [(channel, row) for channel in self.callbacks for row in self.sink.rows(channel)]
        return {(channel, row["symbol"]) for channel, row in rows if not row.get("is_snapshot")}

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(60):
            while not condition():
                assert not self.running.done()
                await asyncio.sleep(0.02)

    async def end(self) -> list[dict[str, Any]]:
        """Stop, check what every hole claims, and return the holes."""
        self.stop.set()
        assert await self.running == []
        for gap in self.sink.rows("gaps"):
            times = [r["receipt_timestamp"] for r in self.sink.rows(gap["channel"]) if r["symbol"] == gap["symbol"]]
            assert gap["start"] in times
            assert gap["end"] in times
            assert not [time for time in times if gap["start"] < time < gap["end"]]
        return self.sink.rows("gaps")  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["BINANCE", "OKX"])
async def test_script_of_its_own_gets_the_holes_of_a_reconnect(exchange: Any, sink: Any, name: str) -> None:
    script = Script(exchange, sink, name)
    await script.start()
    assert exchange.drop_connections() == 1
    await script.until(lambda: len(sink.rows("gaps")) >= len(script.streams))
    gaps = await script.end()
    assert {(gap["channel"], gap["symbol"]) for gap in gaps} == script.streams
    assert {(gap["exchange"], gap["cause"]) for gap in gaps} == {(name, "reconnect")}


async def test_missing_delta_that_the_handler_mends_by_a_snapshot_is_a_hole_of_the_book(
    exchange: Any, sink: Any
) -> None:
    script = Script(exchange, sink, "BINANCE")
    await script.start()
    exchange.faults.skip("BTC-USDT")
    await script.until(lambda: any(gap["symbol"] == "BTC-USDT" for gap in sink.rows("gaps")))
    gaps = await script.end()
    assert {(gap["channel"], gap["cause"]) for gap in gaps} == {("l2_book", "sequence")}
    assert all(gap["expected"] <= gap["received"] for gap in gaps)


async def test_exception_of_the_handler_is_the_detail_of_the_reconnect(exchange: Any, sink: Any) -> None:
    script = Script(exchange, sink, "OKX")
    await script.start()
    exchange.faults.skip("BTC-USDT")
    await script.until(lambda: len(sink.rows("gaps")) >= len(script.streams))
    gaps = await script.end()
    assert {gap["cause"] for gap in gaps} == {"reconnect"}
    assert {(gap["channel"], gap["symbol"]) for gap in gaps} == script.streams
    reason = "MissingSequenceNumber" if compat.MAJOR >= 3 else "BadChecksum"
    assert all(gap["detail"].startswith(reason) for gap in gaps)
