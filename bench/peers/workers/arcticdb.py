"""ArcticDB over LMDB: a library in this process, no server and no SQL.

It stores one series a name. Two layouts are kept, and each question asks the one that suits it: all trades under one
name, and each market under its own, as its users keep them. Rows are appended to the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arcticdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from arcticdb import OutputFormat, QueryBuilder

from bench.peers.workers import harness

ALL = "trades"


class ArcticDB(harness.Product):
    """Answers come as Arrow, which it makes several times faster than data frames."""

    version = f"ArcticDB {arcticdb.__version__}"

    def __init__(self, folder: Path) -> None:
        self._library = arcticdb.Arctic(f"lmdb://{folder}/store").create_library("market")

    def load(self, path: Path) -> None:
        rows = harness.plain(pq.read_table(path))
        self._library.write(ALL, _frame(rows))
        for name in pc.unique(rows["symbol"]).to_pylist():
            self._library.write(name, _frame(rows.filter(pc.equal(rows["symbol"], name))))

    def ask(self, question: dict[str, Any]) -> pa.Table:
        match question["what"]:
            case "read":
                return self._read(ALL, columns=question["columns"])
            case "vwap":
                build = QueryBuilder()
                query = build.apply("notional", build["price"] * build["amount"])
                sums = {"notional": "sum", "volume": ("amount", "sum"), "trades": ("price", "count")}
                table = self._read(question["symbol"], query_builder=query.resample("1min").agg(sums))
                table = table.filter(pc.greater(table["trades"], 0))
                table = table.append_column("vwap", pc.divide(table["notional"], table["volume"]))
                return table.select(["timestamp", "vwap", "volume", "trades"])
            case "totals":
                sums = {"trades": ("price", "count"), "volume": ("amount", "sum")}
                ends = {"low": ("price", "min"), "high": ("price", "max")}
                return self._read(ALL, query_builder=QueryBuilder().groupby("symbol").agg({**sums, **ends}))
            case "recent":
                since = pd.Timestamp(question["since_us"], unit="us")
                return self._read(question["symbol"], date_range=(since, None), columns=["price", "amount"])
            case "count":
                return pa.table({"trades": [self._library.get_description(ALL).row_count]})
        raise harness.CannotError("it has no SQL")

    def _read(self, name: str, **options: Any) -> pa.Table:
        return self._library.read(name, output_format=OutputFormat.PYARROW, **options).data

    def prepare(self, batches: list[pa.RecordBatch]) -> list[pd.DataFrame]:
        return [_frame(harness.plain(pa.table(batch))) for batch in batches]

    def ingest(self, batches: Any) -> None:
        """One append a batch, each a version of its own, which LMDB syncs."""
        for batch in batches:
            self._library.append(ALL, batch)


def _frame(rows: pa.Table) -> pd.DataFrame:
    return rows.to_pandas().set_index("timestamp")


if __name__ == "__main__":
    harness.serve(ArcticDB)
