"""Tells backends when connections of cryptofeed open and are lost, and what they carry.

The rule of this file: nothing changes for cryptofeed. Its connection handler's ``_handler``, which lives as long as a
connection does, is wrapped once for the process; exceptions go on as they came, and a fault of this module is logged
and forgotten. cryptofeed is not imported here: ``compat`` hands its class in.

The handler of both releases does, for each connection: connect, ``self.subscribe(conn)``, ``self._handler(conn, …)``.
``_handler`` ends with an exception (a lost connection, ``MissingSequenceNumber``, ``BadChecksum``, …) or, when the
exchange or the watchdog has closed in an orderly way, without; either way the loop around it connects again, unless
``self.running`` is false. The connection counts as open from ``subscribe`` on, which may already call back.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from tickflight_server.feed.gaps import Carried

LOG = structlog.get_logger(__name__)

_WATCH = "_tickflight_watch"
_DETAIL_CHARS_MAX = 500
_WRAPPERS_MAX = 8


class Listener(Protocol):
    """A backend that wants to know."""

    def connection_opened(self, what: Carried, at: float) -> None:
        """Take note that a connection is open; ``at`` is in seconds."""

    def connection_lost(self, what: Carried, at: float, why: str) -> None:
        """Take note that a connection is lost."""


def install(handler_class: Any) -> None:
    """Have instances of cryptofeed's ``ConnectionHandler`` watched, those that exist included. Once is enough."""
    original = handler_class._handler
    if hasattr(original, _WATCH):
        return

    @functools.wraps(original)
    async def watched(self: Any, connection: Any, handler: Any) -> None:
        watch = _watch_of(self)
        watch.opened()
        try:
            await original(self, connection, handler)
        except Exception as error:
            watch.lost(error)
            raise
        watch.lost(None)

    setattr(watched, _WATCH, True)
    handler_class._handler = watched


def _watch_of(handler: Any) -> _Watch:
    watch = getattr(handler, _WATCH, None)
    if watch is None:
        watch = _Watch(handler)
        setattr(handler, _WATCH, watch)
    return watch


class _Watch:
    """One connection handler: whether it is open, and who is told."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._open = False
        self._told: list[tuple[Listener, Carried]] = []
        _safely(self._find)
        subscribe = handler.subscribe

        async def subscribed(connection: Any) -> None:
            self.opened()
            try:
                await subscribe(connection)
            except Exception as error:
                self.lost(error)
                raise

        handler.subscribe = subscribed  # from the second connection on: the first is open already

    def opened(self) -> None:
        if not self._open:
            self._open = True
            _safely(self._tell_opened)

    def lost(self, error: Exception | None) -> None:
        self._open = False
        if self._handler.running:  # if not, the feed is stopping
            _safely(lambda: self._tell_lost(error))

    def _tell_opened(self) -> None:
        at = time.time()
        for listener, what in self._told:
            listener.connection_opened(what, at)

    def _tell_lost(self, error: Exception | None) -> None:
        at = time.time()
        why = self._why(error, at)
        for listener, what in self._told:
            listener.connection_lost(what, at, why)

    def _why(self, error: Exception | None, at: float) -> str:
        if error is not None:
            return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")[:_DETAIL_CHARS_MAX]
        conn, timeout = self._handler.conn, self._handler.timeout
        if timeout != -1 and conn.last_message and at - conn.last_message > timeout:
            return f"closed by the feed: no message for {timeout} s"
        code = getattr(conn.conn, "close_code", None)
        return "closed" if code is None else f"closed with code {code}"

    def _find(self) -> None:
        feed = _owner(self._handler.handler)
        if feed is None:
            return
        for channel, callbacks in feed.callbacks.items():
            for callback in callbacks:
                listener = _listener(callback)
                what = None if listener is None else _carried(feed, self._handler.conn, channel)
                if listener is not None and what is not None:
                    self._told.append((listener, what))


def _owner(handler: Any) -> Any:
    """Return the feed that a message handler is a method of."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return getattr(handler, "__self__", None)


def _listener(callback: Any) -> Any:
    """Return the backend behind a callback, which may be wrapped (``handler`` of cryptofeed's throttles), or None."""
    for _ in range(_WRAPPERS_MAX):
        if hasattr(callback, "connection_opened"):
            return callback
        callback = getattr(callback, "handler", None)
    return None


def _carried(feed: Any, conn: Any, channel: str) -> Carried | None:
    """Return what a connection carries of a channel, None for nothing or where nobody knows."""
    name, exchange = str(conn.id), str(feed.id)
    subscription = getattr(conn, "subscription", None)
    if not subscription:  # a poll of REST calls, or an exchange that subscribes in its own way
        return Carried(name, channel, exchange, None) if len(feed.connection_handlers) == 1 else None
    try:
        own_name = feed.std_channel_to_exchange(channel)
    except Exception:  # callbacks may be given for channels that the exchange does not have
        return None
    if own_name not in subscription:
        return None
    symbols = _on_address(list(subscription[own_name]), own_name, getattr(conn, "address", ""))
    if not symbols:
        return None
    try:
        known = frozenset(str(feed.exchange_symbol_to_std_symbol(symbol)) for symbol in symbols)
    except Exception:  # what is subscribed is no symbol: an index, a currency
        return Carried(name, channel, exchange, None)
    return Carried(name, channel, exchange, known)


def _on_address(symbols: list[Any], channel: str, address: Any) -> list[Any]:
    """Return those of ``symbols`` that an address of the BINANCE family names: it gives 200 streams to a connection."""
    if not (isinstance(address, str) and "streams=" in address):
        return symbols
    return [one for one in symbols if f"{one}@{channel}" in address or f"{str(one).lower()}@{channel}" in address]


def _safely(tell: Callable[[], Any]) -> None:
    try:
        tell()
    except Exception:
        LOG.exception("a connection is not watched")
