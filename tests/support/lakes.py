"""Data folders with something in every place where rows can be, for damaging them; a price tells a row by its seq."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from tickflight_server.config import LakehouseSettings
from tickflight_server.store import Store

ROWS = {"trades": 700, "ticker": 60}  # of make_lake
_COLUMN = {"trades": "price", "ticker": "bid"}
_TORN_MAX = 60  # rows in the last few records, whose damage looks like a write that never ended


def make_lake(settings: LakehouseSettings, trades: Any) -> None:
    """Make a folder with log files and parts of several flushes, one of them of some partitions only.

    Of trades, rows 1 to 300 are in parts, and those up to 200 not in the log any more; of 301 to 400 those of one
    symbol or two are in parts; 401 to 700 are in the log alone. Of ticker, all but the first ten are in the log alone.
    """
    counts = dict.fromkeys(ROWS, 0)

    def append(store: Store, batches: int) -> None:
        for _ in range(batches):
            start = counts["trades"]
            batch = trades(20, start, symbols=("A", "B", "C"))
            store.append("trades", batch, producer=b"p", sequence=start // 20 + 1).result(20)
            counts["trades"] += 20
        quotes = trades(10, counts["ticker"]).select(["exchange", "symbol", "timestamp"])
        prices = pa.array([float(n) for n in range(counts["ticker"], counts["ticker"] + 10)])
        store.append("ticker", quotes.append_column("bid", prices)).result(20)
        counts["ticker"] += 10

    with Store(settings) as store:
        append(store, 5)
        store.flush()
        append(store, 5)
    store = Store(settings)
    append(store, 5)
    store.flush()
    for start in range(300, 400, 20):
        batch = trades(20, start, symbols=("A", "B", "C"))
        store.append("trades", batch, producer=b"p", sequence=start // 20 + 1).result(20)
    counts["trades"] = 400
    store.tables["trades"].flush("memory", keep_bytes=4_000)
    append(store, 2)
    store.close(flush=False)
    for batches in (6, 7):
        store = Store(settings)
        append(store, batches)
        store.close(flush=False)
    assert counts == ROWS


def log_files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "_tickflight" / "log").glob("*.log") if p.stat().st_size > 40)


def parts(folder: Path, table: str = "trades") -> list[Path]:
    return sorted(p for p in (folder / table).rglob("*.parquet") if "_delta_log" not in p.parts)


def versions(folder: Path, table: str = "trades") -> list[Path]:
    return sorted((folder / table / "_delta_log").glob("*.json"))


def flip(path: Path, offset: int, bits: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= bits
    path.write_bytes(data)


def flip_some(paths: list[Path], seed: int, number: int) -> list[tuple[str, int]]:
    """Flip a bit at each of ``number`` places in these files; return where."""
    chance = random.Random(seed)
    where = []
    for _ in range(number):
        path = chance.choice(paths)
        offset = chance.randrange(path.stat().st_size)
        flip(path, offset, 1 << chance.randrange(8))
        where.append((path.name, offset))
    return where


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files, but for the lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((folder / "_tickflight" / "damaged").glob("*/report.json"))]


def told_lost(folder: Path, table: str = "trades") -> set[int]:
    """Return the rows that the reports of repairs name as lost."""
    holes = [h for r in reports(folder) for h in r["tables"].get(table, {}).get("holes", [])]
    return {seq for first, last in holes for seq in range(first, last + 1)}


def check_rows(settings: LakehouseSettings, rows_of: Any, *, torn: bool = False) -> dict[str, set[int]]:
    """See that the folder opens with each row once, but for those that the reports name; return these.

    With ``torn``, the newest rows may be gone too: their records look like ones that were never acknowledged.
    """
    lost: dict[str, set[int]] = {}
    with Store(settings) as store:
        for table, rows in ROWS.items():
            found = rows_of(store, table, _COLUMN[table])
            assert [seq for seq, _ in found] == sorted({seq for seq, _ in found}), "a row is there twice"
            assert all(price == seq - 1 for seq, price in found)
            gone = set(range(1, rows + 1)) - {seq for seq, _ in found}
            told = told_lost(settings.storage_path, table)
            if torn:
                newest = max(seq for seq, _ in found)
                gone -= {seq for seq in gone - told if seq > max(newest, rows - _TORN_MAX)}
            assert gone == told & set(range(1, rows + 1))
            lost[table] = gone
    return lost


def check_goes_on(settings: LakehouseSettings, rows_of: Any, trades: Any) -> None:
    """See that the folder takes rows, and gives none a ``seq`` that another one has or had."""
    told = told_lost(settings.storage_path)
    with Store(settings) as store:
        before = {seq for seq, _ in rows_of(store)}
        ack = store.append("trades", trades(10, 5_000)).result(20)
        assert not (before | told) & set(range(ack.first_seq, ack.first_seq + 10))
        assert ack.first_seq == max(before | told) + 1
    with Store(settings) as store:
        assert {seq for seq, _ in rows_of(store)} == before | set(range(ack.first_seq, ack.first_seq + 10))
