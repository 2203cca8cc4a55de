"""PostgreSQL as cryptofeed fills it: the table that cryptofeed names, its backend, and an index for the questions.

Reads go through Arrow's own driver, which fetches by binary COPY; batches go in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as postgresql
import pyarrow as pa
import pyarrow.parquet as pq
from cryptofeed.backends.postgres import TradePostgres

from bench.peers.workers import harness
from bench.peers.workers.feeding import call_back, trades_of

# cryptofeed's columns in its order. Numbers are doubles: with the numerics of its example the driver reads text.
TABLE = """
CREATE TABLE trades (
    key BIGSERIAL, timestamp TIMESTAMP, receipt_timestamp TIMESTAMP, exchange VARCHAR(32), symbol VARCHAR(32),
    side VARCHAR(8), amount DOUBLE PRECISION, price DOUBLE PRECISION, id VARCHAR(64), type VARCHAR(32)
)
"""
INDEX = "CREATE INDEX trades_symbol_timestamp ON trades (symbol, timestamp)"
SETTINGS = ("shared_buffers=2GB", "work_mem=128MB", "maintenance_work_mem=512MB", "max_wal_size=8GB", "fsync=on")
OTHER_USER = "postgres"  # the server refuses to run as root


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs.

    Raises:
        RuntimeError: PostgreSQL's server is not installed.
    """
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(places[-1]) if places else shutil.which(name)
    if found is None:
        raise RuntimeError("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    return found


class Postgres(harness.Product):
    """A new cluster in the folder, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        user: dict[str, Any] = {"cwd": folder}
        if os.getuid() == 0:
            user["user"] = OTHER_USER
            shutil.chown(folder, OTHER_USER)
        data = str(folder / "data")
        options = ["--auth=trust", "--username=bench", "--encoding=UTF8", "--locale=C"]
        subprocess.run([program("initdb"), "--pgdata", data, *options], check=True, stdout=2, **user)
        self._port = harness.free_port()
        settings = [*SETTINGS, "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
        command = [program("postgres"), "-D", data, "-p", str(self._port), *(f"--{setting}" for setting in settings)]
        server = self._stack.enter_context(harness.child(command, **user))
        harness.wait_for_port(self._port, server)
        self._connection = self._stack.enter_context(self._connect())
        self._cursor = self._stack.enter_context(self._connection.cursor())
        self._cursor.execute("SELECT current_setting('server_version')")
        self.version = f"PostgreSQL {str(self._cursor.fetchone()[0]).split()[0]}"

    def _connect(self) -> Any:
        for _ in range(50):  # it listens before it is ready
            with contextlib.suppress(postgresql.Error):
                return postgresql.connect(f"postgresql://bench@127.0.0.1:{self._port}/postgres", autocommit=True)
            time.sleep(0.1)
        raise RuntimeError("PostgreSQL takes no connections")

    def load(self, path: Path) -> None:
        self._cursor.execute(TABLE)
        self._cursor.adbc_ingest("trades", harness.plain(pq.read_table(path)), mode="append")
        self._cursor.execute(INDEX)
        self._cursor.execute("VACUUM ANALYZE trades")
        self.settle()

    def ask(self, question: dict[str, Any]) -> pa.Table:
        self._cursor.execute(question["sql"])
        return self._cursor.fetch_arrow_table()

    def prepare(self, batches: list[pa.RecordBatch]) -> list[pa.Table]:
        return [harness.plain(pa.table(batch)) for batch in batches]

    def ingest(self, batches: Any) -> None:
        """One COPY a batch, each a transaction with a synced commit."""
        for batch in batches:
            self._cursor.adbc_ingest("trades", batch, mode="append")

    def prepare_events(self, rows: pa.Table) -> Sequence[Any]:
        return trades_of(rows)

    def events(self, trades: Sequence[Any]) -> None:
        asyncio.run(self._call_back(trades))

    async def _call_back(self, trades: Sequence[Any]) -> None:
        backend = TradePostgres(host="127.0.0.1", port=self._port, user="bench", db="postgres")
        backend.start(asyncio.get_running_loop())
        await call_back(backend, trades)
        await backend.queue.join()  # stop() alone leaves what is queued
        await backend.stop()
        await backend.worker
        await backend.conn.close()

    def settle(self) -> None:
        self._cursor.execute("CHECKPOINT")

    def close(self) -> None:
        self._stack.close()


if __name__ == "__main__":
    harness.serve(Postgres)
