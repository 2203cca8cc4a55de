"""Where rows are taken to be: the limit holds, and ranges follow each other and hold all."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.query.weights import Weights


@st.composite
def sources(draw: st.DrawFn) -> tuple[Weights, np.ndarray[Any, Any]]:
    """Return rows in sources that overlap, and what is known of them."""
    unique = draw(st.booleans())
    keys = draw(st.lists(st.integers(-50, 3000), min_size=1, max_size=60, unique=unique))
    owners = np.array(draw(st.lists(st.integers(0, 4), min_size=len(keys), max_size=len(keys))))
    values = np.array(keys, dtype=np.int64)
    groups = [values[owners == i] for i in np.unique(owners)]
    low, high = (np.array([f(g) for g in groups], dtype=np.int64) for f in (np.min, np.max))
    return Weights(low, high, np.array([len(g) for g in groups]), unique, 8), values


@given(sources(), st.integers(1, 40), st.integers(1, 40), st.tuples(st.integers(-60, 3010), st.integers(-60, 3010)))
def test_limit_holds_and_ranges_hold_all(
    made: tuple[Weights, np.ndarray[Any, Any]], rows: int, whole: int, asked: tuple[int, int]
) -> None:
    weights, values = made
    span = (min(asked), max(asked))
    assert weights.most(span) >= ((values >= span[0]) & (values <= span[1])).sum()
    spans = weights.spans(rows, whole=whole)
    assert spans[0][0] <= values.min()
    assert spans[-1][1] >= values.max()
    assert all(low <= high for low, high in spans)
    assert all(a[1] + 1 == b[0] for a, b in pairwise(spans))


def test_ranges_have_about_the_rows_asked_for() -> None:
    low, high = np.array([0, 1000]), np.array([999, 1009])
    weights = Weights(low, high, np.array([100, 900]), unique=False, row_bytes=8)
    # nine tenths of the rows are in the last hundredth
    assert weights.spans(100, whole=1)[:3] == [(0, 999), (1000, 1000), (1001, 1001)]
    assert len(weights.spans(100, whole=1)) == 10


def test_nothing_is_in_no_range() -> None:
    none = np.empty(0, dtype=np.int64)
    assert Weights(none, none, none, unique=True, row_bytes=0).spans(10, whole=5) == []
