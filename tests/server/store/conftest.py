"""What the store's tests share: trades whose price tells them apart, stores in temporary folders, and readers."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from s3_server import CACHE_S, KEY_ID, SECRET, S3Server

from tickflight_server.clock import Clock
from tickflight_server.config import LakehouseSettings, TierSettings
from tickflight_server.paths import part_file_name
from tickflight_server.schemas import STORED, TableSchema
from tickflight_server.store import Store, TableSnapshot

T0 = 1_700_000_000_000_000  # 2023-11-14 22:13:20 UTC
DEADLINE_S = 60


def make_trades(
    rows: int, start: int = 0, *, symbols: Sequence[str] = ("BTC-USDT",), step_us: int = 1_000, t0: int = T0
) -> pa.RecordBatch:
    """Return trades as a producer sends them; row i has price ``start + i`` and its own time."""
    number = np.arange(start, start + rows)
    times = pa.array(number * step_us + t0).cast(pa.timestamp("us"))
    return pa.record_batch(
        {
            "exchange": pa.array(["BINANCE"] * rows, pa.string()),
            "symbol": pa.array([symbols[i % len(symbols)] for i in number], pa.string()),
            "side": pa.array(["buy" if i % 2 else None for i in number], pa.string()),
            "amount": pa.array(np.ones(rows)),
            "price": pa.array(number.astype(np.float64)),
            "id": pa.array([str(i) for i in number], pa.string()),
            "timestamp": times,
            "receipt_timestamp": times,
        }
    )


def read_snapshot(snapshot: TableSnapshot, folder: Path, column: str = "price") -> list[tuple[int, Any]]:
    """Return ``(seq, column)`` of every row of a snapshot, in order of ``seq``; a row met twice is there twice."""
    found = []
    for segment in snapshot.segments:
        found += zip(segment.batch["seq"].to_pylist(), segment.batch[column].to_pylist(), strict=True)
    for path in snapshot.parts.path:
        part = pq.ParquetFile(folder / path).read(columns=["seq", column])
        found += zip(part["seq"].to_pylist(), part[column].to_pylist(), strict=True)
    return sorted(found, key=lambda pair: pair[0])


@pytest.fixture(scope="session")
def trades() -> Callable[..., pa.RecordBatch]:
    return make_trades


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[tuple[int, Any]]]:
    def read(store: Store, table: str = "trades", column: str = "price") -> list[tuple[int, Any]]:
        return read_snapshot(store.snapshot(table), store.root / table, column)

    return read


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for: {what}"
            time.sleep(0.002)

    return wait


@pytest.fixture(scope="session")
def settings_for() -> Callable[..., LakehouseSettings]:
    def settings(path: Path, **changes: Any) -> LakehouseSettings:
        quiet = {
            "flush_interval_seconds": 3600,
            "wal_commit_interval_ms": 0,
            "append_timeout_s": 20,
            "compact_share": 0,
        }
        return LakehouseSettings(storage_path=path, **(quiet | changes))

    return settings


@pytest.fixture
def open_store(tmp_path: Path, settings_for: Callable[..., LakehouseSettings]) -> Iterator[Callable[..., Store]]:
    """Open stores that flush only when told to; what is still open at the end is closed without a flush."""
    opened: list[Store] = []

    def open_one(
        path: Path | None = None,
        *,
        clock: Clock | None = None,
        tables: Mapping[str, TableSchema] = STORED,
        **changes: Any,
    ) -> Store:
        opened.append(Store(settings_for(path or tmp_path / "lake", **changes), clock, tables))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close(flush=False)


@pytest.fixture
def crash(tmp_path: Path) -> Callable[[Store], Path]:
    """Copy the folder of an open store, as a crash would leave it; return the copy."""

    def copy(store: Store) -> Path:
        number = sum(p.name.startswith("crash") for p in tmp_path.iterdir())
        return Path(shutil.copytree(store.root, tmp_path / f"crash{number}"))

    return copy


class SetClock:
    """A clock that a test sets; it begins at the machine's time, by which files are dated."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + int(self.ahead_s * 1e6)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def put_parts(trades: Callable[..., pa.RecordBatch]) -> Callable[..., None]:
    """Append and flush some times, so that each partition gets a part each time, and let go of the memory."""

    def put(store: Store, times: int, rows: int = 10, **how: Any) -> None:
        start = store.tables["trades"].state.last_seq
        for i in range(times):
            store.append("trades", trades(rows, start + i * rows, **how)).result(20)
            store.flush()
        while store.tables["trades"].release_oldest():
            pass

    return put


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One object store for all tests; each makes a bucket of its own in its folder."""
    folder = tmp_path_factory.mktemp("s3") / "buckets"
    folder.mkdir()
    server = S3Server(folder)
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Path]:
    """A bucket of this test: a folder, in which keys are files."""
    folder = s3_server.folder / f"b{uuid4().hex[:12]}"
    folder.mkdir()
    time.sleep(2 * CACHE_S)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def s3_settings(s3_server: S3Server, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TierSettings]:
    """Return settings of a tier in this test's bucket, below prefix ``old``."""
    monkeypatch.setenv("TEST_TIER_KEY", KEY_ID)
    monkeypatch.setenv("TEST_TIER_SECRET", SECRET)

    def make(**changes: Any) -> TierSettings:
        options = {"endpoint": s3_server.endpoint, "region": "us-east-1", "allow_http": "true"}
        values: dict[str, Any] = {
            "url": f"s3://{bucket.name}/old",
            "timeout_s": 20,
            "credentials": {"access_key_id": "TEST_TIER_KEY", "secret_access_key": "TEST_TIER_SECRET"},
        }
        return TierSettings(**(values | changes | {"options": options | changes.get("options", {})}))

    return make


@pytest.fixture(scope="session")
def make_part() -> Callable[..., Path]:
    """Make a file as a part is called, its contents random."""

    def make(folder: Path, number: int = 1, nbytes: int = 1000, *, checked: bool = True) -> Path:
        contents = b"PAR1" + random.Random(number).randbytes(nbytes - 8) + b"PAR1"
        unique = xxhash.xxh3_64(contents).hexdigest() if checked else "0123abcd"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / part_file_name(number, number, unique)
        path.write_bytes(contents)
        return path

    return make
