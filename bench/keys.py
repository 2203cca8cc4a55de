"""The check for duplicates: time a row of ``KeyIndex.fresh``, which is spent under the store's append lock.

The time is the processor's, of all threads: others on the machine disturb it less. Parts alone are
read by more than one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.figures import Figure, figure
from tickflight_server.metrics import Metrics
from tickflight_server.store.keys import KeyIndex, key_metadata

RUNS = 5
DAY = 19_700
DAY_US = 86_400_000_000
MIB = 1 << 20
FIRST_ID = 4_000_000_000


def run() -> Iterator[Figure]:
    """Measure everything; about two minutes."""
    yield from rising()
    yield from uuids()
    yield from sent_again()
    yield from backfill()


@dataclass
class Partition:
    """An index over parts of one folder; ``seq`` is the next row's."""

    parts: list[Path] = field(default_factory=list)
    seq: int = 1
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.index = self.reopened()

    def reopened(self) -> KeyIndex:
        """Return a new index, as after a start."""
        self.index = KeyIndex(["id"], lambda *_: self.parts, bytes_max=256 * MIB, metrics=self.metrics)
        return self.index

    def put(self, batches: Iterable[pa.RecordBatch], release_rows: int = 2_000_000) -> tuple[float, int]:
        """Check batches, with a release each ``release_rows``; return seconds and rows that were new."""
        seconds, fresh_rows, released = 0.0, 0, self.seq
        for batch in batches:
            started = time.process_time()
            mask = self.index.fresh(batch, self.seq)
            new = batch.num_rows if mask is None else int(mask.sum())
            self.seq += new
            if self.seq - released >= release_rows:
                released = self.seq
                self.index.release(self.seq - 1)
            seconds += time.process_time() - started
            fresh_rows += new
        return seconds, fresh_rows

    def write_part(self, batch: pa.RecordBatch, folder: Path) -> None:
        """Write rows as a part."""
        rows = pa.Table.from_batches([batch]).append_column("seq", [np.arange(self.seq, self.seq + batch.num_rows)])
        path = folder / f"{self.seq}.parquet"
        self.seq += batch.num_rows
        pq.write_table(rows.replace_schema_metadata(key_metadata(rows, ["id"])), path, compression="zstd")
        self.parts.append(path)


def trades(ids: Sequence[str] | pa.Array, symbols: int = 1, seed: int = 0) -> pa.RecordBatch:
    """Return what the check looks at of trades."""
    rows = len(ids)
    which = np.random.default_rng(seed).integers(0, symbols, rows).astype(np.int32)
    names = pa.array([f"SYM{i}-USDT" for i in range(symbols)])
    return pa.record_batch(
        {
            "exchange": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["BINANCE"])),
            "symbol": pa.DictionaryArray.from_arrays(which, names),
            "id": pa.array(ids, pa.string()),
            "timestamp": pa.array(DAY * DAY_US + np.arange(rows), pa.timestamp("us")),
        }
    )


def numbers(first: int, rows: int) -> pa.Array:
    """Return ids that count up."""
    return pa.array(np.arange(first, first + rows)).cast(pa.string())


def _batches(total: int, rows: int, symbols: int, first: int = FIRST_ID) -> list[pa.RecordBatch]:
    return [trades(numbers(first + i, rows), symbols, seed=i) for i in range(0, total, rows)]


def rising() -> Iterator[Figure]:
    """Integers that count up: nothing but the greatest of each symbol is looked at."""
    for rows in (1_024, 65_536):
        for symbols in (1, 500):
            total = (1_000_000 if rows < 10_000 else 4_000_000) // rows * rows
            batches = _batches(total, rows, symbols)
            runs = []
            for _ in range(RUNS):
                seconds, new = Partition().put(batches)
                assert new == total
                runs.append(seconds / total * 1e9)
            conditions = f"{total} rows, batches of {rows}, {symbols} symbol(s)"
            yield figure(
                "keys", f"rising integers, {symbols} symbols, batches of {rows}", runs, "ns of CPU/row", conditions
            )


