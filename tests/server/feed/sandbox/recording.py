"""Make the recordings in ``tests/data/sandbox`` with the installed cryptofeed's own recorder. See the README there.

    PYTHONPATH=client:server python tests/server/feed/sandbox/recording.py tests/data/sandbox

Playback asks for the URLs of the real exchange, so they are what must stand in the recording. The WebSocket is
addressed by its public name and only its TCP connection goes to loopback (`host` and `port` are options of
`websockets.connect`). For REST there is no such option; there the recorder writes the public name for the loopback one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from cryptofeed import FeedHandler
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import EXCHANGE_MAP

from tickflight_server.feed.sandbox.server import SandboxExchange

SYMBOLS = ["BTC-USDT", "ETH-USDT"]
RATE = 160.0
SECONDS = 4.0
CHANNELS = [TRADES, TICKER, L2_BOOK, CANDLES]
BINANCE = EXCHANGE_MAP["BINANCE"]
REST = BINANCE.rest_endpoints[0].address
CONFIG = {"log": {"disabled": True}, "uvloop": False}

try:
    from cryptofeed.raw_data_collection import AsyncFileCallback as Recorder

    class PublicNames(Recorder):
        """cryptofeed 2.4.1's recorder, writing the exchange's public REST address."""

        def __init__(self, directory: Path, loopback: str):
            (directory / "BINANCE").mkdir()
            super().__init__(str(directory / "BINANCE"))
            self.loopback = loopback

        async def __call__(self, data, timestamp, uuid, endpoint=None, **more):
            endpoint = endpoint and endpoint.replace(self.loopback, REST)
            await super().__call__(data, timestamp, uuid, endpoint=endpoint, **more)

        def sync_callback(self, data, timestamp, uuid, endpoint=None, **more):
            endpoint = endpoint and endpoint.replace(self.loopback, REST)
            super().sync_callback(data, timestamp, uuid, endpoint=endpoint, **more)

except ImportError:
    from cryptofeed.capture import PcapRecorder

    class PublicNames(PcapRecorder):
        """cryptofeed 3's recorder, writing the exchange's public REST address."""

        def __init__(self, directory: Path, loopback: str):
            super().__init__(str(directory / "BINANCE-3.pcap"), compress=False)
            self.loopback = loopback

        async def on_http(self, conn, address, params, header, data, timestamp):
            await super().on_http(conn, address.replace(self.loopback, REST), params, header, data, timestamp)


def handler_of(endpoints: dict[str, str]) -> type:
    """Return BINANCE's handler with its public WebSocket address, connected to loopback."""
    there = urlsplit(endpoints["websocket"])
    options = {
        "ssl": ssl.create_default_context(cafile=endpoints["ca_file"]),
        "host": there.hostname,
        "port": there.port,
        "server_hostname": there.hostname,
    }
    websocket = dataclasses.replace(BINANCE.websocket_endpoints[0], options=options)
    assert isinstance(websocket, WebsocketEndpoint)
    rest = dataclasses.replace(BINANCE.rest_endpoints[0], address=endpoints["rest"])
    return type("Binance", (BINANCE,), {"websocket_endpoints": [websocket], "rest_endpoints": [rest]})


async def record(directory: Path) -> None:
    """Record some seconds around the end of a minute, so that a candle closes in them."""
    await asyncio.sleep((60 - SECONDS * 0.6 - time.time() % 60) % 60)
    with tempfile.TemporaryDirectory() as folder:
        exchange = SandboxExchange(["BINANCE"], directory=Path(folder), seed=7, rate=RATE, symbols=SYMBOLS, depth=60)
        await exchange.start()
        endpoints = exchange.describe()["BINANCE"]
        recorder = PublicNames(directory, endpoints["rest"])
        settings = {"symbols": SYMBOLS, "channels": CHANNELS, "candle_closed_only": False, "timeout": -1}
        version_3 = hasattr(BINANCE, "run")
        handler = FeedHandler(config=CONFIG, **{"record" if version_3 else "raw_data_collection": recorder})
        # The recorder must be in place before the handler is made: the symbol list is part of the recording.
        handler.add_feed(await asyncio.to_thread(lambda: handler_of(endpoints)(**settings)))
        if version_3:
            running = asyncio.create_task(handler.run_async(install_signal_handlers=False))
            await asyncio.sleep(SECONDS)
            handler.request_stop()
            await running
        else:
            handler.feeds[0].start(asyncio.get_running_loop())
            await asyncio.sleep(SECONDS)
            await handler.stop_async(asyncio.get_running_loop())
        await exchange.stop()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
