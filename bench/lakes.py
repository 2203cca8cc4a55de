"""Stores that are too long in the making for a benchmark: of many parts, of a long log.

The rule of this file: what is made opens in a real server, which finds nothing wrong with it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from bench.markets import symbols
from bench.rising import RisingTrades
from tickflight_server.config import LakehouseSettings
from tickflight_server.paths import Layout
from tickflight_server.schemas import STORED
from tickflight_server.store import Store
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.identity import load_writer
from tickflight_server.store.partition import DAY_US, Part, PartitionKey, PartOptions, PartWriter

SYMBOLS = 200
PART_ROWS = 50


def many_parts(folder: Path, count: int = 100_000) -> None:
    """Make a store at ``folder`` whose table ``trades`` has ``count`` parts, one a symbol and day, up to yesterday.

    What the catalog says of the parts of the newest day is true. Those of earlier days are further names of the same
    files: the catalog says that they are of their day, and they are only to be left out of what is read.
    """
    Store(LakehouseSettings(storage_path=folder), background=False).close()  # its folders and its identity
    layout, schema = Layout(folder.absolute()), STORED["trades"]
    place = layout.table("trades")
    names = symbols(SYMBOLS)
    today = time.time_ns() // 1000 // DAY_US
    templates = _newest_day(place, names, today - 1, count)
    parts = []
    for number in range(count):
        back, which = divmod(count - 1 - number, SYMBOLS)
        newest = templates[which]
        if back == 0:
            parts.append(newest)
            continue
        key = PartitionKey("BINANCE", names[which], today - 1 - back)
        seq = number * PART_ROWS + 1
        checksum = newest.path.rpartition("-")[2]
        path = f"{key.folder}/{seq:019d}-{seq + PART_ROWS - 1:019d}-{checksum}"
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(place / newest.path, target)
        earlier = back * DAY_US
        bounds = (newest.min_us - earlier, newest.max_us - earlier, seq, seq + PART_ROWS - 1)
        parts.append(Part(path, key, PART_ROWS, newest.nbytes, *bounds))
    catalog = TableCatalog(place, schema, load_writer(layout), "float64")
    catalog.load()
    catalog.commit(parts, count * PART_ROWS, {})
    DeltaTable(str(place)).create_checkpoint()  # a store that came here by flushes has one of late


def _newest_day(place: Path, names: list[str], day: int, count: int) -> list[Part]:
    """Write the parts of ``day``, one a symbol, with the last numbers of all; the heaviest symbol's comes last."""
    schema = STORED["trades"].arrow("float64")
    options = PartOptions("zstd", 131_072, ("id",))
    chance = np.random.default_rng(1)
    written = []
    with PartWriter(place, schema, options) as writer:
        for which, name in enumerate(names[:count]):
            first = (count - 1 - which) * PART_ROWS + 1
            seq = np.arange(first, first + PART_ROWS)
            times = pa.array(day * DAY_US + np.sort(chance.integers(0, DAY_US, PART_ROWS)), pa.timestamp("us"))
            rows = pa.table(
                {
                    "exchange": pa.repeat("BINANCE", PART_ROWS),
                    "symbol": pa.repeat(name, PART_ROWS),
                    "side": pa.array(np.where(chance.random(PART_ROWS) < 0.5, "buy", "sell")),
                    "amount": chance.integers(1, 10_000, PART_ROWS) / 1e4,
                    "price": 100 + np.cumsum(chance.integers(-3, 4, PART_ROWS)) / 100,
                    "id": pa.array(seq).cast(pa.string()),
                    "type": pa.nulls(PART_ROWS, pa.string()),
                    "timestamp": times,
                    "receipt_timestamp": times,
                    "seq": seq,
                },
                schema=schema,
            )
            written.append(writer.write(PartitionKey("BINANCE", name, day), rows, first, first + PART_ROWS - 1))
    return written


def long_log(folder: Path, mb: int) -> None:
    """Make a store at ``folder`` with at least ``mb`` MiB of log, that nothing was flushed from."""
    roomy = {"ring_mb": 65_536, "buffer_size_mb": 65_536, "wal_mb": 65_536, "flush_interval_seconds": 1e9}
    source = RisingTrades()
    with contextlib.closing(_Unflushed(LakehouseSettings.model_validate({"storage_path": folder} | roomy))) as store:
        while store.log.size_bytes < mb << 20:
            store.append("trades", source.next()).result()


class _Unflushed(Store):
    def close(self, *, flush: bool = False) -> None:
        super().close(flush=flush)
