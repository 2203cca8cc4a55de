"""A disk that is really full: a small tmpfs with ballast on it, a real server, and a writer that does not give up."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from system_processes import ServerProgram, wait_for

import tickflight

DISK_MB, BALLAST_MB = 96, 70
ROWS = 5_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which fills up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def batch_of(number: int) -> pa.RecordBatch:
    """Return rows that hardly compress, numbered without holes."""
    first = number * ROWS
    now = time.time_ns() // 1000
    return pa.RecordBatch.from_pydict(
        {
            "exchange": ["X"] * ROWS,
            "symbol": ["A"] * ROWS,
            "price": [float(n) for n in range(first, first + ROWS)],
            "id": [f"{hash((n, number)) & (2**64 - 1):032x}" for n in range(first, first + ROWS)],
            "timestamp": pa.array(range(now, now + ROWS), pa.timestamp("us")),
        }
    )


def count(client: Any) -> tuple[int, int]:
    (row,) = client.sql("SELECT count(*) n, coalesce(sum(price), 0)::BIGINT s FROM trades").arrow().to_pylist()
    return row["n"], row["s"]


def test_a_full_disk_stops_acknowledgements_alone_and_all_goes_on_when_there_is_room(
    tmp_path: Path, disk: Path
) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(BALLAST_MB << 20))
    config = tmp_path / "config.yaml"
    lakehouse = {"wal_file_mb": 2, "flush_interval_seconds": 1, "append_timeout_s": 2}
    config.write_text(yaml.safe_dump({"lakehouse": lakehouse}))
    server = ServerProgram(disk, "--config", str(config))
    futures: list[Future[Any]] = []
    try:
        with (
            tickflight.connect(server.address) as client,
            client.writer("trades", retry_timeout_s=None, inflight_bytes_max=4 << 20) as writer,
        ):

            def full() -> bool:
                if sum(not f.done() for f in futures) < 4:
                    futures.append(writer.write(batch_of(len(futures))))
                return client.health().state == "failed"

            wait_for(full, "the disk to be full")
            n, total = count(client)
            acknowledged = sum(f.done() for f in futures) * ROWS
            assert n >= acknowledged > 0, "queries answer, and what was acknowledged is there"
            assert total == n * (n - 1) // 2
            told = client.sql("SELECT component, detail FROM system.health WHERE state <> 'ok'").arrow().to_pylist()
            assert {t["component"] for t in told} & {"disk", "log"}, told
            ballast.unlink()
            writer.flush(60)
            wait_for(lambda: client.health().state == "ok", "the alert to end")
            assert [f.result().duplicate for f in futures].count(False) >= 1
            n = len(futures) * ROWS
            assert count(client) == (n, n * (n - 1) // 2), "each row once"
    finally:
        server.stop()
