"""Events have the values that pyarrow would give, and the fields of their table."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tickflight.errors import QueryError
from tickflight.events import event_class, events, rows, values
from tickflight.merging import ReplayChunk


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a", None, "a", "a"]),
        pa.array(["a", "b", "c"]),
        pa.array(["a", "a", None]).dictionary_encode(),
        pa.array([1.5, None]),
        pa.array([1.5, float("inf")]),
        pa.array([1, 2]),
        pa.array([True, None, False]),
        pa.array([True, False]),
        pa.array([Decimal("1.25"), None]),
        pa.array([datetime(2026, 1, 2, 3, 4, 5, 6), datetime(1969, 1, 1)], pa.timestamp("us")),
        pa.array([datetime(2026, 1, 2), None], pa.timestamp("us")),
        pa.array([[1.0, 2.0], [], [3.0]]),
        pa.array([[1.0, None], None, [3.0], []]),
        pa.array([["x"], None, ["y", "x"]]),
        pa.array([], pa.list_(pa.string())),
        pa.array([], pa.string()),
    ],
    ids=str,
)
def test_values_are_pyarrows(column: pa.Array) -> None:
    assert values(column) == column.to_pylist()
    assert values(column.slice(1)) == column.slice(1).to_pylist()
    assert [type(v) for v in values(column)] == [type(v) for v in column.to_pylist()]


def test_event_has_a_field_for_each_column() -> None:
    batch = pa.record_batch({"symbol": ["A", "B"], "price": [1.0, 2.0]})
    cls = event_class("market.l2_book", batch.schema)
    one, other = rows(cls, batch)
    assert (cls.__name__, one.symbol, other.price) == ("L2Book", "A", 2.0)
    assert repr(one) == "L2Book(symbol='A', price=1.0)"
    assert not hasattr(one, "__dict__")
    assert one == cls("A", 1.0) != other


def test_column_that_cannot_be_a_field_is_told() -> None:
    with pytest.raises(QueryError, match=r"column 'a b' of trades"):
        event_class("trades", pa.schema([("a b", pa.int64())]))
    with pytest.raises(QueryError, match="column 'class'"):
        event_class("trades", pa.schema([("class", pa.int64())]))


def test_events_follow_the_order_of_their_chunk() -> None:
    one, two = pa.record_batch({"x": [1, 2]}), pa.record_batch({"y": ["a", "b", "c"]})
    classes: list[Any] = [event_class("one", one.schema), event_class("two", two.schema)]
    order = np.array([1, 0, 1, 1, 0], np.uint8)
    chunk = ReplayChunk(("one", "two"), {"one": one, "two": two}, order, np.arange(5))
    assert [next(iter(getattr(e, n) for n in "xy" if hasattr(e, n))) for e in events(chunk, classes)] == [
        *("a", 1, "b", "c", 2)
    ]
