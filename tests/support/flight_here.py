"""A Flight SQL server in this process, what to put into it, and how to wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from tickflight_server.clock import Clock
from tickflight_server.config import AuthSettings, FlightSettings, LakehouseSettings, QuerySettings, Settings
from tickflight_server.flight.server import FlightSqlServer
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
DEADLINE_S = 10.0


def trades(
    rows: int, symbol: str = "BTC-USDT", first: int = 0, *, exchange: str = "BINANCE", start_us: int = START_US
) -> pa.RecordBatch:
    """Return trades a second apart, whose price is their number from ``first`` on; every second one is a sell."""
    numbers = range(first, first + rows)
    return pa.record_batch(
        {
            "exchange": [exchange] * rows,
            "symbol": [symbol] * rows,
            "side": [("buy", "sell")[n % 2] for n in numbers],
            "amount": [1.5] * rows,
            "price": [float(n) for n in numbers],
            "timestamp": pa.array([start_us + n * 1_000_000 for n in numbers], pa.int64()).cast(pa.timestamp("us")),
        }
    )


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a condition, at most ten seconds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true in {DEADLINE_S} s"
        time.sleep(0.005)


class FlightHere:
    """A server over a data folder, through any number of starts; on a port of its own unless one is given.

    Args:
        lakehouse: settings besides the folder's.
        clock: what handles and sessions age by.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        auth: dict[str, Any] | None = None,
        roles: dict[str, Any] | None = None,
        lakehouse: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock
        self.settings = Settings(
            lakehouse=LakehouseSettings(storage_path=folder, wal_commit_interval_ms=0, **(lakehouse or {})),
            query=QuerySettings(**(query or {})),
            auth=AuthSettings(**(auth or {})),
            roles=roles or {},
            flight=FlightSettings(port=port),
        )
        self.running = False
        self.start()

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    @property
    def free_places(self) -> int:
        return self.engine.shared.places.free

    def start(self) -> None:
        self.store = Store(self.settings.lakehouse)
        self.engine = Engine(self.store, self.settings.query)
        self.flight = FlightSqlServer(self.store, self.engine, self.settings, self._clock)
        self.port: int = self.flight.port
        self.running = True

    def stop(self, *, wait_s: float = 5) -> None:
        """Stop without flushing; calls that go on after ``wait_s`` are cut when the log closes."""
        if self.running:
            self.running = False
            stopping = threading.Thread(target=self.flight.shutdown, daemon=True)
            stopping.start()
            stopping.join(wait_s)
            self.store.close(flush=False)
            self.engine.close()
