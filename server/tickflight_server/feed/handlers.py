"""Feeds of cryptofeed from configuration.

The rule of this file: whatever the configuration gets wrong is said before anything connects, as one ``ConfigError``
with the closest names that exist; the handlers are cryptofeed's own, unmodified but for where they connect.
"""

from __future__ import annotations

import difflib
import os
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tickflight_server.errors import ConfigError
from tickflight_server.feed import compat
from tickflight_server.feed.backend import Tickflight
from tickflight_server.feed.backends import BACKENDS, backend_for

if TYPE_CHECKING:
    from tickflight_server.config import Endpoints, FeedSettings

# What 3.x's shutdown deadline adds to the collector's, so that the collector's comes first and tells what is missing.
SHUTDOWN_MARGIN_S = 5.0


def backends_for(settings: FeedSettings, address: str | None = None, **options: Any) -> dict[str, Tickflight]:
    """Return a backend for each channel of a feed; ``options`` are those of ``Tickflight``."""
    _known("channel", settings.channels, BACKENDS, f"feed {settings.exchange}")
    return {
        channel: backend_for(
            channel,
            address,
            snapshots_only=settings.snapshots_only,
            snapshot_interval=settings.snapshot_interval,
            **options,
        )
        for channel in settings.channels
    }


def build_handler(settings: FeedSettings, callbacks: Mapping[str, Any], *, drain_timeout_s: float = 30.0) -> Any:
    """Return cryptofeed's feed for ``settings``, its symbols read and checked. Blocks for that.

    Raises:
        ConfigError: an exchange, channel, symbol or interval does not exist, a credential is not in the environment, a
            proxy or an endpoint cannot be used, or the symbols cannot be read.
    """
    where = f"feed {settings.exchange}"
    handler = exchange_class(settings.exchange)
    _known("channel", settings.channels, compat.channels(handler), where)
    interval = _interval(settings, handler)
    if settings.ws_proxy is not None and (trouble := compat.ws_proxy_trouble(settings.ws_proxy)):
        raise ConfigError(f"{where}: ws_proxy {settings.ws_proxy!r} cannot be used.", hint=f"{trouble}.")
    if settings.endpoints is not None:
        handler = override_endpoints(handler, settings.endpoints)
    if settings.http_proxy is not None:
        handler = compat.with_http_proxy(handler, settings.http_proxy)
    config = _config(settings)
    _known("symbol", settings.symbols, _symbols(handler, settings), where)
    try:
        return compat.make_feed(
            handler,
            shutdown_timeout_s=drain_timeout_s + SHUTDOWN_MARGIN_S,
            ws_proxy=settings.ws_proxy,
            config=config,
            symbols=list(settings.symbols),
            channels=list(settings.channels),
            callbacks=dict(callbacks),
            candle_interval=interval,
            candle_closed_only=settings.candle_closed_only,
            max_depth=settings.max_depth,
            http_proxy=settings.http_proxy,
            timeout=settings.timeout_s,
            retries=settings.retries,
        )
    except Exception as error:
        raise ConfigError(f"{where}: cryptofeed {compat.VERSION} refuses it: {_one_line(error)}.") from error


def exchange_class(exchange: str) -> type:
    """Return cryptofeed's handler of an exchange.

    Raises:
        ConfigError: there is none; the hint names the closest.
    """
    known = compat.exchanges()
    _known("exchange", [exchange], known, f"cryptofeed {compat.VERSION}")
    return known[exchange]


def override_endpoints(handler_class: type, endpoints: Endpoints) -> type:
    """Return a subclass of ``handler_class`` that connects to ``endpoints``, trusting their ``ca_file`` for wss.

    Raises:
        ConfigError: the addresses have the wrong scheme, or the authority cannot be read.
    """
    name = handler_class.__name__
    for key, address, schemes in (
        ("websocket", endpoints.websocket, ("wss",)),
        ("rest", endpoints.rest, ("http", "https")),
    ):
        parts = urlsplit(address)
        if parts.scheme not in schemes or not parts.netloc:
            raise ConfigError(
                f"{name}: endpoints.{key} {address!r} is not an address of {' or '.join(schemes)}.",
                hint="wss://host:port; cryptofeed refuses plain ws://, a throwaway authority in ca_file will do."
                if key == "websocket"
                else "http://host:port.",
            )
    if not getattr(handler_class, "websocket_endpoints", None):
        raise ConfigError(
            f"{name}: cryptofeed {compat.VERSION} asks this exchange for its WebSocket address when it starts.",
            hint="Its endpoints cannot be overridden; use another exchange.",
        )
    context = _trust(endpoints.ca_file) if endpoints.ca_file is not None else None
    return compat.with_endpoints(handler_class, websocket=endpoints.websocket, rest=endpoints.rest, ssl=context)


def _trust(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"endpoints.ca_file {ca_file} cannot be read: {_one_line(error)}.", hint="A PEM file with the authority."
        ) from None


def _interval(settings: FeedSettings, handler: type) -> str:
    offered = compat.candle_intervals(handler)
    if not offered or settings.candle_interval in offered:
        return settings.candle_interval
    if "candles" in settings.channels:
        _known("candle_interval", [settings.candle_interval], offered, f"feed {settings.exchange}")
    # Nobody asked for candles, yet 2.4.1 insists that the interval be one of the exchange's.
    return offered[0]


def _config(settings: FeedSettings) -> dict[str, Any]:
    config: dict[str, Any] = dict(compat.QUIET_CONFIG)
    keys: dict[str, str] = {}
    for key, variable in settings.credentials.items():
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"feed {settings.exchange}: environment variable {variable} for {key} is not set.",
                hint=f"export {variable}=…, or take {key} out of credentials.",
            )
        keys[key] = value
    if keys:
        config[settings.exchange.lower()] = keys
    return config


def _symbols(handler: type, settings: FeedSettings) -> list[str]:
    try:
        return compat.load_symbols(handler, settings.http_proxy, fresh=settings.endpoints is not None)
    except Exception as error:
        raise ConfigError(
            f"feed {settings.exchange}: its symbols cannot be read: {_one_line(error)}.",
            hint="Check the network, http_proxy and endpoints.rest.",
        ) from error


def _known(what: str, names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise a ``ConfigError`` for the first of ``names`` that is not ``known``, naming the closest that are."""
    offered = list(known)
    folded = {one.casefold(): one for one in offered}
    for name in names:
        if name in offered:
            continue
        close = [folded[one] for one in difflib.get_close_matches(name.casefold(), list(folded), n=5, cutoff=0.6)]
        if close:
            hint = f"Close: {', '.join(close)}."
        elif len(offered) <= 60:
            hint = f"Known: {', '.join(sorted(offered))}."
        else:
            hint = f"{len(offered)} are known, such as {', '.join(sorted(offered)[:5])}."
        raise ConfigError(f"{where}: no {what} {name!r}.", hint=hint)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
