"""A real server on a free port in this process, and the clients that talk to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire.codec import Message
from tickflight_server.config import AuthSettings, FlightSettings, LakehouseSettings, QuerySettings, Settings
from tickflight_server.flight.server import FlightSqlServer
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
LEVELS = 5_000


@dataclass
class Running:
    """A server at work."""

    store: Store
    engine: Engine
    flight: FlightSqlServer
    settings: Settings

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self.flight.port}"

    @property
    def free_places(self) -> int:
        return self.engine._places._value

    def stop(self) -> None:
        """Stop; calls that go on are waited for a moment."""
        stopping = threading.Thread(target=self.flight.shutdown, daemon=True)
        stopping.start()
        stopping.join(5)
        self.store.close(flush=False)
        self.engine.close()


def start(folder: Path, *, auth: dict[str, Any] | None = None, **query: Any) -> Running:
    lakehouse = LakehouseSettings(storage_path=folder, wal_commit_interval_ms=0)
    settings = Settings(
        lakehouse=lakehouse,
        query=QuerySettings(**query),
        auth=AuthSettings(**(auth or {})),
        flight=FlightSettings(port=0),
    )
    store = Store(lakehouse)
    engine = Engine(store, settings.query)
    return Running(store, engine, FlightSqlServer(store, engine, settings), settings)


def trades(rows: int, symbol: str = "BTC-USDT", *, start_us: int = START_US) -> pa.RecordBatch:
    """Return trades a second apart, whose price is their number."""
    times = pa.array([start_us + i * 1_000_000 for i in range(rows)], pa.int64()).cast(pa.timestamp("us"))
    columns: dict[str, Any] = {"exchange": ["BINANCE"] * rows, "symbol": [symbol] * rows, "side": ["buy"] * rows}
    columns |= {"amount": [1.5] * rows, "price": [float(i) for i in range(rows)], "timestamp": times}
    return pa.record_batch(columns)


def deep_books(rows: int) -> pa.RecordBatch:
    """Return books of thousands of levels a side."""
    side = [float(i) for i in range(LEVELS)]
    columns: dict[str, Any] = {"exchange": ["BINANCE"] * rows, "symbol": ["BTC-USDT"] * rows}
    for name in ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes"):
        columns[name] = [side] * rows
    columns["timestamp"] = pa.array(range(START_US, START_US + rows), pa.int64()).cast(pa.timestamp("us"))
    return pa.record_batch(columns)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, at most ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in ten seconds"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def make_trades() -> Callable[..., pa.RecordBatch]:
    return trades


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for reading, open to anyone: 300,000 trades of three symbols, half of them in parts, and deep books."""
    running = start(tmp_path_factory.mktemp("served"), concurrent_max=8, queue_timeout_s=1)
    for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
        running.store.append("trades", trades(50_000, symbol)).result()
    running.store.append("l2_book", deep_books(60)).result()
    running.store.flush()
    for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
        running.store.append("trades", trades(50_000, symbol, start_us=START_US + 10**11)).result()
    yield running
    running.stop()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers on an empty data folder each."""
    made: list[Running] = []

    def make(**options: Any) -> Running:
        made.append(start(tmp_path / f"lake{len(made)}", **options))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def client(served: Running) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(served.address) as made:
        yield made


@pytest.fixture
def cursor(served: Running) -> Iterator[adbc.Cursor]:
    with adbc.connect(served.address, autocommit=True) as connection, connection.cursor() as made:
        yield made


@pytest.fixture(scope="session")
def do_action() -> Callable[..., list[bytes]]:
    def run(client: flight.FlightClient, kind: str, request: Message, *options: Any) -> list[bytes]:
        return [r.body.to_pybytes() for r in client.do_action(flight.Action(kind, request.serialize()), *options)]

    return run


@pytest.fixture(scope="session")
def raises_clean() -> Callable[..., Any]:
    """Expect an error of a kind that has no traceback of the server in it."""

    @contextmanager
    def expect(kind: Any, match: str = "") -> Iterator[Any]:
        with pytest.raises(kind, match=match) as caught:
            yield caught
        text = str(caught.value)
        assert "Traceback" not in text
        assert 'File "' not in text

    return expect
