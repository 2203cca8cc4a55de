"""Sets of row numbers: the same as Python's sets, for a bit a row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.store.seqset import SeqSet, count, show, to_ranges

EDGE = 1 << 16
number = st.one_of(st.integers(0, 40), st.integers(EDGE - 20, EDGE + 20), st.integers(3 * EDGE - 5, 3 * EDGE + 5))
steps = st.lists(st.one_of(st.lists(number, max_size=30), st.tuples(number, number)), max_size=8)


@given(steps=steps, bounds=st.tuples(number, number))
def test_it_holds_what_was_added(steps, bounds):
    ours, theirs = SeqSet(), set()
    for step in steps:
        if isinstance(step, tuple):
            ours.add_range(*step)
            theirs |= set(range(step[0], step[1] + 1))
        else:
            twice = ours.add(np.array(step, dtype=np.int64))
            assert set(twice.tolist()) == {s for s in step if s in theirs or step.count(s) > 1}
            theirs |= set(step)
    assert {s for a, b in ours.ranges() for s in range(a, b + 1)} == theirs
    pairs = list(ours.ranges())
    assert all(b + 1 < c for (_, b), (c, _) in pairwise(pairs))
    first, last = bounds
    missing = {s for a, b in ours.missing(first, last) for s in range(a, b + 1)}
    assert missing == set(range(first, last + 1)) - theirs
    probes = np.array([last, first, 0, EDGE], dtype=np.int64)
    assert ours.contains(probes).tolist() == [s in theirs for s in probes.tolist()]


def test_a_hundred_million_rows_without_holes_take_no_memory():
    rows = SeqSet([(1, 100_000_000)])
    rows.add_range(200_000_000, 200_000_001)
    assert rows.missing(1, 200_000_001) == [(100_000_001, 199_999_999)]
    assert sum(1 for bits in rows._chunks.values() if bits is not None) <= 3


def test_ranges_as_text():
    ranges = to_ranges(np.array([3, 1, 2, 9, 7]))
    assert ranges == [(1, 3), (7, 7), (9, 9)]
    assert count(ranges) == 5
    assert show(ranges) == "1 to 3, 7, 9"
    assert show(ranges, 1) == "1 to 3 and 2 more ranges"
