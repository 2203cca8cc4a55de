"""The sandbox exchange on its sockets: REST over http, WebSockets over TLS, both on loopback.

The rule of this file: an event is made, rendered and put on every subscriber's queue without an await in between, so
that a snapshot, a subscription and a count all fall between two steps of the market. Queues are bounded: a subscriber
that does not keep up is closed and counted, and never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

import trustme
from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

from tickflight_server.errors import ConfigError
from tickflight_server.feed.sandbox.binance import Binance
from tickflight_server.feed.sandbox.events import Event
from tickflight_server.feed.sandbox.faults import PATH, Faults
from tickflight_server.feed.sandbox.market import DEFAULT_DEPTH, DEFAULT_RATE, DEFAULT_SYMBOLS, DEPTH_MIN, Market
from tickflight_server.feed.sandbox.okx import Okx
from tickflight_server.feed.sandbox.protocol import (
    Answer,
    MarketView,
    RestRoute,
    SubscriptionError,
    Topic,
    TopicKey,
    WireProtocol,
    event_key,
)
from tickflight_server.feed.sandbox.subscriber import QUEUE_MESSAGES_MAX, Subscriber

PROTOCOLS: Mapping[str, Callable[[MarketView], WireProtocol]] = {"BINANCE": Binance, "OKX": Okx}
"""What the sandbox speaks, by cryptofeed's identifier of the exchange."""

HOST = "127.0.0.1"
DEPTH_MAX = 1_000  # as many levels as any handler's snapshot asks for
TICK_S = 0.005  # the market is stepped this often
STEP_US_MAX = 20_000  # and by no more than this at once, also when it has fallen behind
PING_S = 20.0
MESSAGE_BYTES_MAX = 1 << 20  # of a client's message: subscriptions are long, but not longer
CLOSE_S = 1.0  # a client has this long to answer a close


def now_us() -> int:
    """Return the wall clock's time in microseconds."""
    return time.time_ns() // 1000


def _check(protocols: Sequence[str], symbols: Sequence[str], rate: float, depth: int) -> None:
    unknown = sorted(set(protocols) - set(PROTOCOLS))
    if unknown or not protocols:
        raise ConfigError(f"No sandbox of {unknown or 'nothing'}.", hint=f"There are {', '.join(PROTOCOLS)}.")
    odd = [s for s in symbols if not re.fullmatch(r"[A-Z0-9]+-[A-Z0-9]+", s)]
    if odd or not symbols or len(set(symbols)) < len(symbols):
        raise ConfigError(f"Not a list of different symbols: {list(symbols)}.", hint="Symbols look like BTC-USDT.")
    if not 0 < rate < math.inf:
        raise ConfigError(f"A rate of {rate} events per second.", hint="It must be above 0.")
    if not DEPTH_MIN < depth <= DEPTH_MAX:
        raise ConfigError(f"A depth of {depth} levels.", hint=f"From {DEPTH_MIN + 1} to {DEPTH_MAX}.")


