"""A model of a table for the store's tests: what rows there must be, and what a state and its files promise of them."""

from __future__ import annotations

from collections import defaultdict
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


_known: dict[tuple[Path, int, int], list[Row]] = {}


def read_part_rows(path: Path) -> list[Row]:
    """Return the rows of a part's file; a file that has not changed is read once."""
    status = path.stat()
    key = (path, status.st_size, status.st_mtime_ns)
    if key not in _known:
        _known[key] = rows_in(pq.ParquetFile(path).read(["seq", "symbol", "timestamp", "price"]))
    return _known[key]


def read_rows(snapshot: TableSnapshot, folder: Path) -> list[Row]:
    """Return every row of a snapshot in order of ``seq``; a row met twice is there twice."""
    found = [row for segment in snapshot.segments for row in rows_in(segment.batch)]
    for path in snapshot.parts.path:
        found += read_part_rows(folder / path)
    return sorted(row for row in found if snapshot.upto is None or row.seq <= snapshot.upto)


def check_state(state: TableState, folder: Path, rows: list[Row], last_seq: int | None = None) -> None:
    """See that a state keeps every promise of ``TableState`` and of its parts' names about ``rows``.

    These are all rows, in order of ``seq``, but for those of parts that expired.
    """
    parts = {path: read_part_rows(folder / path) for path in state.parts.path}
    held = sorted(row for s in state.held for row in rows_in(s.batch))
    ring = [row for s in state.segments for row in rows_in(s.batch)]
    in_parts = {row for found in parts.values() for row in found}
    assert len(in_parts) == sum(map(len, parts.values())), "no row is in two parts"
    assert state.last_seq == (len(rows) if last_seq is None else last_seq)
    assert state.flushed_seq <= state.target <= state.last_seq
    assert {r for r in rows if r.seq <= state.flushed_seq} <= in_parts, "rows up to the flushed seq are in parts"
    assert all(row.seq <= state.target for row in in_parts)
    _check_parts(state, parts, rows)
    assert ring == [r for r in rows if r.seq > state.ring_from], "segments hold exactly the rows above the ring's start"
    seen = {row for path in state.parts.chosen(state.parts.last <= state.ring_from).path for row in parts[path]}
    assert held == [r for r in rows if r.seq <= state.ring_from and r not in seen], "held rows are all the others"
    left = [r for r in rows if r.seq <= state.target and r not in in_parts]
    assert (state.leftover_rows, state.unflushed_rows) == (len(left), len(left) + state.last_seq - state.target)
    _check_bounds(state)


def _check_parts(state: TableState, parts: dict[str, list[Row]], rows: list[Row]) -> None:
    of: defaultdict[tuple[str, int], set[Row]] = defaultdict(set)
    covered: defaultdict[tuple[str, int], int] = defaultdict(int)
    for place, (path, found) in enumerate(parts.items()):
        part = state.parts.part(place)
        key = (part.key.symbol, part.key.day)
        assert {row[1:3] for row in found} == {key}
        assert (part.path, part.rows) == (path, len(found))
        assert (part.min_seq, part.max_seq) == (min(found).seq, max(found).seq)
        assert part.max_seq <= part.last == int(state.parts.last[place])
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
