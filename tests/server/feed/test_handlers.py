"""Feeds from configuration: what is wrong is said with what exists; endpoints and proxies are where it connects."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from tickflight_server.config import Endpoints, FeedSettings
from tickflight_server.errors import ConfigError
from tickflight_server.feed import compat
from tickflight_server.feed.backends import BookTickflight, TradeTickflight
from tickflight_server.feed.handlers import backends_for, build_handler, exchange_class, override_endpoints

SYMBOLS = ["BTC-USDT", "ETH-USDT"]


def settings(**changed: Any) -> FeedSettings:
    return FeedSettings.model_validate(
        {"exchange": "BINANCE", "symbols": SYMBOLS, "channels": ["trades"], "retries": 0} | changed
    )


@pytest.fixture
def known_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let BINANCE know a few symbols, without a network."""
    kept = {"normalized": {"BTC-USDT": "BTCUSDT", "ETH-USDT": "ETHUSDT", "BTC-EUR": "BTCEUR"}, "info": {}}
    monkeypatch.setitem(compat.symbols.Symbols.data, "BINANCE", kept)


@pytest.mark.parametrize(
    ("changed", "said", "hint"),
    [
        ({"exchange": "BINANCEE"}, "no exchange 'BINANCEE'", "BINANCE"),
        ({"exchange": "binance"}, "no exchange 'binance'", "BINANCE"),
        ({"exchange": "?"}, "no exchange '?'", "BINANCE"),
        ({"channels": ["trade"]}, "no channel 'trade'", "trades"),
        ({"channels": ["l3_book"]}, "no channel 'l3_book'", "l2_book"),
        ({"symbols": ["BTC-USD"]}, "no symbol 'BTC-USD'", "BTC-USDT"),
        ({"symbols": ["BTCUSDT"]}, "no symbol 'BTCUSDT'", "BTC-USDT"),
        ({"channels": ["candles"], "candle_interval": "1min"}, "no candle_interval '1min'", "1m"),
        ({"ws_proxy": "socks5://a:1"}, "ws_proxy 'socks5://a:1' cannot be used", "python-socks"),
        ({"credentials": {"key_id": "NO_SUCH_VARIABLE"}}, "NO_SUCH_VARIABLE for key_id is not set", "export"),
    ],
)
@pytest.mark.usefixtures("known_symbols")
def test_what_does_not_exist_is_told_with_what_does(changed: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_handler(settings(**changed), {})
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("known_symbols")
def test_settings_reach_cryptofeeds_handler(sink: Any) -> None:
    asked = settings(
        channels=["trades", "l2_book", "candles"],
        candle_interval="5m",
        candle_closed_only=True,
        max_depth=10,
        timeout_s=7,
        http_proxy="http://127.0.0.1:9",
        snapshot_interval=3,
    )
    backends = backends_for(asked, embedded=sink)
    assert isinstance(backends["trades"], TradeTickflight)
    assert isinstance(backends["l2_book"], BookTickflight)
    assert backends["l2_book"]._snapshot_interval == 3
    feed = build_handler(asked, backends, drain_timeout_s=12.0)
    assert isinstance(feed, compat.exchanges()["BINANCE"])
    assert (feed.candle_interval, feed.candle_closed_only, feed.max_depth) == ("5m", True, 10)
    assert (feed.timeout, feed.retries, feed.http_proxy) == (7, 0, "http://127.0.0.1:9")
    assert sorted(map(sorted, feed.subscription.values())) == [["BTCUSDT", "ETHUSDT"]] * 3
    assert feed.callbacks["trades"] == [backends["trades"]]
    if compat.MAJOR >= 3:
        assert feed.shutdown_timeout > 12.0


@pytest.mark.usefixtures("known_symbols")
def test_interval_that_nobody_asked_for_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.exchanges()["BINANCE"], "valid_candle_intervals", {"5m"})
    assert build_handler(settings(), {}).candle_interval == "5m"


@pytest.mark.skipif(compat.MAJOR >= 3, reason="cryptofeed 3.x has public channels alone")
@pytest.mark.usefixtures("known_symbols")
def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    monkeypatch.setenv("MY_SECRET", "s")
    asked = settings(channels=["balances"], credentials={"key_id": "MY_KEY", "key_secret": "MY_SECRET"})
    feed = build_handler(asked, {})
    assert (feed.key_id, feed.key_secret) == ("k", "s")
    with pytest.raises(ConfigError, match="no auth keys"):
        build_handler(settings(channels=["balances"]), {})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"websocket": "ws://127.0.0.1:1"}, "endpoints.websocket 'ws://127.0.0.1:1' is not an address of wss"),
        ({"rest": "ftp://127.0.0.1:1"}, "endpoints.rest 'ftp://127.0.0.1:1' is not an address of http or https"),
        ({"ca_file": Path("/gone.pem")}, "ca_file /gone.pem cannot be read"),
    ],
)
def test_endpoints_that_cannot_be_used_are_told(changed: dict[str, Any], said: str) -> None:
    given = {"websocket": "wss://127.0.0.1:1", "rest": "http://127.0.0.1:2"} | changed
    with pytest.raises(ConfigError) as caught:
        override_endpoints(exchange_class("BINANCE"), Endpoints.model_validate(given))
    assert said in caught.value.message
    assert caught.value.hint