class _Exchange:
    """One protocol's subscribers and counters."""

    def __init__(self, protocol: WireProtocol) -> None:
        self.protocol = protocol
        self.topics: dict[TopicKey, dict[Topic, list[Subscriber]]] = {}
        self.subscribers: set[Subscriber] = set()
        self.sent: Counter[str] = Counter()
        self.rest: Counter[str] = Counter()
        self.openings = self.connections = self.closed_slow = self.refused = 0

    def publish(self, events: Sequence[Event], held_back: Container[int] = ()) -> None:
        """Render the events and put them on the queues of those who subscribed, save those of places ``held_back``."""
        for place, event in enumerate(events):
            topics = self.topics.get(event_key(event))
            if not topics:
                continue
            for topic, subscribers in topics.items():
                text = self.protocol.render(topic, event)
                if place in held_back:
                    continue
                for subscriber in subscribers:
                    subscriber.offer(text, event.channel)

    def take_up(self, subscriber: Subscriber, answer: Answer) -> None:
        """Send a client its answer and enter it for the topics; asking for a topic twice is asking once."""
        for text in answer.texts:
            subscriber.offer(text)
        for topic in answer.topics:
            subscribers = self.topics.setdefault(topic.key, {}).setdefault(topic, [])
            if subscriber in subscribers:
                continue
            opening = self.protocol.opening(topic)
            if opening is not None:
                self.openings += 1
                subscriber.offer(opening)
            subscribers.append(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Forget a client and the topics that nobody else wants."""
        self.subscribers.discard(subscriber)
        for key, topics in list(self.topics.items()):
            for topic, subscribers in list(topics.items()):
                if subscriber in subscribers:
                    subscribers.remove(subscriber)
                if not subscribers:
                    del topics[topic]
            if not topics:
                del self.topics[key]

    def counters(self) -> dict[str, object]:
        return {
            "sent": dict(self.sent),
            "openings": self.openings,
            "rest": dict(self.rest),
            "connections": self.connections,
            "subscribers": len(self.subscribers),
            "closed_slow": self.closed_slow,
            "refused": self.refused,
        }


class SandboxExchange:
    """One market, spoken about in several exchanges' protocols.

    The throwaway authority's certificate is written to ``ca.pem`` in ``directory``; its key never leaves the process.
    Ports of 0 are chosen by the system. ``clock_us`` gives the market's time.
    """

    def __init__(
        self,
        protocols: Sequence[str] = tuple(PROTOCOLS),
        *,
        directory: Path,
        seed: int = 1,
        rate: float = DEFAULT_RATE,
        symbols: Sequence[str] = DEFAULT_SYMBOLS,
        depth: int = DEFAULT_DEPTH,
        rest_port: int = 0,
        websocket_port: int = 0,
        queue_messages_max: int = QUEUE_MESSAGES_MAX,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        _check(protocols, symbols, rate, depth)
        self._clock_us = clock_us
        self.market = Market(seed, symbols, rate=rate, depth=depth, start_us=clock_us())
        self._exchanges = {name: _Exchange(PROTOCOLS[name](self.market)) for name in protocols}
        self._queue_messages_max = queue_messages_max
        self._ports = {"rest": rest_port, "websocket": websocket_port}
        self._ca_file = directory / "ca.pem"
        self._runner: web.AppRunner | None = None
        self._clockwork: asyncio.Task[None] | None = None
        self.events_made: Counter[str] = Counter()
        self.faults = Faults(self.drop_connections)

    async def start(self) -> None:
        """Open the sockets and let the market run. When this returns handlers can connect."""
        assert self._runner is None, "started twice"
        app = web.Application()
        for exchange in self._exchanges.values():
            for path, route in exchange.protocol.rest_routes().items():
                app.router.add_get(path, self._rest_handler(exchange, route))
            for path in exchange.protocol.websocket_paths:
                app.router.add_get(path, self._websocket_handler(exchange))
        app.router.add_post(PATH, self.faults.handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        for name, context in (("rest", None), ("websocket", self._tls())):
            site = web.TCPSite(self._runner, HOST, self._ports[name], ssl_context=context)
            await site.start()
            self._ports[name] = self._runner.addresses[-1][1]
        self.resume()

    async def stop(self) -> None:
        """Stop the market, close every client and the sockets."""
        await self._halt()
        everyone = [s for exchange in self._exchanges.values() for s in exchange.subscribers]
        await asyncio.gather(*(s.close(1001, "the sandbox stops") for s in everyone))
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def pause(self) -> None:
        """Hold the market. When this returns nothing new happens and all that happened has been sent."""
        await self._halt()
        everyone = [s for exchange in self._exchanges.values() for s in exchange.subscribers]
        await asyncio.gather(*(s.drained() for s in everyone))

    def resume(self) -> None:
        """Let the market run (on); the time of the pause has no events."""
        assert self._runner is not None, "not started"
        if self._clockwork is None:
            self.market.skip(self._clock_us())
            self._clockwork = asyncio.get_running_loop().create_task(self._run(), name="sandbox.market")

    def drop_connections(self) -> int:
        """Cut every client's WebSocket without a word; return how many."""
        everyone = [s for exchange in self._exchanges.values() for s in exchange.subscribers]
        for subscriber in everyone:
            subscriber.cut()
        return len(everyone)

    def describe(self) -> dict[str, dict[str, str]]:
        """Return, by exchange, what a handler's endpoints must be overridden with."""
        return {
            name: {
                "exchange": name,
                "websocket": f"wss://{HOST}:{self._ports['websocket']}{exchange.protocol.websocket_base}",
                "rest": f"http://{HOST}:{self._ports['rest']}",
                "ca_file": str(self._ca_file),
            }
            for name, exchange in self._exchanges.items()
        }

    def counters(self) -> dict[str, object]:
        """Return what was made and what was sent.

        ``sent`` counts the events that were handed to the sockets, per channel and once per subscriber; ``openings``
        the book snapshots sent on sockets; ``rest`` the answered calls by name, ``snapshots`` being those of books.
        """
        return {
            "events_made": dict(self.events_made),
            "market_lag_us": max(0, self._clock_us() - self.market.now_us) if self._clockwork else 0,
            "exchanges": {name: exchange.counters() for name, exchange in self._exchanges.items()},
        }

    def _tls(self) -> ssl.SSLContext:
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(HOST, "localhost").configure_cert(context)
        self._ca_file.unlink(missing_ok=True)
        descriptor = os.open(self._ca_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(authority.cert_pem.bytes())
        return context

    async def _run(self) -> None:
        while True:
            behind = self.advance(self._clock_us())
            await asyncio.sleep(0 if behind else TICK_S)

    def advance(self, target_us: int) -> bool:
        """Step the market towards ``target_us`` once and publish; return whether it is still behind."""
        until_us = min(target_us, self.market.now_us + STEP_US_MAX)
        events = self.market.step(until_us)
        for event in events:
            self.events_made[event.channel] += 1
        held_back = self.faults.held_back(events)
        for exchange in self._exchanges.values():
            if exchange.topics:
                exchange.publish(events, held_back)
        return until_us < target_us

    async def _halt(self) -> None:
        task, self._clockwork = self._clockwork, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _rest_handler(self, exchange: _Exchange, route: RestRoute) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            try:
                text = route.answer(request.query)
            except SubscriptionError as error:
                exchange.refused += 1
                return web.Response(text=error.message, status=400)
            exchange.rest[route.name] += 1
            return web.Response(text=text, content_type="application/json")

        return handle

    def _websocket_handler(self, exchange: _Exchange) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                answer = exchange.protocol.connected(request.query)
            except SubscriptionError as error:
                exchange.refused += 1
                return web.Response(text=error.message, status=400)
            socket = web.WebSocketResponse(
                timeout=CLOSE_S, heartbeat=PING_S, compress=False, max_msg_size=MESSAGE_BYTES_MAX
            )
            await socket.prepare(request)
            subscriber = Subscriber(socket, request.transport, self._queue_messages_max, exchange.sent)
            exchange.connections += 1
            exchange.subscribers.add(subscriber)
            try:
                exchange.take_up(subscriber, answer)
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        exchange.take_up(subscriber, exchange.protocol.received(message.data))
            finally:
                exchange.leave(subscriber)
                exchange.closed_slow += subscriber.overflowed
                await subscriber.finish()
            return socket

        return handle
