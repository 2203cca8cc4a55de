"""Scans of rows in parts: by ADBC, beside DuckDB in one process with the same files, which has no network in between.

The rule of this file: both sides read the same files, from the system's page cache, to record batches of Arrow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench.figures import Aim, Figure, figure
from bench.scans import MARKET_WORDS, Reading, in_turns, rates, server_with_parts

ROWS = int(os.environ.get("TICKFLIGHT_BENCH_LAKE_ROWS", "50000000"))
DAYS = 5
RUNS = 5
COLUMNS = {"full scan": "*", "two columns": "timestamp, price"}
AIM = Aim(">=", 0.85)


def run() -> Iterator[Figure]:
    """Make the parts, and measure both in turns; about two minutes."""
    reading = Reading(ROWS)
    with server_with_parts(ROWS, DAYS) as (address, folder):
        files = sorted((folder / "trades").rglob("*.parquet"))
        size = sum(path.stat().st_size for path in files)
        conditions = (
            f"{ROWS} trades, {MARKET_WORDS}, in {len(files)} parts of {size / 1e6:.0f} MB together, all in the page "
            "cache; server and client share the cores, DuckDB has them alone"
        )
        for name, columns in COLUMNS.items():
            sql = f"SELECT {columns} FROM trades"
            reads = {"ADBC": reading.by_adbc(address, sql), "duckdb": reading.by_duckdb(files, columns)}
            if columns == "*":
                reads["ADBC, names as dictionaries"] = reading.by_adbc(address, sql, dictionaries=True)
            rate = {key: rates(ROWS, seconds) for key, seconds in in_turns(reads, RUNS).items()}
            duck = rate.pop("duckdb")
            for how, ours in rate.items():
                yield figure(
                    *("read_lake", f"{name}, {how}", ours, "M rows/s", conditions),
                    beside=duck,
                    ratio_to="DuckDB in one process, to Arrow batches",
                    aim=AIM,
                )
            yield figure("read_lake", f"{name}, DuckDB in one process", duck, "M rows/s", conditions)
