"""Sorted streams of any cut become one stream: every row once, in order of the keys and then of the streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tickflight.merging import ReplayChunk, merge

Row = tuple[int, int, int]
SCHEMA = pa.schema([("seq", pa.int64()), ("name", pa.string())])


def batches(table: str, rows: list[Row], cuts: list[int]) -> list[pa.RecordBatch]:
    times = [pa.array([r[i] for r in rows], pa.int64()).cast(pa.timestamp("us")) for i in (0, 1)]
    columns = {
        "timestamp": times[0],
        "receipt_timestamp": times[1],
        "seq": pa.array([r[2] for r in rows], pa.int64()),
        "name": pa.array([f"{table}{r[2]}" for r in rows], pa.string()),
    }
    whole = pa.RecordBatch.from_pydict(columns)
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    return [whole.slice(a, b - a) for a, b in zip(edges, [*edges[1:], len(rows)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> dict[str, tuple[list[Row], list[pa.RecordBatch]]]:
    """Return tables with rows in order, cut anywhere; many rows are at one time."""
    made = {}
    for table in draw(st.sampled_from(["a", "ab", "abc"])):
        keys = draw(st.lists(st.tuples(st.integers(-3, 4), st.integers(0, 2)), max_size=30))
        seqs = draw(st.permutations(range(len(keys))))
        rows = sorted((t, r, s) for (t, r), s in zip(keys, seqs, strict=True))
        made[table] = (rows, batches(table, rows, draw(st.lists(st.integers(0, 30), max_size=5))))
    return made


def merged(made: dict[str, tuple[list[Row], list[pa.RecordBatch]]]) -> list[ReplayChunk]:
    return list(merge({t: iter(b) for t, (_, b) in made.items()}, dict.fromkeys(made, SCHEMA)))


@given(streams())
def test_rows_are_in_order_and_each_is_there_once(made: dict[str, tuple[list[Row], list[pa.RecordBatch]]]) -> None:
    wanted = sorted((row, place, table) for place, (table, (rows, _)) in enumerate(made.items()) for row in rows)
    found: list[tuple[str, str]] = []
    for chunk in merged(made):
        assert len(chunk) == sum(b.num_rows for b in chunk.batches.values()) > 0
        assert all(b.schema == SCHEMA for b in chunk.batches.values())
        found += [(table, name) for table, rows in chunk.runs() for name in rows["name"].to_pylist()]
    assert found == [(table, f"{table}{row[2]}") for row, _, table in wanted]
    times = [int(t) for chunk in merged(made) for t in chunk.times]
    assert times == [row[0] for row, _, _ in wanted]


@given(streams(), st.integers(0, 40))
def test_chunk_is_cut_anywhere(made: dict[str, tuple[list[Row], list[pa.RecordBatch]]], at: int) -> None:
    for chunk in merged(made):
        first, rest = chunk.head(min(at, len(chunk)))
        assert names(first) + names(rest) == names(chunk)
        assert np.concatenate([first.times, rest.times]).tolist() == chunk.times.tolist()


def names(chunk: ReplayChunk) -> list[Any]:
    return [name for _, rows in chunk.runs() for name in rows["name"].to_pylist()]


def test_one_batch_of_each_stream_is_held() -> None:
    taken = {"a": 0, "b": 0}

    def some(table: str, step: int) -> Any:
        for n in range(100):
            taken[table] += 1
            yield from batches(table, [(n * step, 0, n)], [])

    chunks = merge({"a": some("a", 1), "b": some("b", 1000)}, dict.fromkeys(taken, SCHEMA))
    for _ in range(50):
        next(chunks)
    assert taken["b"] == 2
    assert taken["a"] <= 52
