"""A store and an engine over it, and rows to put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flight_here import START_US, trades
from stopped_clock import StoppedClock

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.query.engine import Engine
from tickflight_server.query.sources import Opened
from tickflight_server.store import Store

MINUTE_US = 60_000_000
Asked = tuple[pa.Table, dict[str, Opened]]


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(START_US + 60 * MINUTE_US)


@pytest.fixture(scope="session")
def make_trades() -> Callable[..., pa.RecordBatch]:
    return trades


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(LakehouseSettings(storage_path=tmp_path / "lake", wal_commit_interval_ms=0)) as opened:
        yield opened


@pytest.fixture
def make_engine(store: Store, clock: StoppedClock) -> Iterator[Callable[..., Engine]]:
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


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether all there is is to be tried, and not a sample."""
    return bool(request.config.getoption("--campaign") == "full")
