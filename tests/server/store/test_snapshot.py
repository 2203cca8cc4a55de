"""A snapshot: each row in exactly one place, and the cut stays as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_parts import make_part

from tickflight_server.schemas import STORED
from tickflight_server.store.parts import make_index
from tickflight_server.store.snapshot import TableState, take_snapshot

TRADES = STORED["trades"]


def segment(low: int, high: int) -> Any:
    """Return what a state and a cut look at of a segment."""
    return SimpleNamespace(first_seq=low, last_seq=high, rows=high - low + 1, nbytes=high - low + 1)


flushes = st.lists(st.tuples(st.integers(1, 9), st.lists(st.booleans(), min_size=9, max_size=9)), max_size=6)


@given(flushes=flushes, more=st.integers(0, 9), data=st.data())
def test_each_row_is_in_one_place_wherever_the_ring_begins(
    flushes: list[tuple[int, list[bool]]], more: int, data: st.DataObject
) -> None:
    """Row n is alone in its partition n; a flush of some rows writes a part for each that it takes."""
    parts, cuts, left = [], [0], []
    for size, taken in flushes:
        target = cuts[-1] + size
        for seq in range(cuts[-1] + 1, target + 1):
            if taken[seq - cuts[-1] - 1]:
                parts.append(make_part(seq, seq, last=target, symbol=str(seq)))
            else:
                left.append(seq)
        cuts.append(target)
    start, last = data.draw(st.sampled_from(cuts)), cuts[-1] + more
    state = TableState(
        segments=tuple(segment(i, i) for i in range(start + 1, last + 1)),
        held=tuple(segment(i, i) for i in left if i <= start),
        ring_from=start,
        parts=make_index(parts),
        flushed_seq=min([*(i - 1 for i in left), cuts[-1]]),
        target=cuts[-1],
        leftover_rows=len(left),
        leftover_bytes=len(left),
        version=3,
        bounds=tuple(cuts),
    )
    snapshot = take_snapshot(TRADES, state)

    def rows(taken: Any) -> list[int]:
        found = [s for p, q in zip(taken.parts.min_seq, taken.parts.max_seq, strict=True) for s in range(p, q + 1)]
        return sorted([*found, *(s.first_seq for s in taken.segments)])

    assert rows(snapshot) == list(range(1, last + 1))
    assert (snapshot.last_seq, snapshot.version, snapshot.upto) == (last, 3, None)
    assert state.unflushed_bytes == state.unflushed_rows == more + len(left)
    assert state.ring_bytes == last - start + sum(i <= start for i in left)
    upto = data.draw(st.integers(0, last + 2))
    cut = take_snapshot(TRADES, state, upto)
    assert rows(cut) == [n for n in range(1, last + 1) if n <= upto]
    assert (cut.last_seq, cut.upto) == (min(last, upto), upto)


def test_a_part_with_rows_that_memory_has_too_is_not_read() -> None:
    state = TableState(
        segments=(segment(6, 9),),
        held=(segment(1, 5),),
        ring_from=5,
        parts=make_index([make_part(1, 9)]),
        flushed_seq=9,
        target=9,
    )
    snapshot = take_snapshot(TRADES, state)
    assert (len(snapshot.parts), len(snapshot.segments)) == (0, 2)


@pytest.mark.parametrize(("ring_from", "target"), [(0, 0), (7, 7)])
def test_a_table_without_segments_ends_where_the_ring_begins(ring_from: int, target: int) -> None:
    snapshot = take_snapshot(TRADES, TableState(ring_from=ring_from, target=target))
    assert (snapshot.segments, len(snapshot.parts), snapshot.version, snapshot.last_seq) == ((), 0, -1, target)
