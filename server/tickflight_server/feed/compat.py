"""cryptofeed, and nothing else in this project imports it: what differs between 2.4.1 and 3.x ends here.

The rule of this file: its functions take and return plain values, handler classes and feeds; which release is installed
is decided here and nowhere else.

    what                     2.4.1 (Python 3.11, 3.12)                    3.x (Python 3.13 and later)
    symbols of an exchange   read with requests, in the constructor       read with aiohttp, when the feed runs
    a run                    tasks on the loop; feed.shutdown() at end    FeedHandler.run_async(), request_stop()
    giving up on a feed      a task dies of ExhaustedRetries              the feed is moved to removed_feeds
    recordings               text files, raw_data_collection.playback     pcap captures, capture.playback_async
    private channels         order_info, fills, balances, positions, …    none
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import structlog
from cryptofeed import connection, symbols
from cryptofeed.connection_handler import ConnectionHandler
from cryptofeed.exchanges import EXCHANGE_MAP
from cryptofeed.feedhandler import FeedHandler

from tickflight_server.feed import connections as watching

LOG = structlog.get_logger(__name__)

VERSION = version("cryptofeed")
MAJOR = int(VERSION.split(".", 1)[0])

Config = dict[str, Any]

# cryptofeed's own log goes where the process's log goes (handlers of the root logger); its event loop is ours.
QUIET_CONFIG: Mapping[str, Any] = {"log": {"disabled": True, "filename": "", "level": "WARNING"}, "uvloop": False}


def exchanges() -> dict[str, type]:
    """Return cryptofeed's handlers by exchange."""
    return dict(EXCHANGE_MAP)


def channels(handler: type) -> list[str]:
    """Return the channels that a handler offers, by cryptofeed's common names."""
    return list(handler.websocket_channels)  # type: ignore[attr-defined]


def candle_intervals(handler: type) -> list[str]:
    """Return the candle intervals that a handler offers; empty where it does not say."""
    offered = handler.valid_candle_intervals  # type: ignore[attr-defined]
    return [] if offered is NotImplemented else sorted(offered)


def load_symbols(handler: type, http_proxy: str | None, *, fresh: bool) -> list[str]:
    """Read the exchange's symbols, which cryptofeed then keeps for the process; returns their common names.

    Blocks. ``fresh`` reads them even if they are kept, since another address may know others.
    """
    one: Any = handler
    if fresh:
        symbols.Symbols.data.pop(one.id, None)
    if not symbols.Symbols.populated(one.id):
        if MAJOR < 3:
            one.symbol_mapping()
        else:
            _in_thread(lambda: _load_symbols_3(one, http_proxy))
    normalized, _ = symbols.Symbols.get(one.id)
    return list(normalized)


async def _load_symbols_3(handler: Any, http_proxy: str | None) -> None:
    conn = connection.HTTPAsyncConn(handler.id, http_proxy)
    try:
        await handler.load_symbols(conn=conn)
    finally:
        await conn.close()


