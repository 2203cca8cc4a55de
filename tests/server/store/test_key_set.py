"""The set of entries against Python's own, small and large, with halves that are the same by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickflight_server.store import key_set
from tickflight_server.store.key_columns import Entries
from tickflight_server.store.key_set import KeySet, first_of_each

halves = st.sampled_from([0, 1, 2**32, 2**63, 2**63 + 1, 2**64 - 1])
pairs = st.lists(st.tuples(halves, halves), max_size=12)


def entries(keys: list[tuple[int, int]]) -> Entries:
    return Entries(np.array([k[0] for k in keys], np.uint64), np.array([k[1] for k in keys], np.uint64))


@given(st.lists(st.tuples(pairs, pairs), max_size=6), st.sampled_from([0, 384]), st.sampled_from([4, 1 << 23]))
def test_the_set_holds_what_was_added(steps: list, directory_min: int, run_max: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_set, "_DIRECTORY_ROWS_MIN", directory_min)
        patch.setattr(key_set, "_MERGED_ROWS_MIN", 3)
        patch.setattr(key_set, "_RUN_ROWS_MAX", run_max)
        held, model = KeySet(), set()
        for added, asked in steps:
            held.add(entries(added))
            model.update(added)
            assert held.contains(entries(asked)).tolist() == [k in model for k in asked]


@settings(max_examples=5)
@given(st.integers(0, 2**32))
def test_large_sets_hold_what_was_added(seed: int) -> None:
    chance = np.random.default_rng(seed)
    held = KeySet()
    keys = Entries(*(chance.integers(0, 1 << 64, 60_000, np.uint64) for _ in range(2)))
    start = 0
    while start < 40_000:
        size = int(chance.choice([1, 50, 1_000, 9_000]))
        held.add(keys.take(np.arange(start, min(start + size, 40_000))))
        start += size
    order = chance.permutation(60_000)
    assert held.contains(keys.take(order)).tolist() == (order < 40_000).tolist()
    few = order[:50]
    assert held.contains(keys.take(few)).tolist() == (few < 40_000).tolist()
    assert len(held._runs) < 10
    assert 16 * 40_000 <= held.nbytes <= 18 * 40_000 + 100 * len(held._runs)


@given(pairs)
def test_the_first_of_each_is_told(keys: list[tuple[int, int]]) -> None:
    mask = first_of_each(entries(keys))
    expected = [key not in keys[:i] for i, key in enumerate(keys)]
    assert expected == ([True] * len(keys) if mask is None else mask.tolist())
