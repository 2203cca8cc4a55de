"""Parts for the store's tests: written as a flush of everything writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from tickflight_server.schemas import STORED
from tickflight_server.store.partition import Part, PartitionKey, PartOptions, PartWriter, partition_rows
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.ring import add_seq
from tickflight_server.store.rows import fit

TRADES = STORED["trades"]
OPTIONS = PartOptions("zstd", 1_024)


def number_rows(batch: pa.RecordBatch, first_seq: int = 1) -> pa.RecordBatch:
    """Return a producer's trades as they are in memory, the first with ``first_seq``."""
    return add_seq(fit(TRADES, batch, "float64", now_us=0).batch, TRADES.arrow(memory=True), first_seq)


def write_parts(folder: Path, batches: Sequence[pa.RecordBatch], options: PartOptions = OPTIONS) -> list[Part]:
    """Write numbered trades to one part a partition, named by the first and last ``seq`` of all of them."""
    rows = partition_rows(pa.Table.from_batches(batches))
    seqs = rows.rows["seq"].to_numpy()
    first, last = int(seqs.min()), int(seqs.max())
    with PartWriter(folder, TRADES.arrow(), options) as writer:
        return [writer.write(key, rows.take(place), first, last) for place, key in enumerate(rows.keys)]


def parts_of(index: PartIndex) -> list[Part]:
    """Return the parts of an index, in its order."""
    return [index.part(place) for place in range(len(index))]


def make_part(low: int, high: int, *, last: int = 0, symbol: str = "A", day: int = 0, nbytes: int = 1) -> Part:
    """Return a part, of no file, with the rows ``low`` to ``high``, which are all of its partition up to ``last``."""
    path = f"{symbol}-{day}/{low:019d}-{last or high:019d}-{low:016x}.parquet"
    key = PartitionKey("X", symbol, day)
    return Part(path, key, high - low + 1, nbytes, day * 86_400_000_000, day * 86_400_000_000, low, high)


def part_paths(folder: Path) -> list[Path]:
    """Return the files of all parts below a table's folder, listed or not."""
    return sorted(p for p in folder.rglob("*.parquet") if "_delta_log" not in p.parts)
