"""Which partitions a flush writes: all when they are few or when it must be all, else the large and the old ones.

The rule of this file: a part a minute for each of thousands of partitions is millions of files a day; so small
partitions stay in log and memory until they are worth a file, and nothing waits longer than its age limit. A look at
what waits costs as much as the rows that came since the last one, however many wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from tickflight_server.store.parts import Ints, PartIndex
from tickflight_server.store.row_keys import RowKeys, join

Reason = Literal["all", "interval", "memory", "buffer"]
"""Why rows are flushed; ``buffer`` is for memory, but all rows go where their partitions are few."""
_CHUNKS_MIN = 16
_CHUNK_ROWS_MAX = 131_072  # is large


@dataclass(frozen=True)
class FlushPolicy:
    """See ``LakehouseSettings`` for the meanings: ``flush_files_max``, ``flush_partition_mb`` and ``_seconds``."""

    files_max: int = 64
    partition_bytes: int = 8 << 20
    partition_seconds: float = 14_400.0


@dataclass(frozen=True)
class _Chunk:
    batch: pa.RecordBatch
    keys: RowKeys
    nbytes: int
    first_seq: int


def _chunk(batch: pa.RecordBatch, keys: RowKeys) -> _Chunk:
    return _Chunk(batch, keys, batch.nbytes, int(batch.column("seq").to_numpy().min()))


@dataclass(frozen=True)
class _Partition:
    rows: int
    since_s: float


class Waiting:
    """Rows of one table that are in no part, by partition. It never changes; a flush makes a new one.

    Args:
        schema: the table's in memory.
    """

    def __init__(
        self, schema: pa.Schema, chunks: Sequence[_Chunk] = (), partitions: dict[int, _Partition] | None = None
    ):
        self._schema = schema
        self._chunks = tuple(chunks)
        self._partitions = partitions or {}
        self.rows: int = sum(c.batch.num_rows for c in chunks)
        self.nbytes: int = sum(c.nbytes for c in chunks)

    @property
    def first_seq(self) -> int | None:
        """The lowest ``seq`` of all rows, None if there is none."""
        return min((c.first_seq for c in self._chunks), default=None)

    @property
    def table(self) -> pa.Table:
        """All rows, in no order."""
        return pa.Table.from_batches([c.batch for c in self._chunks], schema=self._schema)

    def added(self, batches: Sequence[pa.RecordBatch], index: PartIndex, now_s: float) -> Waiting:
        """Return these and the rows of ``batches``, which wait since ``now_s``, monotonic seconds."""
        chunks = [_chunk(b, index.batch_keys(b)) for b in batches if b.num_rows]
        partitions = dict(self._partitions)
        for chunk in chunks:
            for key, rows in chunk.keys.counts():
                known = partitions.get(key)
                since = known.since_s if known else now_s
                partitions[key] = _Partition(rows + (known.rows if known else 0), since)
        merged = [*self._chunks, *chunks]
        # each large or at least twice the next one: few chunks, and a row is copied a few times however many come
        while len(merged) > _CHUNKS_MIN and _mergeable(merged[-2].batch.num_rows, merged[-1].batch.num_rows):
            merged[-2:] = [_merge(merged[-2:], self._schema)]
        return Waiting(self._schema, merged, partitions)

    def choose(self, policy: FlushPolicy, reason: Reason, now_s: float, keep_bytes: int) -> Ints:
        """Return the keys of the partitions to flush now; for ``memory``, the largest until ``keep_bytes`` stay."""
        keys = np.fromiter(self._partitions, dtype=np.int64, count=len(self._partitions))
        if reason == "all" or (reason in ("interval", "buffer") and len(keys) <= policy.files_max):
            return keys
        width = self.nbytes / max(1, self.rows)
        sizes = width * np.array([p.rows for p in self._partitions.values()], dtype=np.float64)
        since = np.array([p.since_s for p in self._partitions.values()], dtype=np.float64)
        chosen = (sizes >= policy.partition_bytes) | (now_s - since >= policy.partition_seconds)
        if reason in ("memory", "buffer"):
            order = np.argsort(-sizes, kind="stable")
            stays = sizes.sum() - np.cumsum(sizes[order])
            chosen[order[: int(np.searchsorted(-stays, -keep_bytes)) + 1]] = True
        return keys[chosen]

    def split(self, keys: Ints) -> tuple[pa.Table, Waiting]:
        """Return the rows of the partitions ``keys``, and all others."""
        if len(keys) == len(self._partitions):
            return self.table, Waiting(self._schema)
        if len(keys) == 0:
            return self._schema.empty_table(), self
        chosen: list[pa.RecordBatch] = []
        rest: list[_Chunk] = []
        for chunk in self._chunks:
            mask = chunk.keys.among(keys)
            if not mask.any():
                rest.append(chunk)
                continue
            chosen.append(chunk.batch.filter(pa.array(mask)))
            if not mask.all():
                rest.append(_chunk(chunk.batch.filter(pa.array(~mask)), chunk.keys.chosen(~mask)))
        gone = set(keys.tolist())
        partitions = {k: p for k, p in self._partitions.items() if k not in gone}
        return pa.Table.from_batches(chosen, schema=self._schema), Waiting(self._schema, rest, partitions)

    def missing(self, index: PartIndex, now_s: float) -> Waiting:
        """Return those rows that are in no part of ``index``."""
        rows = self.table
        kept = rows.filter(pa.array(index.misses(rows), pa.bool_()))
        return Waiting(self._schema).added(kept.combine_chunks().to_batches(), index, now_s)


def _mergeable(rows: int, next_rows: int) -> bool:
    return rows < 2 * next_rows and rows + next_rows <= _CHUNK_ROWS_MAX


def _merge(chunks: Sequence[_Chunk], schema: pa.Schema) -> _Chunk:
    table = pa.Table.from_batches([c.batch for c in chunks], schema=schema)
    (batch,) = table.unify_dictionaries().combine_chunks().to_batches()
    return _chunk(batch, join([c.keys for c in chunks]))
