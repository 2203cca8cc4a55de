"""A snapshot: each row in exactly one place, and the cut stays as it is."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.schemas import STORED
from tickflight_server.store.partition import Part
from tickflight_server.store.parts import make_index
from tickflight_server.store.snapshot import TableState, take_snapshot

TRADES = STORED["trades"]


def part(low: int, high: int) -> Part:
    return Part(f"{low}-{high}", "X", "A", 0, high - low + 1, 1, 0, 0, low, high)


def segment(low: int, high: int) -> Any:
    return SimpleNamespace(first_seq=low, last_seq=high, nbytes=high - low + 1)


@given(flushes=st.lists(st.integers(1, 9), max_size=6), more=st.integers(0, 9), data=st.data())
def test_each_row_is_in_one_place_wherever_the_ring_begins(flushes: list[int], more: int, data: st.DataObject) -> None:
    cuts = [sum(flushes[:i]) for i in range(len(flushes) + 1)]
    parts = make_index(part(a + 1, b) for a, b in pairwise(cuts))
    start = data.draw(st.sampled_from(cuts))
    last = cuts[-1] + more
    segments = tuple(segment(i, i) for i in range(start + 1, last + 1))
    state = TableState(segments, start, parts, cuts[-1], 3, tuple(cuts))
    snapshot = take_snapshot(TRADES, state)
    rows = [s for p, q in zip(snapshot.parts.min_seq, snapshot.parts.max_seq, strict=True) for s in range(p, q + 1)]
    rows += [s.first_seq for s in snapshot.segments]
    assert sorted(rows) == list(range(1, last + 1))
    assert (snapshot.last_seq, snapshot.version) == (last, 3)
    assert state.ring_bytes == last - start
    assert state.unflushed_bytes == more


def test_a_part_across_the_rings_start_is_our_mistake() -> None:
    state = TableState((segment(6, 9),), 5, make_index([part(1, 9)]), 9, 0, (9,))
    with pytest.raises(AssertionError, match="crosses the ring's start"):
        take_snapshot(TRADES, state)


def test_an_empty_table_has_an_empty_snapshot() -> None:
    snapshot = take_snapshot(TRADES, TableState())
    assert (snapshot.segments, len(snapshot.parts), snapshot.version, snapshot.last_seq) == ((), 0, -1, 0)
