"""A server in this process that can be stopped and started again, and rows to send."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tickflight
from tickflight_server.config import AuthSettings, FlightSettings, LakehouseSettings, QuerySettings, Settings
from tickflight_server.flight.server import FlightSqlServer
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000


def trades(rows: int, symbol: str = "BTC-USDT", first: int = 0) -> pa.RecordBatch:
    """Return trades a second apart, whose price is their number from ``first`` on."""
    numbers = range(first, first + rows)
    times = pa.array([START_US + i * 1_000_000 for i in numbers], pa.int64()).cast(pa.timestamp("us"))
    columns: dict[str, Any] = {"exchange": ["BINANCE"] * rows, "symbol": [symbol] * rows, "side": ["buy"] * rows}
    columns |= {"amount": [1.5] * rows, "price": [float(i) for i in numbers], "timestamp": times}
    return pa.record_batch(columns)


class Server:
    """A server on one port and data folder, through any number of starts."""

    def __init__(self, folder: Path, auth: dict[str, Any], **lakehouse: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._settings = Settings(
            lakehouse=LakehouseSettings(storage_path=folder, wal_commit_interval_ms=0, **lakehouse),
            query=QuerySettings(concurrent_max=8, queue_timeout_s=1),
            auth=AuthSettings(**auth),
            flight=FlightSettings(port=self.port),
        )
        self.running = False
        self.start()

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    @property
    def free_places(self) -> int:
        return self.engine._places._value

    def start(self) -> None:
        self.store = Store(self._settings.lakehouse)
        self.engine = Engine(self.store, self._settings.query)
        self._flight = FlightSqlServer(self.store, self.engine, self._settings)
        self.running = True

    def stop(self, *, wait_s: float = 5) -> None:
        """Stop without flushing; append streams that are open are cut when the log closes."""
        if self.running:
            self.running = False
            stopping = threading.Thread(target=self._flight.shutdown, daemon=True)
            stopping.start()
            stopping.join(wait_s)
            self.store.close(flush=False)
            self.engine.close()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(auth: dict[str, Any] | None = None, **lakehouse: Any) -> Server:
        made.append(Server(tmp_path / f"lake{len(made)}", auth or {}, **lakehouse))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()


@pytest.fixture
def client(server: Server) -> Iterator[tickflight.Client]:
    with tickflight.connect(server.address) as made:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for reading: 200 trades of two symbols."""
    made = Server(tmp_path_factory.mktemp("served"), {})
    for symbol in ("BTC-USDT", "ETH-USDT"):
        made.store.append("trades", trades(100, symbol)).result()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def reading(served: Server) -> Iterator[tickflight.Client]:
    with tickflight.connect(served.address) as made:
        yield made


@pytest.fixture(scope="session")
def make_trades() -> Callable[..., pa.RecordBatch]:
    return trades


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, at most ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in ten seconds"
            time.sleep(0.005)

    return wait
