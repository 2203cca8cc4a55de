"""A model of a table for the store's tests: what rows there must be, and what a state and its files promise of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tickflight_server.store.partition import DAY_US
from tickflight_server.store.snapshot import TableSnapshot, TableState


class Row(NamedTuple):
    """A row of trades, told apart by its price."""

    seq: int
    symbol: str
    day: int
    price: float


def rows_in(batch: pa.RecordBatch | pa.Table) -> list[Row]:
    """Return the rows of a segment's batch or of a part."""
    days = [us // DAY_US for us in batch["timestamp"].cast(pa.int64()).to_pylist()]
    return list(map(Row, batch["seq"].to_pylist(), batch["symbol"].to_pylist(), days, batch["price"].to_pylist()))


def read_part_rows(path: Path) -> list[Row]:
    """Return the rows of a part's file."""
    return rows_in(pq.ParquetFile(path).read(["seq", "symbol", "timestamp", "price"]))


def read_rows(snapshot: TableSnapshot, folder: Path) -> list[Row]:
    """Return every row of a snapshot in order of ``seq``; a row met twice is there twice."""
    found = [row for segment in snapshot.segments for row in rows_in(segment.batch)]
    for path in snapshot.parts.path:
        found += read_part_rows(folder / path)
    return sorted(row for row in found if snapshot.upto is None or row.seq <= snapshot.upto)


@dataclass
class Places:
    """Where a table's rows are: by the parts that list them, and in memory."""

    parts: dict[str, list[Row]]
    held: list[Row]
    ring: list[Row]


def find_rows(state: TableState, folder: Path) -> Places:
    """Read all parts and all memory of a state."""
    return Places(
        {path: read_part_rows(folder / path) for path in state.parts.path},
        [row for s in state.held for row in rows_in(s.batch)],
        [row for s in state.segments for row in rows_in(s.batch)],
    )


def check_state(state: TableState, folder: Path, rows: list[Row]) -> None:
    """See that a state keeps every promise of ``TableState`` and of its parts' names about ``rows``."""
    assert [r.seq for r in rows] == list(range(1, len(rows) + 1))
    places = find_rows(state, folder)
    in_parts = sorted(row for found in places.parts.values() for row in found)
    assert len(set(in_parts)) == len(in_parts), "no row is in two parts"
    assert state.last_seq == len(rows)
    assert state.flushed_seq <= state.target <= state.last_seq
    assert set(rows[: state.flushed_seq]) <= set(in_parts), "rows up to the flushed seq are in parts"
    assert all(row.seq <= state.target for row in in_parts)
    _check_parts(state, places, rows)
    assert places.ring == rows[state.ring_from :], "segments hold exactly the rows above the ring's start"
    read = {
        r
        for p, last in zip(state.parts.path, state.parts.last, strict=True)
        for r in places.parts[p]
        if last <= state.ring_from
    }
    assert sorted(places.held) == [r for r in rows[: state.ring_from] if r not in read], "held rows are all the others"
    left = len(rows[: state.target]) - len(in_parts)
    assert (state.leftover_rows, state.unflushed_rows) == (left, left + len(rows) - state.target)
    _check_bounds(state)


def _check_parts(state: TableState, places: Places, rows: list[Row]) -> None:
    of: defaultdict[tuple[str, int], set[Row]] = defaultdict(set)
    covered: defaultdict[tuple[str, int], int] = defaultdict(int)
    for place, (path, found) in enumerate(places.parts.items()):
        part = state.parts.part(place)
        assert part.path == path
        key = (part.key.symbol, part.key.day)
        assert {row[1:3] for row in found} == {key}
        assert (part.rows, part.min_seq, part.max_seq) == (len(found), min(found).seq, max(found).seq)
        assert (part.last, int(state.parts.last[place])) == (part.last, part.last)
        assert part.max_seq <= part.last
        of[key] |= set(found)
        covered[key] = max(covered[key], part.last)
    for key, last in covered.items():
        whole = {row for row in rows if row[1:3] == key and row.seq <= last}
        assert of[key] == whole, "a partition's parts hold all of its rows up to the last of their names"


def _check_bounds(state: TableState) -> None:
    assert list(state.bounds) == sorted(set(state.bounds))
    edges = [state.ring_from, *(s.last_seq for s in state.segments)]
    assert [s.first_seq - 1 for s in state.segments] == edges[:-1]
    assert all(b in edges or b <= state.ring_from for b in state.bounds), "no segment crosses a bound"
    if state.target > state.ring_from:
        assert state.target in state.bounds
