"""What is left out of a segment: never a row that the filters' own meaning lets through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tickflight_server.query import sieve
from tickflight_server.query.filters import And, Compare, Filter, In, Not, Or, Unknown
from tickflight_server.query.sieve import sieved
from tickflight_server.store.ring import Segment, make_segment

T0 = 1_790_000_000_000_000
ROWS = 4_000


@pytest.fixture
def segment() -> Segment:
    chance = np.random.default_rng(4)
    labels = {"exchange": (["A", "B"], [0.5, 0.5]), "symbol": (["X", "Y", "Z"], [0.01, 0.04, 0.95])}
    columns = {
        name: pa.array(chance.choice(names, ROWS, p=weights)).dictionary_encode()
        for name, (names, weights) in labels.items()
    }
    times = pa.array(T0 + chance.integers(0, ROWS, ROWS), pa.timestamp("us"))
    seq = pa.array(np.arange(1, ROWS + 1))
    return make_segment(pa.RecordBatch.from_pydict({**columns, "timestamp": times, "seq": seq}))


def _seqs(batches: list[pa.RecordBatch]) -> set[int]:
    return {s for batch in batches for s in batch.column("seq").to_pylist()}


SYMBOL = Compare("=", "symbol", "X")
LATE = Compare(">", "timestamp", T0 + ROWS - 100)


@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ([SYMBOL], lambda b: pc.equal(b["symbol"].cast("string"), "X")),
        ([And(SYMBOL, LATE)], lambda b: pc.and_(pc.equal(b["symbol"].cast("string"), "X"), _late(b))),
        ([LATE], lambda b: _late(b)),
        ([In("symbol", frozenset({"X", "none"}))], lambda b: pc.equal(b["symbol"].cast("string"), "X")),
        ([SYMBOL, LATE], lambda b: pc.or_(pc.equal(b["symbol"].cast("string"), "X"), _late(b))),
        ([Compare("<=", "seq", 7)], lambda b: pc.less_equal(b["seq"], 7)),
        ([Compare("=", "symbol", "nobody")], lambda b: pc.equal(b["seq"], 0)),
    ],
)
def test_what_is_left_is_what_matches(
    segment: Segment, filters: list[Filter], condition: Callable[[pa.RecordBatch], pa.Array]
) -> None:
    wanted = segment.batch.filter(condition(segment.batch))
    (left,) = sieved([segment], filters)
    assert left.equals(wanted)
    assert left.schema.equals(segment.batch.schema)


def _late(batch: pa.RecordBatch) -> pa.Array:
    return pc.greater(batch["timestamp"].cast("int64"), T0 + ROWS - 100)


@pytest.mark.parametrize(
    "filters",
    [
        None,
        [None],
        [SYMBOL, None],
        [Unknown()],
        [Or(SYMBOL, LATE)],
        [Not(SYMBOL)],
        [SYMBOL, Unknown()],
        [Compare("=", "price", 1.0)],
        [Compare("!=", "symbol", "X")],
        [Compare("<", "symbol", "Y")],
        [Compare(">", "timestamp", 1.5)],
        [Compare("=", "symbol", "Z")],  # most of the rows: a copy would cost more than it saves
    ],
)
def test_what_is_not_understood_or_keeps_much_leaves_a_segment_as_it_is(
    segment: Segment, filters: list[Filter | None] | None
) -> None:
    (left,) = sieved([segment], filters)
    assert left is segment.batch


def test_a_condition_beside_one_that_is_not_understood_still_holds(segment: Segment) -> None:
    (left,) = sieved([segment], [And(Unknown(), SYMBOL)])
    assert set(left["symbol"].to_pylist()) == {"X"}


def test_no_row_is_lost_whatever_is_kept(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sieve, "KEPT_MOST", 1.0)
    halves = [sieved([segment], [Compare("=", "symbol", name)]) for name in "XYZ"]
    assert set().union(*map(_seqs, halves)) == set(range(1, ROWS + 1))


def test_columns_that_are_not_read_are_left_out_of_what_is_copied(segment: Segment) -> None:
    (whole,) = sieved([segment], [SYMBOL])
    (left,) = sieved([segment], [SYMBOL], {"symbol", "price"})
    assert left.schema.equals(whole.schema)
    for name in left.schema.names:
        if name in ("symbol", "price"):
            assert left[name].equals(whole[name])
        else:
            assert left[name].null_count == left.num_rows
