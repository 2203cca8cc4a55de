"""Queries that run away, of several users at once, while rows come in: ingest goes on, and memory stays bounded."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from flight_here import trades
from system_processes import ServerProgram

import tickflight

USERS = ("ann", "bob", "eve")
CONFIG = """
auth:
  users: {ann: a, bob: b, eve: e, root: r, collector: c}
  roles: {ann: [user], bob: [user], eve: [bounded], root: [admin], collector: [user]}
roles:
  bounded:
    read: [{schemas: [market]}]
    limits: {memory_mb: 128, queries_max: 2, statement_timeout_s: 2}
query: {memory_mb: 512, process_mb: 1400, statement_timeout_s: 2}
"""
RUNAWAYS = (
    "SELECT count(*) FROM trades a, trades b, trades c WHERE a.price < b.price + c.price",
    "SELECT x, random() AS r FROM range(300000000) r(x) ORDER BY r",
    "SELECT list(x) FROM range(2000000000) r(x)",
    "SELECT count(*) FROM range(100000000000) r(x) WHERE x % 3 = 7",
    "SELECT length(string_agg(repeat('x', 20000), '')) FROM range(10000000) r(x)",  # the engine does not count it
    "SELECT a.symbol, b.seq, string_agg(c.symbol) FROM trades a, trades b, range(10000) c(symbol) GROUP BY ALL",
)
SAMPLE_S, FULL_S = 3.0, 60.0
EVERY_S = 0.01
ROWS = 200


class _Runaways:
    """Sends such queries from two connections of each user until it is stopped."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.stopped = threading.Event()
        self.ended: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(user, number), daemon=True) for user in USERS for number in (0, 3)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, user: str, number: int) -> None:
        for sql in itertools.islice(itertools.cycle(RUNAWAYS), number, None):
            if self.stopped.is_set():
                return
            try:
                with tickflight.connect(self._address, username=user, password=user[0]) as client:
                    for _ in client.sql(sql).batches():
                        pass
                self.ended["done"] += 1
            except (tickflight.ResourceExhaustedError, tickflight.CancelledError) as error:
                self.ended[type(error).__name__] += 1
            except Exception as error:
                self.failures.append(repr(error))

    def stop(self) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(30)


def test_ingest_goes_on_while_queries_run_away(
    start_server: Callable[..., ServerProgram],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    seconds = FULL_S if request.config.getoption("--campaign") == "full" else SAMPLE_S
    config = tmp_path / "server.yaml"
    config.write_text(CONFIG)
    server = start_server("--config", str(config))
    process = psutil.Process(server.process.pid)
    with (
        tickflight.connect(server.address, username="collector", password="c") as collector,
        collector.writer("trades") as writer,
    ):
        for place in range(20):
            writer.write(trades(5000, f"S{place}")).result(30)
        runaways = _Runaways(server.address)
        waits, peak, sent = [], 0, 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            writer.write(trades(ROWS, "LIVE", start_us=1_760_000_000_000_000 + sent)).result(30)
            waits.append(time.monotonic() - began)
            sent += ROWS
            peak = max(peak, process.memory_info().rss)
            time.sleep(EVERY_S)
        runaways.stop()
    with tickflight.connect(server.address, username="root", password="r") as root:
        (row,) = root.sql("SELECT count(*) AS n FROM trades WHERE symbol = 'LIVE'").arrow().to_pylist()
        ended = root.sql(
            "SELECT user, state, regexp_extract(coalesce(error, ''), '\\(([a-z_.]+)\\)', 1) AS why, count(*) AS n "
            "FROM system.queries WHERE kind = 'query' GROUP BY ALL ORDER BY ALL"
        ).arrow()
    waits.sort()
    figures = {
        "batches": len(waits),
        "median_ms": round(waits[len(waits) // 2] * 1000, 1),
        "p99_ms": round(waits[int(len(waits) * 0.99)] * 1000, 1),
        "p99.9_ms": round(waits[int(len(waits) * 0.999)] * 1000, 1),
        "worst_ms": round(waits[-1] * 1000, 1),
        "peak_mb": peak >> 20,
        "ended": dict(runaways.ended),
    }
    record_property("runaway queries", figures)
    print(figures, ended.to_pylist())
    assert runaways.failures == []
    assert sum(runaways.ended.values()) > 0
    assert row["n"] == sent
    # the engine's 512 MB, twice, since two rights are in use, a cell of 128 MB each, and what is counted late
    assert peak < 2600 << 20
    assert waits[-1] < 5.0, "a stall, whatever else the machine does"
