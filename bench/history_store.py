"""A store with a month of trades, made once and kept: what bench ``history`` reads.

The rule of this file: the parts are those that compaction would leave, by the server's own writer: a symbol and day
each, sorted, with all that it writes into names and footers, in the table's versions. What is kept is of this size,
seed and format of parts, and whole; else it is made anew.

TICKFLIGHT_BENCH_DATA says where it is kept, TICKFLIGHT_HISTORY_ROWS how much there is.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from bench.markets import Market, symbols
from tickflight_server.config import MIB, LakehouseSettings
from tickflight_server.files import make_folder
from tickflight_server.paths import Layout
from tickflight_server.schemas import STORED
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.identity import load_writer
from tickflight_server.store.partition import Part, PartitionKey, PartOptions, PartWriter
from tickflight_server.store.rows import fit

ROWS = int(os.environ.get("TICKFLIGHT_HISTORY_ROWS", "500000000"))
DAYS, SYMBOLS, SEED = 30, 50, 8
FIRST_DAY = 20_600  # since 1970: from 2026-05-27 on
DAY_US = 86_400_000_000
BATCH_ROWS = 500_000
ROW_BYTES = 14  # of a part, about: what a disk must have free
FREE_BYTES = 4 << 30  # and what it must have left
TRADES = STORED["trades"]
EXCHANGE = "BINANCE"


@dataclass(frozen=True)
class History:
    """A kept store: ``folder`` holds ``store``, the data folder of a server; ``made_s`` is 0 if it was there."""

    folder: Path
    rows: int
    nbytes: int
    parts: int
    made_s: float

    def files(self, symbol: str = "*", day: int | None = None) -> list[str]:
        """Return the files of one symbol or all, of one day, counted from 0, or all."""
        when = "*/*/*" if day is None else time.strftime("year=%Y/month=%m/day=%d", _date(day))
        return sorted(map(str, (self.folder / "store" / "trades").glob(f"{when}/*/symbol={symbol}/*.parquet")))


def date(day: int) -> str:
    """Return the date of a day, counted from 0, as SQL writes it."""
    return time.strftime("%Y-%m-%d", _date(day))


def _date(day: int) -> time.struct_time:
    return time.gmtime((FIRST_DAY + day) * 86_400)


def kept() -> History:
    """Return the store, made if it is not there; of fewer rows if the disk has no room for all."""
    home = Path(os.environ.get("TICKFLIGHT_BENCH_DATA") or Path(tempfile.gettempdir()) / "tickflight-bench-data")
    home.mkdir(parents=True, exist_ok=True)
    form = _format()
    folder = home / f"history-{ROWS}-{form}"
    found = _checked(folder)
    if found is not None:
        return found
    for old in home.glob("history-*"):  # of another form or size, or broken off
        shutil.rmtree(old, ignore_errors=True)
    room = (shutil.disk_usage(home).free - FREE_BYTES) // ROW_BYTES
    if room < ROWS // 50:
        raise RuntimeError(f"{home} has no room for a history: set TICKFLIGHT_BENCH_DATA or TICKFLIGHT_HISTORY_ROWS")
    return _make(folder, min(ROWS, room))


def _format() -> str:
    """Return what changes when parts, or the rows in them, are made in another way: the checksum of a small one."""
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        (part, *_) = _make_day(Path(name), 0, 20_000)
    return xxhash.xxh3_64_hexdigest(f"{part.path} {_options()} {DAYS} {SYMBOLS}".encode())


def _options() -> PartOptions:
    settings = LakehouseSettings()
    return PartOptions(settings.compression, settings.row_group_rows, settings.dedup_columns["trades"])


def _checked(folder: Path) -> History | None:
    with suppress(OSError, ValueError):
        made = json.loads((folder / "made.json").read_text())
        table = folder / "store" / "trades"
        if all((table / path).stat().st_size == size for path, size in made["parts"]):
            return History(folder, made["rows"], sum(size for _, size in made["parts"]), len(made["parts"]), 0.0)
    return None


def _make(folder: Path, rows: int) -> History:
    started = time.monotonic()
    print(f"history: making {rows:,} rows in {folder}, once", file=sys.stderr, flush=True)
    layout = Layout(folder / "store")
    make_folder(folder)
    make_folder(layout.root)
    make_folder(layout.internal)
    catalog = TableCatalog(layout.table("trades"), TRADES, load_writer(layout), "float64")
    catalog.load()
    made: list[tuple[str, int]] = []
    work = [(layout.table("trades"), day, rows // DAYS) for day in range(DAYS)]
    with mp.get_context("spawn").Pool(os.cpu_count(), _alone) as pool:
        for day, parts in enumerate(pool.imap(_make_day_of, work)):
            catalog.commit(parts, (day + 1) * (rows // DAYS), {})
            made += [(p.path, p.nbytes) for p in parts]
    total = rows // DAYS * DAYS
    (folder / "made.json").write_text(json.dumps({"rows": total, "parts": made}))
    return History(folder, total, sum(size for _, size in made), len(made), time.monotonic() - started)


def _alone() -> None:
    pa.set_cpu_count(1)  # there is a process for each core


def _make_day_of(work: tuple[Path, int, int]) -> list[Part]:
    return _make_day(*work)


def _make_day(table: Path, day: int, rows: int) -> list[Part]:
    """Write the parts of a day; its rows have the numbers after those of the days before it, in order of time."""
    names = tuple(symbols(SYMBOLS))
    begin = day * rows
    market = Market(names, (EXCHANGE,), seed=SEED + day)
    pieces = market.batches(
        rows, BATCH_ROWS, start_us=(FIRST_DAY + day) * DAY_US, span_us=DAY_US, first_id=10_000_000 + begin
    )
    fitted = [fit(TRADES, piece, "float64", now_us=0).batch for piece in pieces]
    whole = pa.Table.from_batches(fitted).unify_dictionaries().combine_chunks()
    del fitted
    schema = TRADES.arrow("float64", memory=True)
    numbers = pa.array(np.arange(begin + 1, begin + rows + 1))
    whole = whole.append_column("seq", numbers).select(schema.names).cast(schema)
    with PartWriter(table, TRADES.arrow("float64"), _options()) as writer:
        return [
            writer.write(PartitionKey(EXCHANGE, name, FIRST_DAY + day), some, first, last)
            for name, some, first, last in _by_symbol(whole)
        ]


def _by_symbol(whole: pa.Table) -> Iterator[tuple[str, pa.Table, int, int]]:
    """Yield the rows of each symbol, sorted as they came, in pieces of a part's size, with their ``seq``."""
    labels = whole.column("symbol").chunk(0)
    codes = labels.indices.to_numpy().astype(np.int16)
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(len(labels.dictionary) + 1))
    part_rows = LakehouseSettings().compact_target_mb * MIB // ROW_BYTES
    for name, (begin, end) in zip(labels.dictionary.to_pylist(), pairwise(edges.tolist()), strict=True):
        count = -(-(end - begin) // part_rows)
        cuts = [begin + (end - begin) * i // max(1, count) for i in range(count + 1)]
        for low, high in pairwise(cuts):
            places = order[low:high]
            first, last = (int(whole.column("seq")[int(places[i])].as_py()) for i in (0, -1))
            yield name, whole.take(pa.array(places)), first, last
