"""DuckDB behind its Quack protocol: a DuckDB that serves its database file, and one that asks it over HTTP.

Questions are sent whole, by ``remote.query``: the serving side does the work. ``quack.py PORT FILE`` is the server.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from bench.peers.workers import harness

TOKEN = "benchmark"


def open_database(name: str) -> Any:
    """Open a database with the extensions that come as packages; nothing is downloaded."""
    connection: Any = duckdb.connect(name)
    for extension in ("httpfs", "quack"):
        files = importlib.resources.files(f"duckdb_extension_{extension}")
        path = files / "extensions" / f"v{duckdb.__version__}" / f"{extension}.duckdb_extension"
        connection.execute(f"LOAD '{path}'")
    return connection


def serve_database(port: str, name: str) -> None:
    """Serve the database of file ``name`` until standard input ends."""
    connection = open_database(name)
    connection.execute(f"CALL quack_serve('quack:localhost:{port}', token = '{TOKEN}')")
    sys.stdin.read()


class Quack(harness.Product):
    """A serving process and this one, which is its client."""

    version = f"DuckDB {duckdb.__version__}"

    def __init__(self, folder: Path) -> None:
        port = harness.free_port()
        self._server = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(port), str(folder / "trades.duckdb")],
            stdin=subprocess.PIPE,
            stdout=2,
        )
        harness.wait_for_port(port, self._server)
        self._client = open_database(":memory:")
        self._client.execute(f"CREATE SECRET (TYPE quack, TOKEN '{TOKEN}')")
        self._attach = f"ATTACH OR REPLACE 'quack:localhost:{port}' AS remote"
        self._client.execute(self._attach)

    def load(self, path: Path) -> None:
        """The serving side reads the file itself."""
        self._remote(f"CREATE TABLE trades AS FROM read_parquet('{path}')")
        self._remote("CHECKPOINT")
        self._client.execute(self._attach)  # the client keeps the list of tables that it met first

    def ask(self, question: dict[str, Any]) -> pa.Table:
        if question["what"] == "read":  # planned once more than execute(), but large results come in parallel
            return self._client.sql(_remote(question["sql"])).to_arrow_table()
        return self._remote(question["sql"])

    def _remote(self, sql: str) -> pa.Table:
        return self._client.execute(_remote(sql)).to_arrow_table()

    def prepare(self, batches: list[pa.RecordBatch]) -> list[pa.Table]:
        return [pa.table(batch) for batch in batches]

    def ingest(self, batches: Any) -> None:
        """One INSERT a batch, each a transaction that the serving side commits to its synced log."""
        for batch in batches:
            self._client.register("batch", batch)
            self._client.execute("INSERT INTO remote.trades FROM batch")

    def settle(self) -> None:
        self._remote("CHECKPOINT")

    def close(self) -> None:
        assert self._server.stdin is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.stdin.close()
            self._server.wait(20)
        self._server.kill()


def _remote(sql: str) -> str:
    quoted = sql.replace("'", "''")
    return f"FROM remote.query('{quoted}')"


if __name__ == "__main__":
    if len(sys.argv) == 3:
        serve_database(*sys.argv[1:])
    else:
        harness.serve(Quack)
