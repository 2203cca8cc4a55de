"""Live queries over real processes: the server is killed under a client, and a client under the server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from system_processes import wait_for

import tickflight
from tickflight.errors import ResourceExhaustedError

BY_SECOND = """SELECT symbol, time_bucket(INTERVAL 10 MILLISECONDS, timestamp) AS t, count(*) AS n, sum(price) AS s
FROM trades GROUP BY ALL ORDER BY ALL"""
_CLIENT = """
import sys, tickflight
live = tickflight.connect(sys.argv[1]).live(sys.argv[2], every=0.01)
print(len(live.latest), flush=True)
for _ in live:
    pass
"""


def batch_of(first: int, rows: int) -> pa.RecordBatch:
    """Return trades whose prices count up from ``first``, the last ones late."""
    now = time.time_ns() // 1000
    return pa.RecordBatch.from_pydict(
        {
            "exchange": ["X"] * rows,
            "symbol": [f"S{i % 3}" for i in range(rows)],
            "price": np.arange(first, first + rows, dtype=float),
            "amount": np.ones(rows),
            "timestamp": pa.array(np.arange(now, now - 1000 * rows, -1000), pa.timestamp("us")),
        }
    )


def test_a_live_query_goes_on_over_kill_9_and_equals_the_query(start_server: Callable[..., Any]) -> None:
    server = start_server()
    with (
        tickflight.connect(server.address) as client,
        client.writer("trades") as writer,
        client.live(BY_SECOND, every=0.02) as live,
    ):
        assert live.latest.num_rows == 0
        for number in range(60):
            writer.write(batch_of(number * 50, 50)).result(60)
            if number in (15, 40):
                server.kill()
                server = start_server(port=server.port)
            elif number % 20 == 10:
                client.flush()
        wait_for(lambda: sum(live.latest["n"].to_pylist()) == 3000, "all rows are in the live result")
        assert live.latest.equals(client.sql(BY_SECOND).arrow())
        assert live.reconnects >= 1
        assert live.mode == "incremental"


def test_nothing_is_left_of_a_client_that_was_killed(start_server: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "tickflight.yaml"
    config.write_text("query: {streams_max: 1}\n")
    server = start_server("--config", str(config))

    def opened(client: tickflight.Client) -> tickflight.Live | None:
        try:
            return client.live(BY_SECOND)
        except ResourceExhaustedError:
            return None

    with tickflight.connect(server.address) as client, client.writer("trades") as writer:
        writer.write(batch_of(0, 50)).result(60)
        process = subprocess.Popen([sys.executable, "-c", _CLIENT, server.address, BY_SECOND], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert int(process.stdout.readline()) > 0
            assert opened(client) is None
            process.kill()
            process.wait(60)
        wait_for(lambda: opened(client), "the place of the client that was killed is free").close()
