"""Every row exactly once, in every answer, while rows come in and move from memory to disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

import tickflight

QUERIES = 1_000


def test_each_row_once_in_a_thousand_answers_during_ingest_and_flush(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    # a tiny ring, so that rows are released from memory too, and frequent flushes
    config.write_text(yaml.safe_dump({"lakehouse": {"flush_interval_seconds": 0.2, "ring_mb": 1, "buffer_size_mb": 1}}))
    server = start_server("--config", str(config))
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with tickflight.connect(server.address) as client, client.writer("trades") as writer:
                n = 0
                while not stop.is_set():
                    now = time.time_ns() // 1000
                    rows = {
                        "exchange": ["X"] * 20,
                        "symbol": ["A", "B", "C", "D"] * 5,
                        "price": [float(n)] * 20,
                        "timestamp": pa.array(range(now, now + 20), pa.timestamp("us")),
                    }
                    writer.write(pa.RecordBatch.from_pydict(rows)).result(30)
                    n += 1
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    places = set()
    try:
        with tickflight.connect(server.address) as client:
            for _ in range(QUERIES):
                (row,) = (
                    client.sql(
                        "SELECT count(*) n, count(DISTINCT seq) ids, coalesce(max(seq), 0) high, "
                        "coalesce(sum(seq), 0)::BIGINT total FROM trades"
                    )
                    .arrow()
                    .to_pylist()
                )
                n = row["n"]
                assert row == {"n": n, "ids": n, "high": n, "total": n * (n + 1) // 2}
                assert n >= seen, "a row that was seen is gone"
                seen = n
                if _ % 50 == 0:
                    (where,) = (
                        client.sql(
                            "SELECT rows_in_memory > 0 m, rows_on_disk > 0 d, rows_not_flushed > 0 u "
                            "FROM system.tables WHERE \"table\" = 'trades'"
                        )
                        .arrow()
                        .to_pylist()
                    )
                    places.add(tuple(where.values()))
    finally:
        stop.set()
        thread.join(60)
    assert not failures
    assert seen > 1_000
    assert any(memory and disk for memory, disk, _ in places), "no answer spanned memory and disk"
