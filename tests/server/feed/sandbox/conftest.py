"""cryptofeed's own handlers as clients of the sandbox, whichever version is installed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import ssl
import time
from collections import defaultdict

import pytest
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import EXCHANGE_MAP
from cryptofeed.symbols import Symbols

from tickflight_server.feed.sandbox.server import SandboxExchange

CHANNELS = [TRADES, TICKER, L2_BOOK, CANDLES]
DEADLINE_S = 30.0


def override(endpoints):
    """Return the exchange's unmodified handler with nothing but its endpoints replaced."""
    handler = EXCHANGE_MAP[endpoints["exchange"]]
    context = ssl.create_default_context(cafile=endpoints["ca_file"])
    return type(
        handler.__name__,
        (handler,),
        {
            "websocket_endpoints": [WebsocketEndpoint(endpoints["websocket"], options={"ssl": context})],
            "rest_endpoints": [dataclasses.replace(e, address=endpoints["rest"]) for e in handler.rest_endpoints],
        },
    )


class Client:
    """A running handler and what its callbacks got, by channel."""

    def __init__(self):
        self.got = defaultdict(list)
        self.books = {}
        self.feed = None

    def callbacks(self, channels):
        return {channel: self._callback(channel) for channel in channels}

    def count(self, channel):
        return len(self.got[channel])

    def _callback(self, channel):
        async def keep(event, receipt_timestamp):
            if channel == L2_BOOK:
                self.books[event.symbol] = event
                event = (event.symbol, event.sequence_number, event.delta, event.raw)
            self.got[channel].append(event)

        return keep


class Clients:
    def __init__(self):
        self._stack = contextlib.AsyncExitStack()

    async def connect(self, endpoints, symbols, channels=CHANNELS, **settings):
        return await self._stack.enter_async_context(running(endpoints, symbols, channels, settings))

    async def close(self):
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def running(endpoints, symbols, channels, settings):
    client = Client()
    arguments = {
        "symbols": symbols,
        "channels": channels,
        "callbacks": client.callbacks(channels),
        "candle_closed_only": False,
        "timeout": -1,
        "retries": 0,
        **settings,
    }
    # 2.4.1 reads the symbols with a blocking call as soon as the handler is made.
    client.feed = await asyncio.to_thread(lambda: override(endpoints)(**arguments))
    if hasattr(client.feed, "run"):  # cryptofeed 3
        stop = asyncio.Event()
        task = asyncio.create_task(client.feed.run(stop))
        try:
            yield client
        finally:
            stop.set()
            await asyncio.wait_for(task, DEADLINE_S)
    else:
        before = asyncio.all_tasks()
        client.feed.start(asyncio.get_running_loop())
        try:
            yield client
        finally:
            tasks = asyncio.all_tasks() - before
            client.feed.stop()
            await client.feed.shutdown()
            own = [t for t in tasks if "_create_connection" in repr(t.get_coro())]
            await asyncio.wait_for(asyncio.gather(*own), DEADLINE_S)


async def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what()}"
        await asyncio.sleep(0.01)


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def start_sandbox(tmp_path):
    """Return a function that starts a sandbox; all are stopped at the end."""

    @contextlib.asynccontextmanager
    async def start(*protocols, **settings):
        exchange = SandboxExchange(protocols, directory=tmp_path, **{"seed": 7, "rate": 400.0, **settings})
        await exchange.start()
        clients = Clients()
        try:
            yield exchange, clients
        finally:
            await clients.close()
            await exchange.stop()

    return start


@pytest.fixture(autouse=True)
def own_symbols(monkeypatch, tmp_path):
    """Keep symbol lists of one sandbox out of the others and of the user's cache (cryptofeed 3 writes one)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Symbols, "data", {})


@pytest.fixture
def handler_complaints(caplog):
    """Return a function that gives what handlers logged from warning up."""
    caplog.set_level(logging.INFO)
    names = ("feedhandler", "cryptofeed")

    def complaints():
        return [
            (r.levelname, r.getMessage())
            for r in caplog.get_records("call")
            if r.levelno >= logging.WARNING and r.name.startswith(names)
        ]

    return complaints