def uuids() -> Iterator[Figure]:
    """Random ids: every row is asked of the set of the day, up to 10 million."""
    for rows, symbols in ((65_536, 1), (65_536, 500), (1_024, 500)):
        target = Partition()
        times, total = [], 10_000_000
        chance = np.random.default_rng(7)
        count = 1_000_000 // rows * rows
        while target.seq <= total:
            batches = [trades(random_ids(chance, rows), symbols, seed=i) for i in range(count // rows)]
            seconds, new = target.put(batches)
            assert new == count
            times.append(seconds / count * 1e9)
        conditions = f"to 10 million rows a day, batches of {rows}, {symbols} symbols; each run a million rows further"
        conditions += f"; {target.index.nbytes / MIB:.0f} MiB at the end, dropped {_count(target, 'dedup_drops')} times"
        yield figure("keys", f"uuid, {symbols} symbols, batches of {rows}", times, "ns of CPU/row", conditions)


def random_ids(chance: np.random.Generator, rows: int) -> pa.Array:
    """Return ids that look like UUIDs."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = digits[chance.integers(0, 16, (rows, 36), np.uint8)]
    text[:, [8, 13, 18, 23]] = ord("-")
    ends = np.arange(0, 36 * rows + 1, 36, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(text.tobytes()))


def _count(target: Partition, name: str) -> int:
    return int(target.metrics.read().get(name, 0))


def sent_again() -> Iterator[Figure]:
    """Integers that are sent a second time, as after a reconnect; still in memory, or in parts."""
    total = 1_048_576
    for rows, symbols in ((65_536, 1), (65_536, 500), (1_024, 500)):
        batches = _batches(total, rows, symbols)
        runs = []
        for _ in range(RUNS):
            target = Partition()
            target.put(batches)
            seconds, new = target.put(batches)
            assert new == 0
            runs.append(seconds / total * 1e9)
        conditions = f"{total} rows, batches of {rows}, {symbols} symbols, all of them in memory"
        yield figure("keys", f"integers again, {symbols} symbols, batches of {rows}", runs, "ns of CPU/row", conditions)
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        target = Partition()
        batches = _batches(total, 65_536, 1)
        for batch in batches:
            target.write_part(batch, Path(name))
        runs = []
        for _ in range(RUNS):
            target.reopened()
            seconds, new = target.put(batches)
            assert new == 0
            runs.append(seconds / total * 1e9)
        conditions = f"{total} rows, batches of 65536, 1 symbol, after a start: all of them in {len(batches)} parts"
        yield figure("keys", "integers again, from parts", runs, "ns of CPU/row", conditions)


def backfill() -> Iterator[Figure]:
    """A million older rows into a partition with a million others, ids in turn."""
    total = 1_000_000
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        for kind, others, late in (
            ("integers", numbers(0, 2 * total).take(pa.array(np.arange(0, 2 * total, 2))), None),
            (
                "uuid",
                random_ids(np.random.default_rng(1), total),
                random_ids(np.random.default_rng(2), total),
            ),
        ):
            ids = numbers(0, 2 * total).take(pa.array(np.arange(1, 2 * total, 2))) if late is None else late
            target = Partition()
            for start in range(0, total, total // 10):
                target.write_part(trades(others.slice(start, total // 10)), Path(name))
            batches = [trades(ids.slice(start, 65_536)) for start in range(0, total, 65_536)]
            first, runs, seq = [], [], target.seq
            for _ in range(RUNS):
                target.reopened()
                target.seq = seq
                seconds, new = target.put(batches[:1])
                first.append(seconds * 1e3)
                more, rest = target.put(batches[1:])
                assert new + rest == total
                runs.append((seconds + more) / total * 1e9)
            conditions = f"{total} rows into {total} others in 10 parts, batches of 65536, 1 symbol, after a start"
            yield figure("keys", f"backfill, {kind}", runs, "ns of CPU/row", conditions)
            yield figure("keys", f"backfill, {kind}, first batch", first, "ms", conditions)