def _in_thread(make: Callable[[], Any]) -> Any:
    """Run a coroutine to its end, whether or not this thread runs an event loop."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((asyncio.run(make()), None))
        except Exception as error:  # handed to the caller below
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="cryptofeed-symbols")
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def with_endpoints(handler: type, *, websocket: str | None, rest: str | None, ssl: Any = None) -> type:
    """Return a subclass of ``handler`` that connects elsewhere; filters, limits, routes and parsing stay its own.

    Scheme and host are swapped. An address keeps its path; a path of the new address goes before it as a prefix, save
    where it is already one of the handler's own.
    """
    one: Any = handler
    changed: dict[str, Any] = {"__module__": handler.__module__, "__doc__": handler.__doc__}
    if websocket is not None:
        options = {"ssl": ssl} if ssl is not None else {}
        endpoints = list(one.websocket_endpoints or ())
        changed["websocket_endpoints"] = [
            _moved(endpoint, websocket, endpoints, options=(endpoint.options or {}) | options) for endpoint in endpoints
        ]
    if rest is not None:
        changed["rest_endpoints"] = [_moved(endpoint, rest, one.rest_endpoints) for endpoint in one.rest_endpoints]
    if MAJOR >= 3:
        # 3.x keeps the symbols it reads in the user's cache folder; those of another address are not the exchange's.
        changed["_write_symbol_cache"] = classmethod(lambda cls, syms, info: None)
    return type(handler.__name__, (handler,), changed)


def _moved(endpoint: Any, address: str, siblings: Sequence[Any], **changes: Any) -> Any:
    own_paths = {urlsplit(one).path.rstrip("/") for sibling in siblings for one in _listed(sibling.address)}
    to = urlsplit(address)
    prefix = "" if to.path.rstrip("/") in own_paths | {""} else to.path.rstrip("/")

    def swapped(old: str) -> str:
        was = urlsplit(old)
        return urlunsplit((to.scheme, to.netloc, prefix + was.path, was.query, ""))

    old = endpoint.address
    new = [swapped(one) for one in old] if isinstance(old, list) else swapped(old)
    return dataclasses.replace(endpoint, address=new, sandbox=None, **changes)


def _listed(address: Any) -> list[str]:
    return list(address) if isinstance(address, list) else [address]


def hosts(handler: type) -> tuple[set[str], set[str]]:
    """Return the hosts (with ports) that a handler knows: of its WebSockets, of its REST calls."""
    one: Any = handler
    found = [
        {urlsplit(address).netloc for endpoint in endpoints or () for address in _listed(endpoint.address)}
        for endpoints in (one.websocket_endpoints, one.rest_endpoints)
    ]
    return found[0], found[1]


def with_http_proxy(handler: type, http_proxy: str) -> type:
    """Return a subclass that reads symbols through the proxy too; 2.4.1 would use it for later calls alone."""
    if MAJOR >= 3:
        return handler
    import requests

    class ProxiedHTTPSync(connection.HTTPSync):  # type: ignore[misc]
        def read(
            self,
            address: str,
            params: Any = None,
            headers: Any = None,
            json: bool = False,
            text: bool = True,
            uuid: Any = None,
        ) -> Any:
            proxies = {"http": http_proxy, "https": http_proxy}
            answer = requests.get(address, headers=headers, params=params, proxies=proxies, timeout=60)
            return self.process_response(answer, address, json=json, text=text, uuid=uuid)

    return type(handler.__name__, (handler,), {"__module__": handler.__module__, "http_sync": ProxiedHTTPSync()})


def make_feed(handler: type, *, shutdown_timeout_s: float, ws_proxy: str | None = None, **arguments: Any) -> Any:
    """Construct a feed. ``shutdown_timeout_s`` is how long 3.x waits for backends to stop (2.4.1 waits without end)."""
    if MAJOR >= 3:
        arguments["shutdown_timeout"] = shutdown_timeout_s
    feed: Any = handler(**arguments)
    if ws_proxy is not None:
        # On the instance, since some handlers find their addresses only in the constructor.
        feed.websocket_endpoints = [
            dataclasses.replace(endpoint, options=(endpoint.options or {}) | {"proxy": ws_proxy})
            for endpoint in feed.websocket_endpoints
        ]
    return feed


def ws_proxy_trouble(ws_proxy: str) -> str | None:
    """Return what keeps the installed websockets from using such a proxy, or None."""
    if int(version("websockets").split(".", 1)[0]) < 15:
        return f"websockets {version('websockets')} knows no proxies; 15 and later do"
    if urlsplit(ws_proxy).scheme.startswith("socks"):
        with suppress(ImportError):
            import python_socks  # type: ignore[import-not-found]  # noqa: F401

            return None
        return "SOCKS proxies need the package python-socks[asyncio]"
    return None


def feed_name(feed: Any) -> str:
    """Return cryptofeed's name of a feed's exchange."""
    return str(feed.id)


def watch_connections() -> None:
    """Have backends told when connections open and are lost, in this process, whoever runs the feeds."""
    watching.install(ConnectionHandler)


def connections(feed: Any) -> list[dict[str, Any]]:
    """Return the state of a feed's connections: id, whether open, messages received, time of the last."""
    return [
        {
            "id": handler.conn.id,
            "open": bool(handler.conn.is_open),
            "received": handler.conn.received,
            "last_message": handler.conn.last_message,
        }
        for handler in list(feed.connection_handlers)
    ]


async def run_until(feeds: Sequence[Any], stop: asyncio.Event) -> list[str]:
    """Run ``feeds`` until ``stop``, or until all of them have given up; returns the names of those that have.

    When this returns, connections are closed and the backends' ``stop`` has returned.
    """
    return await (_run_3(feeds, stop) if MAJOR >= 3 else _run_2(feeds, stop))


