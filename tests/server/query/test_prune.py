"""What pruning leaves out never holds a row for which the filter is true."""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.query.filters import And, Compare, Filter, In, IsNull, Literal, Not, Or, Unknown, read_expression
from tickflight_server.query.prune import PartCandidates, SegmentCandidates, may_match
from tickflight_server.store.partition import Part, PartitionKey
from tickflight_server.store.parts import make_index
from tickflight_server.store.ring import Segment, make_segment

LABEL = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("exchange", LABEL),
        ("symbol", LABEL),
        ("price", pa.float64()),
        ("timestamp", pa.timestamp("us")),
        ("seq", pa.int64()),
    ]
)
Row = tuple[str, str, float | None, int]
names = st.sampled_from(["A", "AB", "B", "比特", "", "z"])
rows = st.tuples(names, names, st.none() | st.floats(-2, 2), st.integers(0, 12))
pieces = st.lists(st.lists(rows, min_size=1, max_size=5), max_size=5)


def batch(piece: list[Row], first_seq: int) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array([r[0] for r in piece]).dictionary_encode().cast(LABEL),
            pa.array([r[1] for r in piece]).dictionary_encode().cast(LABEL),
            pa.array([r[2] for r in piece], pa.float64()),
            pa.array([r[3] for r in piece], pa.int64()).cast(pa.timestamp("us")),
            pa.array(range(first_seq, first_seq + len(piece)), pa.int64()),
        ],
        schema=SCHEMA,
    )


def plain(part: pa.RecordBatch) -> pa.Table:
    """Return the rows with labels as text, as filters compare them."""
    columns = {n: part[n].cast(pa.string()) if n in ("exchange", "symbol") else part[n] for n in part.schema.names}
    return pa.table(columns)


def segments_of(split: list[list[Row]]) -> list[Segment]:
    firsts = np.cumsum([1, *map(len, split)])
    return [make_segment(batch(piece, int(first))) for piece, first in zip(split, firsts, strict=False)]


def parts_of(split: list[list[Row]]) -> tuple[list[Part], list[pa.Table]]:
    """Return a part for each exchange and symbol of each piece, and its rows."""
    parts, contents, seq = [], [], 1
    for piece in split:
        groups: defaultdict[tuple[str, str], list[tuple[Row, int]]] = defaultdict(list)
        for row in piece:
            groups[row[:2]].append((row, seq))
            seq += 1
        for (exchange, symbol), found in groups.items():
            times, seqs = [r[3] for r, _ in found], [s for _, s in found]
            fields = {"path": f"{len(parts)}.parquet", "key": PartitionKey(exchange, symbol, 0)}
            fields |= {"rows": len(found), "nbytes": 1, "min_us": min(times), "max_us": max(times)}
            parts.append(Part(**fields, min_seq=min(seqs), max_seq=max(seqs)))
            content = plain(batch([r for r, _ in found], 1))
            contents.append(content.set_column(4, "seq", pa.array(seqs, pa.int64())))
    return parts, contents


ORDERS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
orders = st.sampled_from(ORDERS)
times = st.integers(-1, 13).map(lambda us: pa.scalar(us, pa.timestamp("us")))
leaves = st.one_of(
    st.builds(lambda op, c, v: op(pc.field(c), v), orders, st.sampled_from(["exchange", "symbol"]), names),
    st.builds(lambda op, v: op(pc.field("timestamp"), v), orders, times),
    st.builds(lambda op, v: op(pc.field("seq"), v), orders, st.integers(-1, 15)),
    st.builds(lambda op, v: op(pc.field("price"), v), orders, st.floats(-2, 2)),
    st.builds(lambda c, v: pc.field(c).isin(v), st.sampled_from(["exchange", "symbol"]), st.lists(names, min_size=1)),
    st.builds(lambda v: pc.field("timestamp").isin(pa.array(v)), st.lists(times, min_size=1)),
    st.builds(lambda v: pc.field("seq").isin(v), st.lists(st.integers(-1, 15), min_size=1)),
    st.builds(lambda c: pc.field(c).is_null(), st.sampled_from(SCHEMA.names)),
    st.builds(lambda p: pc.starts_with(pc.field("symbol"), p), names),
    st.sampled_from([pc.scalar(True), pc.scalar(False), pc.scalar(pa.scalar(None, pa.bool_()))]),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(operator.and_, inner, inner), st.builds(operator.or_, inner, inner), st.builds(operator.invert, inner)
    ),
    max_leaves=6,
)


