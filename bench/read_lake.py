"""Scans of rows in parts: by ADBC, beside DuckDB in one process with the same files, which has no network in between.

The rule of this file: both sides read the same files, from the system's page cache, to record batches of Arrow.
What ADBC gets of batches that lie in memory, with nothing to read, is the limit of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench.figures import Aim, Figure, figure
from bench.processes import serving
from bench.scans import MARKET_WORDS, Reading, in_turns, rates, serve_bare, server_with_parts

ROWS = int(os.environ.get("TICKFLIGHT_BENCH_LAKE_ROWS", "50000000"))
BARE_ROWS = min(ROWS, 10_000_000)
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
            with serving(serve_bare, address, f"{sql} LIMIT {BARE_ROWS}", False, 1) as (bare, _):
                reads = {
                    "ADBC": reading.by_adbc(address, sql),
                    "duckdb": reading.by_duckdb(files, columns),
                    "bare": Reading(BARE_ROWS).by_adbc(bare, sql),
                }
                if columns == "*":
                    reads["ADBC, names as dictionaries"] = reading.by_adbc(address, sql, dictionaries=True)
                found = in_turns(reads, RUNS)
            rate = {key: rates(BARE_ROWS if key == "bare" else ROWS, seconds) for key, seconds in found.items()}
            duck, limit = rate.pop("duckdb"), rate.pop("bare")
            for how, ours in rate.items():
                yield figure(
                    *("read_lake", f"{name}, {how}", ours, "M rows/s", conditions),
                    beside=duck,
                    ratio_to="DuckDB in one process, to Arrow batches",
                    aim=AIM,
                )
            yield figure("read_lake", f"{name}, DuckDB in one process", duck, "M rows/s", conditions)
            yield figure(
                *("read_lake", f"{name}, ADBC, beside bare Flight", rate["ADBC"], "M rows/s", conditions),
                beside=limit,
                ratio_to="bare Flight SQL with such batches in memory, read by ADBC",
            )
            yield figure(
                *("read_lake", f"{name}, bare Flight read by ADBC, the limit", limit, "M rows/s", conditions),
                beside=duck,
                ratio_to="DuckDB in one process, to Arrow batches",
            )
