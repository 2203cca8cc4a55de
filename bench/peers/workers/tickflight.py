"""tickflight with its defaults: by the Flight SQL driver that Arrow ships, and by its own client where that is asked.

This worker runs in the environment of the benchmarks themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow as pa
import pyarrow.parquet as pq

import tickflight
from bench.peers.workers import harness
from bench.peers.workers.feeding import call_back, trades_of
from bench.servers import server_on
from tickflight_server.feed import TradeTickflight

LOAD_ROWS = 65_536


class Tickflight(harness.Product):
    """A server with its default settings, one connection by each client."""

    version = f"tickflight {tickflight.__version__}"

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._address, _ = self._stack.enter_context(server_on(folder))
        self._client = self._stack.enter_context(tickflight.connect(self._address))
        connection = self._stack.enter_context(flight_sql.connect(self._address, autocommit=True))
        self._cursor = self._stack.enter_context(connection.cursor())

    def load(self, path: Path) -> None:
        self.ingest(pq.read_table(path).combine_chunks().to_batches(max_chunksize=LOAD_ROWS))
        self.settle()

    def ask(self, question: dict[str, Any]) -> pa.Table:
        if question.get("by") == "client":
            return self._client.sql(question["sql"]).arrow()
        self._cursor.execute(question["sql"])
        return self._cursor.fetch_arrow_table()

    def ingest(self, batches: Any) -> None:
        """The client's writer: several batches are on the way at once, each is acknowledged when it is durable."""
        with self._client.writer("trades") as writer:
            for batch in batches:
                writer.write(batch)
            writer.flush()

    def prepare_events(self, rows: pa.Table) -> Sequence[Any]:
        return trades_of(rows)

    def events(self, trades: Sequence[Any]) -> None:
        asyncio.run(self._call_back(trades))

    async def _call_back(self, trades: Sequence[Any]) -> None:
        backend = TradeTickflight(self._address)
        backend.start(asyncio.get_running_loop())
        await call_back(backend, trades)
        await backend.stop()

    def settle(self) -> None:
        """Flush into parts."""
        self._client.flush()

    def close(self) -> None:
        self._stack.close()


if __name__ == "__main__":
    harness.serve(Tickflight)
