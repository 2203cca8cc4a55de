"""The ring against a model: published, cut, merged and released, it holds the newest rows, each once and in order."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_model import Row, rows_in
from store_parts import number_rows

from tickflight_server.store.ring import Segment, cut, find_merge, make_segment, merge

DAY_US = 86_400_000_000


class RingMachine(RuleBasedStateMachine):
    """Segments as a table keeps them; ``bounds`` are where a flush has cut."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: tuple[Segment, ...] = ()
        self.rows: list[Row] = []
        self.bounds: list[int] = []
        self.last_seq = 0
        self.taken: list[tuple[tuple[Segment, ...], list[Row]]] = []

    @initialize(full=st.sampled_from([7, 100, 1_024]))
    def begin(self, full: int) -> None:
        self.full = full

    @rule(
        count=st.sampled_from([1, 2, 9, 300]),
        symbols=st.lists(st.sampled_from(["A", "B", "C/é", "%"]), min_size=1, max_size=3),
        times=st.integers(1, 5),
    )
    def publish(self, count: int, symbols: list[str], times: int) -> None:
        first = self.last_seq + 1
        names = [symbols[i % len(symbols)] for i in range(count)]
        us = [(first + i) * 7_919 % times * 1_000 for i in range(count)]
        prices = [float(first + i) for i in range(count)]
        columns = {
            "exchange": ["X"] * count,
            "symbol": names,
            "price": prices,
            "timestamp": pa.array(us, pa.timestamp("us")),
        }
        batch = number_rows(pa.record_batch(columns), first)
        self.segments += tuple(make_segment(piece) for piece in cut(batch, self.full))
        self.last_seq += count
        self.rows += [Row(first + i, names[i], us[i] // DAY_US, prices[i]) for i in range(count)]

    @rule()
    def cut_here(self) -> None:
        if self.last_seq not in self.bounds:
            self.bounds.append(self.last_seq)

    @rule()
    def merge_once(self) -> None:
        run = find_merge(self.segments, self.bounds, self.full)
        if not run:
            return
        start = self.segments.index(run[0])
        assert self.segments[start : start + len(run)] == tuple(run)
        merged = merge(run)
        assert merged.rows <= self.full
        assert not any(merged.first_seq <= bound < merged.last_seq for bound in self.bounds)
        self.segments = (*self.segments[:start], merged, *self.segments[start + len(run) :])

    @rule()
    def merge_all(self) -> None:
        rounds = len(self.segments)
        while find_merge(self.segments, self.bounds, self.full):
            self.merge_once()
            rounds -= 1
            assert rounds >= 0

    @precondition(lambda self: self.bounds)
    @rule()
    def release(self) -> None:
        bound = self.bounds.pop(0)
        assert all(s.last_seq <= bound or s.first_seq > bound for s in self.segments), "no segment crosses a bound"
        self.segments = tuple(s for s in self.segments if s.last_seq > bound)
        self.rows = [row for row in self.rows if row.seq > bound]

    @rule()
    def take_snapshot(self) -> None:
        self.taken = [*self.taken[-1:], (self.segments, list(self.rows))]

    @invariant()
    def each_row_is_there_once_and_segments_know_theirs(self) -> None:
        assert [row for s in self.segments for row in rows_in(s.batch)] == self.rows
        assert all(a.last_seq + 1 == b.first_seq for a, b in pairwise(self.segments))
        for segment in self.segments:
            seqs, times = segment.batch["seq"].to_pylist(), segment.batch["timestamp"].cast(pa.int64()).to_pylist()
            assert (segment.first_seq, segment.last_seq, segment.rows) == (seqs[0], seqs[-1], len(seqs))
            assert (segment.min_us, segment.max_us) == (min(times), max(times))
            assert segment.symbols == set(segment.batch["symbol"].to_pylist())
            assert segment.exchanges == {"X"}
            assert segment.nbytes == segment.batch.nbytes
        for segments, rows in self.taken:
            assert [row for s in segments for row in rows_in(s.batch)] == rows


class TestRing(RingMachine.TestCase):
    settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
