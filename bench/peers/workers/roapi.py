"""ROAPI: a Parquet file in memory, over Flight SQL, by the driver that Arrow ships."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow as pa
import pyarrow.parquet as pq

from bench.peers.workers import harness


class Roapi(harness.Product):
    """The server is started by ``load``: a table must be there when it starts."""

    version = f"ROAPI {importlib.metadata.version('roapi')}"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._cursor: Any = None

    def load(self, path: Path) -> None:
        # with dictionaries its results have another schema than it announces, which Arrow's driver refuses
        plain = self._folder / "trades.parquet"
        pq.write_table(harness.plain(pq.read_table(path)), plain)
        ports = {name: harness.free_port() for name in ("http", "flight_sql")}
        configuration = self._folder / "roapi.yml"
        table = {"name": "trades", "uri": str(plain), "option": {"format": "parquet", "use_memory_table": True}}
        configuration.write_text(json.dumps({"tables": [table]}))  # JSON is YAML
        addresses = [
            *("--addr-http", f"127.0.0.1:{ports['http']}"),
            *("--addr-flight-sql", f"127.0.0.1:{ports['flight_sql']}"),
        ]
        program = Path(sys.executable).parent / "roapi"
        command = [str(program), "--config", str(configuration), *addresses]
        quiet = {**os.environ, "RUST_LOG": "warn"}
        server = self._stack.enter_context(harness.child(command, env=quiet))
        harness.wait_for_port(ports["flight_sql"], server)
        connection = self._stack.enter_context(
            flight_sql.connect(f"grpc://127.0.0.1:{ports['flight_sql']}", autocommit=True)
        )
        self._cursor = self._stack.enter_context(connection.cursor())

    def ask(self, question: dict[str, Any]) -> pa.Table:
        self._cursor.execute(question["sql"])
        return self._cursor.fetch_arrow_table()

    def ingest(self, batches: Any) -> None:
        raise harness.CannotError("its tables are files that somebody else writes")

    def close(self) -> None:
        self._stack.close()


if __name__ == "__main__":
    harness.serve(Roapi)
