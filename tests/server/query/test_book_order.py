"""The order of book events: arrival within a run, time between runs, and slices that say which events they hold."""

from __future__ import annotations

import numpy as np
import pytest
from book_oracle import MINUTE_US, Event, in_order
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.query import book_order
from tickflight_server.query.book_order import counts_from, slices_of

NOON_US = 1_790_000_000_000_000 // 86_400_000_000 * 86_400_000_000 + 43_200_000_000
steps = st.lists(st.sampled_from([0, 1, 500, -500, 1_000_000, -2 * MINUTE_US, 3 * MINUTE_US, -59_000_000]), max_size=60)


def arrived(falls: list[int]) -> np.ndarray:
    return NOON_US + np.cumsum(np.array(falls, dtype=np.int64))


@given(steps)
def test_event_counts_from_the_least_stamp_behind_it_in_its_run(falls: list[int]) -> None:
    stamps = arrived(falls)
    events = [Event(seq, int(at), False, [], []) for seq, at in enumerate(stamps, 1)]
    by_hand = {event.seq: at for at, event in in_order(events)}
    assert counts_from(stamps).tolist() == [by_hand[event.seq] for event in events]


@given(steps, st.lists(st.booleans(), min_size=60, max_size=60), st.booleans())
def test_slices_hold_all_events_in_order(falls: list[int], snapshots: list[bool], alone: bool) -> None:
    stamps = arrived(falls)
    seq = np.arange(10, 10 + 3 * len(stamps), 3, dtype=np.int64)
    flags = np.array(snapshots[: len(stamps)], dtype=bool)
    slices = slices_of(seq, stamps, flags, alone=alone)
    order = [
        e.seq for _, e in in_order([Event(int(s), int(t), False, [], []) for s, t in zip(seq, stamps, strict=True)])
    ]
    held: list[int] = []
    for one in slices:
        inside = seq[(seq >= one.first_seq) & (seq <= one.last_seq)].tolist()
        numbers = inside if one.seqs is None else one.seqs.tolist()
        assert (len(numbers), min(numbers), max(numbers)) == (one.rows, one.first_seq, one.last_seq)
        assert alone or one.seqs is not None
        times = dict(zip(seq.tolist(), stamps.tolist(), strict=True))
        assert (one.min_us, one.max_us) == (min(times[n] for n in numbers), max(times[n] for n in numbers))
        marked = [n for n in numbers if flags[(n - 10) // 3]]
        assert one.snapshot_seq == (marked[-1] if marked else -1)
        assert one.snapshot_at == (numbers.index(marked[-1]) if marked else -1)
        held += numbers
    assert held == order
    assert [s.start_us for s in slices] == sorted(s.start_us for s in slices)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_order, "SLICE_EVENTS", 7)
    monkeypatch.setattr(book_order, "SLICE_SNAPSHOTS", 3)


def test_slices_of_snapshots_are_small() -> None:
    stamps, seq = arrived([1] * 12), np.arange(12, dtype=np.int64)
    assert [s.rows for s in slices_of(seq, stamps, np.zeros(12, dtype=bool))] == [7, 5]
    assert [s.rows for s in slices_of(seq, stamps, np.ones(12, dtype=bool))] == [3, 3, 3, 3]
