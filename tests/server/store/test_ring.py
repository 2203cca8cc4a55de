"""Segments and their merging: rows keep their order and number, and merging comes to an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.schemas import STORED
from tickflight_server.store import ring
from tickflight_server.store.ring import MERGE_MANY, Segment, add_seq, cut, find_merge, make_segment, merge
from tickflight_server.store.rows import fit

TRADES = STORED["trades"]
SCHEMA = TRADES.arrow(memory=True)


def make(batch: pa.RecordBatch, first_seq: int) -> Segment:
    fitted = fit(TRADES, batch, "float64", now_us=0)
    assert fitted.rejected is None
    return make_segment(add_seq(fitted.batch, SCHEMA, first_seq))


def fake(rows: int, first_seq: int, nbytes: int = 0) -> Any:
    """Return what ``find_merge`` looks at of a segment."""
    return SimpleNamespace(rows=rows, first_seq=first_seq, last_seq=first_seq + rows - 1, nbytes=nbytes)


def fakes(sizes: Sequence[int]) -> list[Any]:
    made: list[Any] = []
    for rows in sizes:
        made.append(fake(rows, made[-1].last_seq + 1 if made else 1))
    return made


def test_a_segment_knows_its_seqs_times_exchanges_and_symbols(trades: Callable[..., pa.RecordBatch]) -> None:
    segment = make(trades(5, symbols=("A", "B", "C")).take(pa.array([4, 0, 1])), 10)
    assert (segment.first_seq, segment.last_seq, segment.rows) == (10, 12, 3)
    times = segment.batch["timestamp"].cast(pa.int64()).to_pylist()
    assert (segment.min_us, segment.max_us) == (min(times), max(times))
    assert segment.exchanges == {"BINANCE"}
    assert segment.symbols == {"A", "B"}
    assert segment.batch["seq"].to_pylist() == [10, 11, 12]


def test_a_slice_names_only_the_symbols_of_its_own_rows(trades: Callable[..., pa.RecordBatch]) -> None:
    whole = make(trades(10, symbols=("A", "B", "C")), 1)
    pieces = [make_segment(piece) for piece in cut(whole.batch, 2)]
    assert [p.rows for p in pieces] == [2] * 5
    assert [p.symbols for p in pieces[:3]] == [{"A", "B"}, {"C", "A"}, {"B", "C"}]
    assert [p.first_seq for p in pieces] == [1, 3, 5, 7, 9]


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12), data=st.data())
def test_merging_keeps_every_row_in_order_whatever_the_dictionaries(sizes: list[int], data: st.DataObject) -> None:
    from_sizes = []
    expected: list[tuple[int, str, float]] = []
    for rows in sizes:
        names = data.draw(st.lists(st.sampled_from("ABCDEF"), min_size=1, max_size=4, unique=True))
        first = len(expected) + 1
        symbols = [names[i % len(names)] for i in range(rows)]
        batch = pa.record_batch(
            {
                "exchange": ["X"] * rows,
                "symbol": pa.DictionaryArray.from_arrays(
                    pa.array([i % len(names) for i in range(rows)], pa.int32()), pa.array([*names, "unused", names[0]])
                ),
                "price": [float(first + i) for i in range(rows)],
                "timestamp": pa.array(range(first, first + rows), pa.timestamp("us")),
            }
        )
        from_sizes.append(make(batch, first))
        expected += [(first + i, symbols[i], float(first + i)) for i in range(rows)]
    merged = merge(from_sizes)
    found = [merged.batch[n].to_pylist() for n in ("seq", "symbol", "price")]
    assert list(zip(*found, strict=True)) == expected
    again = make_segment(merged.batch)
    assert (merged.first_seq, merged.last_seq, merged.min_us, merged.max_us) == (1, len(expected), 1, len(expected))
    assert (merged.symbols, merged.exchanges) == (again.symbols, again.exchanges)


@given(
    sizes=st.lists(st.sampled_from([1, 7, 500, 1_023, 1_024, 5_000, 8_192, 20_000, 65_536]), max_size=120),
    data=st.data(),
    full=st.sampled_from([1_024, 10_000, 65_536]),
)
def test_merging_ends_with_few_segments_and_crosses_no_bound(sizes: list[int], data: st.DataObject, full: int) -> None:
    segments = fakes([min(s, full) for s in sizes])
    bounds = data.draw(st.lists(st.sampled_from([s.last_seq for s in segments]), max_size=3)) if segments else []
    total = sum(s.rows for s in segments)
    rounds = 0
    while run := find_merge(segments, bounds, full):
        start = segments.index(run[0])
        assert list(run) == segments[start : start + len(run)]
        assert len(run) > 1
        rows = sum(s.rows for s in run)
        assert rows <= full
        assert not any(run[0].first_seq <= b < run[-1].last_seq for b in bounds)
        segments[start : start + len(run)] = [fake(rows, run[0].first_seq)]
        rounds += 1
        assert rounds <= len(sizes)
    assert sum(s.rows for s in segments) == total
    assert all(a.last_seq + 1 == b.first_seq for a, b in pairwise(segments))
    # of the neighbours between two bounds, 64 do not fit into a full segment
    assert len(segments) <= MERGE_MANY * (len(set(bounds)) + 1 + 2 * total / full)


@pytest.mark.parametrize("size", [64, 100, 1_000, 3_000, 10_000, 40_000])
def test_each_row_is_copied_a_few_times_at_most(size: int) -> None:
    segments: list[Any] = []
    copied = 0
    for number in range(2_000_000 // size):
        segments.append(fake(size, number * size + 1))
        while run := find_merge(segments, (), 131_072):
            start = segments.index(run[0])
            rows = sum(s.rows for s in run)
            copied += rows
            segments[start : start + len(run)] = [fake(rows, run[0].first_seq)]
    assert copied / 2_000_000 < 7
    assert len(segments) < 60


def test_segments_of_long_rows_are_merged_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_MERGED_BYTES_MAX", 1_000)
    segments = [fake(1, i + 1, nbytes=100) for i in range(25)]
    run = find_merge(segments, (), 1_024)
    assert len(run) == 10
    assert len(find_merge([fake(1, i + 1, nbytes=300) for i in range(25)], (), 1_024)) == 3
    assert find_merge([fake(1, i + 1, nbytes=2_000) for i in range(25)], (), 1_024) == ()


def test_fewer_than_eight_are_left_alone() -> None:
    assert find_merge(fakes([10] * 7), (), 1_024) == ()
    assert len(find_merge(fakes([10] * 8), (), 1_024)) == 8
    assert find_merge((), (), 1_024) == ()


def test_a_merge_of_segments_that_are_no_neighbours_is_our_mistake(trades: Callable[..., pa.RecordBatch]) -> None:
    with pytest.raises(AssertionError):
        merge([make(trades(2), 1), make(trades(2), 4)])