def test_overridden_handler_keeps_everything_but_scheme_and_host(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    where = Endpoints(websocket="wss://localhost:1", rest="http://localhost:2", ca_file=ca_file)
    moved = 0
    for name, handler in compat.exchanges().items():
        if not handler.websocket_endpoints:
            with pytest.raises(ConfigError, match="when it starts"):
                override_endpoints(handler, where)
            continue
        other = override_endpoints(handler, where)
        assert issubclass(other, handler)
        assert (other.id, other.__name__) == (handler.id, handler.__name__)
        for old, new in zip(handler.websocket_endpoints, other.websocket_endpoints, strict=True):
            assert type(new) is type(old)
            assert [urlsplit(a)._replace(scheme="", netloc="") for a in listed(new.address)] == [
                urlsplit(a)._replace(scheme="", netloc="") for a in listed(old.address)
            ], name
            assert {urlsplit(a).netloc for a in listed(new.address)} == {"localhost:1"}
            assert (new.instrument_filter, new.channel_filter, new.limit) == (
                old.instrument_filter,
                old.channel_filter,
                old.limit,
            )
            assert {k: v for k, v in new.options.items() if k != "ssl"} == old.options
            assert new.options["ssl"] is not None
        for old, new in zip(handler.rest_endpoints, other.rest_endpoints, strict=True):
            assert new.routes == old.routes
            assert all(a.startswith("http://localhost:2") for a in listed(new.address))
        assert not any("localhost" in str(e.address) for e in handler.websocket_endpoints), "the original stays"
        moved += 1
    assert moved > 20


def test_path_of_a_new_address_is_a_prefix_unless_it_is_the_handlers_own() -> None:
    handler = exchange_class("KRAKEN_FUTURES")
    (relayed,) = override_endpoints(
        handler, Endpoints(websocket="wss://relay:1/kraken/", rest="http://relay:2")
    ).websocket_endpoints
    (own,) = override_endpoints(
        handler, Endpoints(websocket="wss://relay:1/ws/v1", rest="http://relay:2")
    ).websocket_endpoints
    assert relayed.address == "wss://relay:1/kraken/ws/v1"
    assert own.address == "wss://relay:1/ws/v1"


def listed(address: Any) -> list[str]:
    return address if isinstance(address, list) else [address]


class Proxy:
    """An HTTP proxy that knows CONNECT and absolute GET, and says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.server: Any = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            method, target, _ = (await reader.readline()).decode().split(" ")
            self.asked.append(f"{method} {target}")
            head = b""
            while (line := await reader.readline()) not in (b"\r\n", b""):
                head += line if not line.lower().startswith((b"proxy-", b"connection")) else b""
            where = urlsplit(target if method == "GET" else f"//{target}")
            other_reader, other = await asyncio.open_connection(where.hostname, where.port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = where._replace(scheme="", netloc="").geturl() or "/"
                other.write(f"GET {path} HTTP/1.1\r\n".encode() + head + b"Connection: close\r\n\r\n")
            await asyncio.gather(pipe(reader, other), pipe(other_reader, writer))

    def close(self) -> None:
        async def end() -> None:
            self.server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def run_for_rows(asked: FeedSettings, sink: Any, table: str) -> None:
    """Run one feed until ``table`` has rows."""
    backends = backends_for(asked, embedded=sink)
    feed = build_handler(asked, backends)

    async def run() -> list[str]:
        stop = asyncio.Event()

        async def watch() -> None:
            async with asyncio.timeout(30):
                while not sink.count(table):
                    await asyncio.to_thread(time.sleep, 0.02)

        watching = asyncio.create_task(watch())
        watching.add_done_callback(lambda _: stop.set())
        lost = await compat.run_until([feed], stop)
        await watching
        return lost

    assert asyncio.run(run()) == []
    for backend in backends.values():
        backend.close()


@pytest.mark.parametrize("exchange", ["BINANCE", "OKX"])
def test_unmodified_handler_reads_from_overridden_endpoints(exchange: str, sandbox: Any, sink: Any) -> None:
    asked = settings(
        exchange=exchange, channels=["trades", "l2_book", "ticker"], endpoints=endpoints(sandbox, exchange)
    )
    run_for_rows(asked, sink, "trades")
    assert {row["exchange"] for row in sink.rows("trades")} == {exchange}
    assert {row["symbol"] for row in sink.rows("trades")} <= set(SYMBOLS)


def test_proxies_carry_rest_and_websocket(
    sandbox: Any, sink: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    where = sandbox["BINANCE"]
    asked = settings(
        channels=["trades", "l2_book"],
        endpoints=endpoints(sandbox, "BINANCE"),
        http_proxy=proxy.address,
        ws_proxy=proxy.address,
    )
    run_for_rows(asked, sink, "l2_book")
    assert f"GET {where['rest']}/api/v3/exchangeInfo" in proxy.asked, "symbols"
    assert any(line.startswith(f"GET {where['rest']}/api/v3/depth") for line in proxy.asked), "book snapshots"
    assert f"CONNECT {urlsplit(where['websocket']).netloc}" in proxy.asked


def test_symbols_that_cannot_be_read_are_told(sandbox: Any) -> None:
    where = endpoints(sandbox, "BINANCE").model_copy(update={"rest": "http://127.0.0.1:9"})
    with pytest.raises(ConfigError, match="its symbols cannot be read") as caught:
        build_handler(settings(endpoints=where), {})
    assert "network" in (caught.value.hint or "")


def endpoints(sandbox: Any, exchange: str) -> Endpoints:
    return Endpoints.model_validate({k: v for k, v in sandbox[exchange].items() if k != "exchange"})


def test_cryptofeed_is_imported_in_one_module_alone() -> None:
    folder = Path(compat.__file__).parent
    texts = {path.name: path.read_text() for path in folder.glob("*.py")}
    importing = {name for name, text in texts.items() if "import cryptofeed" in text or "from cryptofeed" in text}
    assert importing == {"compat.py"}
    assert "order_book" not in "".join(line for line in texts["books.py"].splitlines() if "import" in line)
