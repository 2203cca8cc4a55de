"""What the tests of the feed share: a sink in memory, the recordings, cryptofeed's objects by channel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from tickflight_server.errors import BusyError
from tickflight_server.feed import collector
from tickflight_server.store import Ack

REPOSITORY = Path(__file__).parents[3]

# No time limits, since the machine may be busy with other things, and no folder of examples in the repository.
settings.register_profile("feed", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("feed")


class MemorySink:
    """Keeps batches. ``gate`` closed keeps answers back; ``fail`` and ``busy`` say what the next appends meet."""

    def __init__(self, numeric: str = "float64") -> None:
        self.numeric = numeric
        self.batches: defaultdict[str, list[pa.RecordBatch]] = defaultdict(list)
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Exception | None = None
        self.busy = 0
        self.refuse = 0  # rows of each batch that the store keeps aside
        self.closed = False
        self.flushed = 0
        self._waiting: list[tuple[Future[Any], Ack]] = []
        self._lock = threading.Lock()

    def append(self, table: str, batch: pa.RecordBatch) -> Future[Any]:
        if self.busy:
            self.busy -= 1
            raise BusyError("full")
        future: Future[Any] = Future()
        if self.fail is not None:
            future.set_exception(self.fail)
            return future
        with self._lock:
            first = sum(b.num_rows for b in self.batches[table])
            ack = Ack(first, batch.num_rows - self.refuse, self.refuse)
            self.batches[table].append(batch)
            if not self.gate.is_set():
                self._waiting.append((future, ack))
                return future
        future.set_result(ack)
        return future

    def open_gate(self) -> None:
        with self._lock:
            self.gate.set()
            waiting, self._waiting = self._waiting, []
        for future, ack in waiting:
            future.set_result(ack)

    def query(self, sql: str, params: Any = None) -> pa.Table:
        return pa.table({"sql": [sql], "params": [repr(params)]})

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [row for batch in self.batches[table] for row in batch.to_pylist()]

    def count(self, table: str) -> int:
        return sum(batch.num_rows for batch in self.batches[table])


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def make_sink() -> Callable[..., MemorySink]:
    return MemorySink


@pytest.fixture(autouse=True)
def _no_collector_is_left() -> Iterator[None]:
    yield
    left = list(collector._COLLECTORS)
    collector.close_all()
    assert not left, f"a test left collectors open: {left}"


@pytest.fixture(scope="session")
def recordings() -> Path:
    folder = Path(os.environ.get("TICKFLIGHT_RECORDINGS", REPOSITORY.parent / "shared" / "recordings"))
    if not folder.is_dir():
        pytest.skip(f"no recordings: {folder} is missing (set TICKFLIGHT_RECORDINGS)")
    return folder


def d(text: str | int) -> Decimal:
    return Decimal(text)


def make_objects() -> dict[str, tuple[Any, Any]]:
    """Return two objects of every flat channel: one with everything, one with all that may be missing missing."""
    from cryptofeed import types as t

    x, s, at = "BINANCE", "BTC-USDT", 1_700_000_000.123456
    return _make_private(t, x, s, at) | {
        "trades": (
            t.Trade(x, s, "buy", d("0.1"), d("60000.01"), at, id="7", type="limit"),
            t.Trade(x, s, "sell", d("0.2"), d("60000.02"), at),
        ),
        "ticker": (t.Ticker(x, s, d("1.1"), d("1.2"), at), t.Ticker(x, s, d("1.1"), d("1.2"), None)),
        "l1_book": (
            t.L1Book(x, s, d("1"), d("2"), d("3"), d("4"), at),
            t.L1Book(x, s, d("1"), d("2"), d("3"), d("4"), 0.0),
        ),
        "funding": (
            t.Funding(x, s, d("100"), d("0.0001"), at + 3600, at, predicted_rate=d("0.0002")),
            t.Funding(x, s, None, d("0.0001"), None, at),
        ),
        "open_interest": (t.OpenInterest(x, s, d("12345"), at), t.OpenInterest(x, s, d("12345"), None)),
        "liquidations": (
            t.Liquidation(x, s, "sell", d("3"), d("59999"), "9", "filled", at),
            t.Liquidation(x, s, "sell", d("3"), d("59999"), None, None, None),
        ),
        "candles": (
            t.Candle(x, s, at, at + 60, "1m", 17, d("1"), d("2"), d("3"), d("0.5"), d("99"), True, at),
            t.Candle(x, s, at, at + 60, "1m", None, d("1"), d("2"), d("3"), d("0.5"), d("99"), False, None),
        ),
        "index": (t.Index(x, s, d("60000"), at), t.Index(x, s, d("0"), at)),
    }


def _make_private(t: Any, x: str, s: str, at: float) -> dict[str, tuple[Any, Any]]:
    if not hasattr(t, "OrderInfo"):  # cryptofeed 3.x has public channels alone
        return {}
    return {
        "order_info": (
            t.OrderInfo(
                x, s, "1", "buy", "open", "limit", d("5"), d("6"), d("2"), at, client_order_id="c", account="a"
            ),
            t.OrderInfo(x, s, "1", "buy", "open", "limit", d("5"), d("6"), None, None),
        ),
        "fills": (
            t.Fill(x, s, "buy", d("1"), d("2"), d("0.1"), "i", "o", "limit", "maker", at, account="a"),
            t.Fill(x, s, "buy", d("1"), d("2"), None, "i", "o", None, None, at),
        ),
        "balances": (t.Balance(x, "BTC", d("1"), d("0.5")), t.Balance(x, "BTC", d("1"), None)),
        "positions": (
            t.Position(x, s, d("1"), d("2"), "long", d("-3"), at),
            t.Position(x, s, d("1"), d("2"), None, None, None),
        ),
        "transactions": (
            t.Transaction(x, "BTC", "deposit", "done", d("1"), at),
            t.Transaction(x, "BTC", None, None, d("1"), at),
        ),
    }


@pytest.fixture
def objects() -> dict[str, tuple[Any, Any]]:
    return make_objects()


@pytest.fixture
def trade() -> Callable[..., Any]:
    """Return a maker of things that look like trades and may hold anything."""

    def make(**changed: Any) -> Any:
        values = {
            "exchange": "BINANCE",
            "symbol": "BTC-USDT",
            "side": "buy",
            "amount": Decimal("0.1"),
            "price": Decimal("60000.01"),
            "id": "1",
            "type": None,
            "timestamp": 1_700_000_000.5,
        }
        return SimpleNamespace(**(values | changed))

    return make


@pytest.fixture
def make_book() -> Callable[..., Any]:
    """Return a maker of cryptofeed's order books with some levels in them."""
    from cryptofeed.types import OrderBook

    def make(bids: dict[Any, Any] | None = None, asks: dict[Any, Any] | None = None, **options: Any) -> Any:
        book = OrderBook("BINANCE", "BTC-USDT", bids=bids, asks=asks, **options)
        book.timestamp = 1_700_000_000.25
        return book

    return make


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Start the sandbox exchange as a process; yields the endpoints of its protocols."""
    command = [sys.executable, "-m", "tickflight_server.feed.sandbox", "--die-with-stdin", "--rate", "400"]
    process = subprocess.Popen(
        [*command, "--dir", str(tmp_path / "sandbox")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.read()
        process.stdout.close()
        assert process.wait(timeout=20) == 0
