"""A real server on a free port in this process, and the clients that talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from flight_here import START_US, FlightHere, trades, wait_until
from pyarrow import flight

from tickflight.wire.codec import Message

LEVELS = 5_000


def deep_books(rows: int) -> pa.RecordBatch:
    """Return books of thousands of levels a side."""
    side = [float(i) for i in range(LEVELS)]
    columns: dict[str, Any] = {"exchange": ["BINANCE"] * rows, "symbol": ["BTC-USDT"] * rows}
    for name in ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes"):
        columns[name] = [side] * rows
    columns["timestamp"] = pa.array(range(START_US, START_US + rows), pa.int64()).cast(pa.timestamp("us"))
    return pa.record_batch(columns)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    return wait_until


@pytest.fixture(scope="session")
def make_trades() -> Callable[..., pa.RecordBatch]:
    return trades


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlightHere]:
    """A server for reading, open to anyone: 300,000 trades of three symbols, half of them in parts, and deep books."""
    running = FlightHere(tmp_path_factory.mktemp("served"), query={"concurrent_max": 8, "queue_timeout_s": 1})
    for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
        running.store.append("trades", trades(50_000, symbol)).result()
    running.store.append("l2_book", deep_books(60)).result()
    running.store.flush()
    for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
        running.store.append("trades", trades(50_000, symbol, start_us=START_US + 10**11)).result()
    yield running
    running.stop()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., FlightHere]]:
    """Start servers on an empty data folder each."""
    made: list[FlightHere] = []

    def make(*, auth: dict[str, Any] | None = None, roles: dict[str, Any] | None = None, **query: Any) -> FlightHere:
        made.append(FlightHere(tmp_path / f"lake{len(made)}", auth=auth, roles=roles, query=query))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def client(served: FlightHere) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(served.address) as made:
        yield made


@pytest.fixture
def cursor(served: FlightHere) -> Iterator[adbc.Cursor]:
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