@given(pieces, filters)
def test_segment_left_out_holds_no_matching_row(split: list[list[Row]], expression: Any) -> None:
    segments = segments_of(split)
    keep = may_match(read_expression(expression), SegmentCandidates(segments))
    assert keep.dtype == bool
    assert len(keep) == len(segments)
    for segment, kept in zip(segments, keep, strict=True):
        assert kept or plain(segment.batch).filter(expression).num_rows == 0


@given(pieces, filters)
def test_part_left_out_holds_no_matching_row(split: list[list[Row]], expression: Any) -> None:
    parts, contents = parts_of(split)
    keep = may_match(read_expression(expression), PartCandidates(make_index(parts)))
    assert len(keep) == len(parts)
    for content, kept in zip(contents, keep, strict=True):
        assert kept or content.filter(expression).num_rows == 0


@given(pieces)
def test_labels_are_asked_about_once_each(split: list[list[Row]]) -> None:
    index = make_index(parts_of(split)[0])
    codes, labels = index.labels("symbol")
    assert [labels[code] for code in codes] == list(index.symbol)
    asked: list[str] = []
    masks = PartCandidates(index).labels("symbol", lambda label: bool(asked.append(label)))
    assert masks is not None
    assert sorted(asked) == sorted(set(index.symbol))
    assert PartCandidates(index).labels("price", bool) is None


SPLIT: list[list[Row]] = [
    [("X", "BTC-EUR", 1.0, 0), ("X", "BTC-EUR", 1.0, 5)],
    [("X", "BTC-USD", 1.0, 5), ("X", "BTC-USD", 1.0, 9)],
    [("Y", "ETH-USD", 1.0, 20), ("Y", "ETH-USD", 1.0, 29)],
]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Compare("=", "symbol", "ETH-USD"), [2]),
        (Compare("!=", "symbol", "ETH-USD"), [0, 1]),
        (Not(Compare("=", "symbol", "ETH-USD")), [0, 1]),
        (Compare("<", "symbol", "C"), [0, 1]),
        (And(Compare(">=", "symbol", "BTC-U"), Compare("<", "symbol", "BTC-V")), [1]),
        (In("symbol", frozenset(("BTC-EUR", "nix"))), [0]),
        (Not(In("exchange", frozenset("X"))), [2]),
        (Compare("=", "timestamp", 5), [0, 1]),
        (Compare(">", "timestamp", 9), [2]),
        (Compare("<=", "timestamp", 4), [0]),
        (Not(Compare(">", "timestamp", 9)), [0, 1]),
        (In("timestamp", frozenset((7, 40))), [1]),
        (Compare("<", "seq", 3), [0]),
        (IsNull("symbol"), []),
        (Not(IsNull("symbol")), [0, 1, 2]),
        (IsNull("price"), [0, 1, 2]),
        (Literal(None), []),
        (Literal(False), []),
        (Not(Literal(False)), [0, 1, 2]),
        (Or(Compare("=", "symbol", "BTC-EUR"), Compare(">", "timestamp", 19)), [0, 2]),
        (And(Compare("=", "exchange", "X"), Unknown()), [0, 1]),
        (Or(Compare("=", "exchange", "X"), Unknown()), [0, 1, 2]),
        (Compare("=", "side", "buy"), [0, 1, 2]),
        (Compare("=", "symbol", 5), [0, 1, 2]),
        (Compare("=", "timestamp", "5"), [0, 1, 2]),
        (Compare("<", "timestamp", 2**70), [0, 1, 2]),
    ],
)
def test_filter_chooses_just_what_may_match(node: Filter, expected: list[int]) -> None:
    assert np.flatnonzero(may_match(node, SegmentCandidates(segments_of(SPLIT)))).tolist() == expected
    assert np.flatnonzero(may_match(node, PartCandidates(make_index(parts_of(SPLIT)[0])))).tolist() == expected


def test_nothing_is_chosen_among_nothing() -> None:
    assert len(may_match(Compare("=", "symbol", "A"), SegmentCandidates([]))) == 0
    assert len(may_match(Compare("<", "seq", 1), PartCandidates(make_index([])))) == 0
