"""One count: whatever the rows go through, every answer has each of them once.

A writer sends rows numbered without holes; readers compare count, sum, least and greatest number in every answer, while
flush, compaction, retention (of other rows), tiering, vacuum and kill -9 of the server go on beneath.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from system_processes import ServerProgram, wait_for

import tickflight
from tickflight.errors import UnavailableError

BATCH = 20
DAY_US = 86_400_000_000
QUESTION = (
    "SELECT count(*) n, coalesce(sum(price), 0)::BIGINT total, coalesce(min(price), 0)::BIGINT low, "
    "coalesce(max(price), -1)::BIGINT high, count(DISTINCT seq) ids FROM trades WHERE symbol <> 'EXPIRED'"
)


def settings(tier: Path) -> dict[str, Any]:
    """Everything happens all the time: small memory, small files, short intervals."""
    return {
        "lakehouse": {
            "flush_interval_seconds": 0.2,
            "flush_files_max": 2,
            "flush_partition_seconds": 0.6,
            "ring_mb": 1,
            "buffer_size_mb": 1,
            "ring_seconds": 0.5,
            "wal_file_mb": 1,
            "compact_parts_min": 2,
            "compact_share": 1.0,
            "compact_settle_seconds": 0,
            "keep_interval_seconds": 0.5,
            "retention_days": {"trades": 30},
            "vacuum_hours": 0.001,
            "tier": {"url": str(tier), "after_days": 5},
        }
    }


def batch_of(first: int, now_us: int) -> pa.RecordBatch:
    """Return the rows ``first`` and on, of today and of ten days ago, and one that retention will take."""
    numbers = list(range(first, first + BATCH))
    days = [0 if n % 4 else 10 for n in numbers]
    return pa.RecordBatch.from_pydict(
        {
            "exchange": ["X"] * (BATCH + 1),
            "symbol": [f"S{n % 5}" for n in numbers] + ["EXPIRED"],
            "price": [float(n) for n in numbers] + [-1.0],
            "id": [str(n) for n in numbers] + [None],
            "timestamp": pa.array(
                [now_us - d * DAY_US + n for d, n in zip(days, numbers, strict=True)] + [now_us - 40 * DAY_US],
                pa.timestamp("us"),
            ),
        }
    )


class Ingest:
    """A writer that goes on over restarts of the server; ``acknowledged`` numbers are durable and visible."""

    def __init__(self, address: str) -> None:
        self.acknowledged = 0
        self.failure: BaseException | None = None
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with (
                tickflight.connect(self._address) as client,
                client.writer("trades", producer=b"counter", retry_timeout_s=None) as writer,
            ):
                now_us = time.time_ns() // 1000
                while not self._stop.is_set():
                    writer.write(batch_of(self.acknowledged, now_us)).result(120)
                    self.acknowledged += BATCH
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(120)
        assert self.failure is None, self.failure


def ask(client: Any) -> dict[str, int] | None:
    """Return an answer, None while the server is away."""
    try:
        (row,) = client.sql(QUESTION).arrow().to_pylist()
    except UnavailableError:
        return None
    return dict(row)


def test_every_answer_counts_each_row_once(tmp_path: Path, campaign: Any, counts: Counter[str]) -> None:
    questions, kills = (10_000, 25) if campaign.name == "full" else (120, 1)
    tier = tmp_path / "tier"
    tier.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(tier)))
    server = ServerProgram(tmp_path, "--config", str(config))
    ingest = Ingest(server.address)
    compared = 0
    metrics: Counter[str] = Counter()
    try:
        for round_ in range(kills + 1):
            with tickflight.connect(server.address) as client:
                until = questions * (round_ + 1) // (kills + 1)
                while compared < until:
                    before = ingest.acknowledged
                    row = ask(client)
                    if row is None:
                        continue
                    n = row["n"]
                    assert row == {"n": n, "total": n * (n - 1) // 2, "low": 0, "high": n - 1, "ids": n}
                    assert before <= n, "a row that was acknowledged is missing"
                    compared += 1
                if round_ == 0:
                    wait_for(lambda: _happened(client), "everything to have happened once")
                metrics.update({r["name"]: int(r["value"]) for r in server.query("FROM system.metrics")})
            if round_ < kills:
                server.kill()
                server = ServerProgram(tmp_path, "--config", str(config), port=server.port)
    finally:
        ingest.stop()
        server.stop()
    counts["answers compared"] += compared
    for name in ("flushes", "parts_compacted", "parts_moved", "rows_expired", "files_vacuumed"):
        assert metrics[name], f"{name} never happened"


def _happened(client: Any) -> bool:
    sql = "FROM system.metrics WHERE name IN ('parts_moved', 'rows_expired', 'parts_compacted', 'files_vacuumed')"
    rows = client.sql(sql).arrow()
    return int(rows.num_rows) == 4
