"""Recent keys: nothing is lost by merging, and only what was released is dropped."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.store.key_recent import Chunk, RecentKeys

steps = st.lists(
    st.one_of(st.just("index"), st.just("forget"), st.integers(1, 40), st.integers(-900, -1)), max_size=300
)


@given(steps)
def test_every_row_that_was_not_released_is_there(steps: list) -> None:
    recent = RecentKeys()
    last = released = 0
    indexed = 0
    for step in steps:
        if step == "index":
            for chunk in recent.chunks:
                chunk.indexed = True
            indexed = last
        elif step == "forget":
            recent.forget_index()
            indexed = 0
        elif step > 0:
            recent.append(Chunk((np.arange(last + 1, last + step + 1),), last + step, indexed=False))
            last += step
        else:
            seq = max(released, last + step)
            dropped = [v for chunk in recent.drop(seq) for v in chunk.columns[0].tolist()]
            assert all(v <= seq for v in dropped)
            released = max([released, *dropped])
        kept = [v for chunk in recent.chunks for v in chunk.columns[0].tolist()]
        assert kept == list(range(released + 1, last + 1))
        assert all(chunk.columns[0][-1] == chunk.last_seq for chunk in recent.chunks)
        for chunk in recent.chunks:
            assert chunk.indexed == (chunk.last_seq <= indexed)


def test_small_chunks_are_merged() -> None:
    recent = RecentKeys()
    for seq in range(1, 1_001):
        recent.append(Chunk((np.array([seq]),), seq, indexed=False))
    assert len(recent.chunks) < 100


def test_large_chunks_are_not_copied() -> None:
    keys = RecentKeys()
    large = [Chunk((np.arange(65_536),), 65_536 * (i + 1), indexed=False) for i in range(80)]
    for chunk in large:
        keys.append(chunk)
    assert keys.chunks == large
