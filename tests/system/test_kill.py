"""Kill -9 of the server: what was acknowledged is there afterwards, once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tickflight


def batch_of(first: int, rows: int) -> pa.RecordBatch:
    """Return trades whose ids count up from ``first``."""
    now = time.time_ns() // 1000
    return pa.RecordBatch.from_pydict(
        {
            "exchange": ["X"] * rows,
            "symbol": [f"S{i % 5}" for i in range(rows)],
            "price": np.arange(first, first + rows, dtype=float),
            "amount": np.ones(rows),
            "id": [str(i) for i in range(first, first + rows)],
            "timestamp": pa.array(np.arange(now, now + rows), pa.timestamp("us")),
        }
    )


def test_acknowledged_rows_survive_kill_9_once(start_server: Callable[..., Any]) -> None:
    server = start_server()
    acknowledged = 0
    with tickflight.connect(server.address) as client, client.writer("trades", retry_timeout_s=0.0) as writer:
        for n in range(20):
            ack = writer.write(batch_of(n * 100, 100)).result(30)
            acknowledged += ack.rows
            if n == 9:
                client.flush()
        server.kill()
    restarted = start_server()
    (row,) = restarted.query("SELECT count(*) n, count(DISTINCT id) ids, min(seq) low, max(seq) high FROM trades")
    assert row == {"n": acknowledged, "ids": acknowledged, "low": 1, "high": acknowledged}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_writer_goes_on_over_kill_9_without_loss_or_repeat(start_server: Callable[..., Any], seed: int) -> None:
    chance = random.Random(seed)
    server = start_server()
    port = server.port
    with tickflight.connect(server.address) as client, client.writer("trades") as writer:
        futures = []
        kill_at = {chance.randrange(10, 60), chance.randrange(60, 110)}
        for n in range(120):
            futures.append(writer.write(batch_of(n * 50, 50)))
            if n in kill_at:
                # in the middle of whatever is on its way
                server.kill()
                server = start_server(port=port)
            elif n % 25 == 0:
                futures[-1].result(60)
        writer.flush(60)
        assert [f.exception() for f in futures] == [None] * len(futures)
    (row,) = server.query("SELECT count(*) n, count(DISTINCT id) ids, min(seq) low, max(seq) high FROM trades")
    assert row == {"n": 6000, "ids": 6000, "low": 1, "high": 6000}
