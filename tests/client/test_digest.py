"""A digest tells different rows apart, and not how they came."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight.digest import Digest

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.float64()),
        ("exact", pa.decimal128(38, 18)),
        ("time", pa.timestamp("us")),
        ("flag", pa.bool_()),
        ("numbers", pa.list_(pa.float64())),
        ("texts", pa.list_(pa.string())),
    ]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=3),
            "number": st.none() | st.floats(),
            "exact": st.none() | st.decimals(-100, 100, places=3),
            "time": st.none() | st.integers(0, 2**50),
            "flag": st.none() | st.booleans(),
            "numbers": st.none() | st.lists(st.none() | st.floats(), max_size=3),
            "texts": st.none() | st.lists(st.none() | st.text(max_size=2), max_size=3),
        }
    ),
    min_size=1,
    max_size=12,
)


def digest(schema: pa.Schema, batches: list[pa.RecordBatch], order: Any = None) -> str:
    made = Digest({"t": schema})
    for batch in batches:
        made.add({"t": batch}, np.zeros(batch.num_rows, np.uint8) if order is None else order)
    return made.hexdigest()


def batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    arrays = [pa.array([row[f.name] for row in rows], f.type) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


@given(ROWS, st.lists(st.integers(0, 12), max_size=4))
def test_cuts_do_not_matter(rows: list[dict[str, Any]], cuts: list[int]) -> None:
    whole = batch(rows)
    edges = sorted({0, *(c for c in cuts if c < len(rows))})
    pieces = [whole.slice(a, b - a) for a, b in zip(edges, [*edges[1:], len(rows)], strict=True)]
    again = [batch(rows[a:b]) for a, b in zip(edges, [*edges[1:], len(rows)], strict=True)]
    assert digest(SCHEMA, [whole]) == digest(SCHEMA, pieces) == digest(SCHEMA, again)


def test_what_lies_below_a_null_does_not_matter() -> None:
    values, mask = np.array([1.0, 2.0]), np.array([False, True])
    hidden = pa.RecordBatch.from_arrays([pa.array(values, mask=mask)], ["x"])
    plain = pa.record_batch({"x": [1.0, None]})
    assert digest(plain.schema, [hidden]) == digest(plain.schema, [plain])
    text = pa.StringArray.from_buffers(2, pa.array(["a", "b"]).buffers()[1], pa.py_buffer(b"ab"), pa.py_buffer(b"\1"))
    hidden, plain = pa.RecordBatch.from_arrays([text], ["x"]), pa.record_batch({"x": ["a", None]})
    assert digest(plain.schema, [hidden]) == digest(plain.schema, [plain])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["a", None], ["a", ""]),
        ([1, 2], [2, 1]),
        ([1, None], [None, 1]),
        ([0, 1], [None, 1]),
        ([[1.0], [2.0]], [[1.0, 2.0], []]),
        ([[1.0], []], [[1.0], None]),
        ([["a"], ["b"]], [["a"], ["c"]]),
        ([True], [False]),
        ([Decimal("1.1")], [Decimal("1.2")]),
        ([1], [1, 1]),
    ],
)
def test_rows_that_differ_are_told_apart(one: list[Any], other: list[Any]) -> None:
    first, second = pa.record_batch({"x": one}), pa.record_batch({"x": other})
    second = second.cast(first.schema)
    assert digest(first.schema, [first]) != digest(first.schema, [second])


def test_names_types_and_order_are_part_of_it() -> None:
    rows = pa.record_batch({"x": [1, 2]})
    plain = digest(rows.schema, [rows])
    assert plain != digest(pa.schema([("y", pa.int64())]), [rows.rename_columns(["y"])])
    assert plain != digest(pa.schema([("x", pa.timestamp("us"))]), [rows.cast(pa.schema([("x", pa.timestamp("us"))]))])
    assert plain != digest(rows.schema, [rows], np.array([0, 1], np.uint8))


def test_labels_are_their_texts() -> None:
    rows = pa.record_batch({"x": ["a", "b", None, "a"]})
    labels = pa.RecordBatch.from_arrays([rows["x"].dictionary_encode()], ["x"])
    assert digest(rows.schema, [labels]) == digest(rows.schema, [rows])
