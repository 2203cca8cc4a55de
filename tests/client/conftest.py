"""A server in this process that can be stopped and started again, and rows to send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flight_here import FlightHere, trades, wait_until
from ports import free_port

import tickflight


def start(folder: Path, auth: dict[str, Any] | None = None, **lakehouse: Any) -> FlightHere:
    places = {"concurrent_max": 8, "queue_timeout_s": 1}
    return FlightHere(folder, port=free_port(), auth=auth, lakehouse=lakehouse, query=places)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., FlightHere]]:
    made: list[FlightHere] = []

    def make(auth: dict[str, Any] | None = None, **lakehouse: Any) -> FlightHere:
        made.append(start(tmp_path / f"lake{len(made)}", auth, **lakehouse))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def server(make_server: Callable[..., FlightHere]) -> FlightHere:
    return make_server()


@pytest.fixture
def client(server: FlightHere) -> Iterator[tickflight.Client]:
    with tickflight.connect(server.address) as made:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlightHere]:
    """A server for reading: 200 trades of two symbols."""
    made = start(tmp_path_factory.mktemp("served"))
    for symbol in ("BTC-USDT", "ETH-USDT"):
        made.store.append("trades", trades(100, symbol)).result()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def reading(served: FlightHere) -> Iterator[tickflight.Client]:
    with tickflight.connect(served.address) as made:
        yield made


@pytest.fixture(scope="session")
def make_trades() -> Callable[..., pa.RecordBatch]:
    return trades


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    return wait_until
