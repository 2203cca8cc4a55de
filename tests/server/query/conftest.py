"""A store and an engine over it, and rows to put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.query.engine import Engine
from tickflight_server.query.sources import Opened
from tickflight_server.store import Store

START_US = 1_790_000_000_000_000
MINUTE_US = 60_000_000
Asked = tuple[pa.Table, dict[str, Opened]]


def trades(
    rows: int, symbol: str = "BTC-USDT", *, exchange: str = "BINANCE", start_us: int = START_US
) -> pa.RecordBatch:
    """Return trades a second apart, whose price is their number."""
    times = [start_us + i * 1_000_000 for i in range(rows)]
    return pa.record_batch(
        {
            "exchange": [exchange] * rows,
            "symbol": [symbol] * rows,
            "side": ["buy", "sell"] * (rows // 2) + ["buy"] * (rows % 2),
            "amount": [1.5] * rows,
            "price": [float(i) for i in range(rows)],
            "timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("us")),
        }
    )


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.us = START_US + 60 * MINUTE_US

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def make_trades() -> Callable[..., pa.RecordBatch]:
    return trades


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(LakehouseSettings(storage_path=tmp_path / "lake", wal_commit_interval_ms=0)) as opened:
        yield opened


@pytest.fixture
def make_engine(store: Store, clock: Clock) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**settings: Any) -> Engine:
        made.append(Engine(store, QuerySettings(**settings), clock=clock))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(concurrent_max=4, queue_timeout_s=0.2)


@pytest.fixture
def ask(engine: Engine) -> Callable[..., Asked]:
    """Run a statement to its end; return its rows and what was opened."""

    def run(sql: str, parameters: Any = ()) -> Asked:
        with engine.execute(engine.plan(sql, parameters)) as execution:
            return execution.reader.read_all(), execution.opened

    return run


@pytest.fixture
def release(store: Store) -> Callable[[], None]:
    """Move all rows to parts and let go of the ring."""

    def run() -> None:
        store.flush()
        for table in store.tables.values():
            while table.release_oldest():
                pass

    return run