async def _run_3(feeds: Sequence[Any], stop: asyncio.Event) -> list[str]:
    handler = FeedHandler(config=dict(QUIET_CONFIG), on_feed_error="remove_feed")
    for feed in feeds:
        handler.add_feed(feed)
    running = asyncio.ensure_future(handler.run_async(install_signal_handlers=False))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    handler.request_stop()
    await running
    return [feed_name(feed) for feed in handler.removed_feeds]


async def _run_2(feeds: Sequence[Any], stop: asyncio.Event) -> list[str]:
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks(loop)
    handler = FeedHandler(config=dict(QUIET_CONFIG))
    for feed in feeds:
        handler.add_feed(feed)
    handler.run(start_loop=False, install_signal_handlers=False)
    mine = asyncio.all_tasks(loop) - before
    stopping = asyncio.ensure_future(stop.wait())
    lost: list[str] = []
    while mine and not stopping.done():
        done, _ = await asyncio.wait({*mine, stopping}, return_when=asyncio.FIRST_COMPLETED)
        mine -= done
        for task in done - {stopping}:
            if not task.cancelled() and (error := task.exception()) is not None:
                lost.append(f"{type(error).__name__} in {task.get_coro().__qualname__}")  # type: ignore[union-attr]
                LOG.error("a connection was given up", error=repr(error), left=len(mine))
    stopping.cancel()
    # Connections first: 2.4.1 would close them after it has stopped the backends, and what came between would wait.
    for feed in handler.feeds:
        feed.stop()
        for each in feed.connection_handlers:
            with suppress(Exception):
                await each.conn.close()
    await handler.stop_async(loop)
    # What is left is cryptofeed's own (connections waiting to reconnect, watchdogs); whoever calls runs tasks besides.
    for task in asyncio.all_tasks(loop) - before:
        if _is_cryptofeeds(task):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
    return lost


def _is_cryptofeeds(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "cryptofeed" in code.co_filename


@contextmanager
def in_place_of(exchange: str, handler: type) -> Iterator[None]:
    """Let playback, which looks handlers up by name, find ``handler`` under ``exchange``; symbols are read anew."""
    before, kept = EXCHANGE_MAP.get(exchange), symbols.Symbols.data.pop(exchange, None)
    EXCHANGE_MAP[exchange] = handler
    try:
        yield
    finally:
        if before is None:
            del EXCHANGE_MAP[exchange]
        else:
            EXCHANGE_MAP[exchange] = before
        symbols.Symbols.data.pop(exchange, None)
        if kept is not None:
            symbols.Symbols.data[exchange] = kept


def play_text(
    exchange: str, files: Sequence[str], callbacks: Mapping[str, Any], config: Config
) -> tuple[int, dict[str, int]]:
    """Play a recording of 2.4.1 through its handler; returns the messages and the callbacks by channel."""
    from cryptofeed import raw_data_collection

    reads = connection.HTTPAsyncConn.read, connection.HTTPSync.read
    try:
        # playback turns every value of the dict into a list, so it gets its own.
        result = raw_data_collection.playback(exchange, list(files), callbacks=dict(callbacks), config=config)
    finally:  # playback replaces these, and puts them back only when all goes well
        connection.HTTPAsyncConn.read, connection.HTTPSync.read = reads
    return result["messages_processed"], dict(result["callbacks"])


def read_capture(files: Sequence[str]) -> Any:
    """Read captures of 3.x."""
    from cryptofeed import capture

    return capture.read_capture(list(files))


def capture_addresses(capture: Any) -> dict[str, tuple[str | None, str | None]]:
    """Return the addresses that a capture was made from, by exchange: of a WebSocket, of a REST call."""
    names = {session.exchange for session in (*capture.ws, *capture.http)}
    found: dict[str, tuple[str | None, str | None]] = {}
    for name in sorted(names):
        sockets = [session.address for session in capture.ws if session.exchange == name]
        urls = [request[2] for session in capture.http if session.exchange == name for request in session.requests]
        found[name] = (next(iter(sockets), None), next(iter(urls), None))
    return found


def play_capture(
    files: Sequence[str], exchange: str, callbacks: Mapping[str, Any], config: Config
) -> tuple[int, dict[str, int]]:
    """Play one exchange of a capture of 3.x through its handler; returns the messages and the callbacks by channel."""
    from cryptofeed import capture

    result = capture.playback(
        list(files), exchange=exchange, callbacks=dict(callbacks), on_error="raise", config=config
    )
    return result.messages_processed, dict(result.callbacks)
