"""A batch weighs what it becomes when it is written out, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from flight_here import trades

from tickflight_server.flight.stretching import plain_bytes

MIB = 1 << 20
ONE = pa.array([1.0])
LARGE: dict[str, Callable[[], pa.Array]] = {
    "runs": lambda: pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), ONE),
    "runs of texts": lambda: pa.RunEndEncodedArray.from_arrays(pa.array([9000], pa.int32()), pa.array(["x" * 9000])),
    "runs within a list": lambda: pa.ListArray.from_arrays(
        [0, 2**30], pa.RunEndEncodedArray.from_arrays(pa.array([2**30], pa.int32()), ONE)
    ),
    "views of lists": lambda: pa.ListViewArray.from_arrays([0] * 9000, [9000] * 9000, pa.array(np.zeros(9000))),
    "views of views of lists": lambda: pa.ListViewArray.from_arrays(
        [0] * 900, [900] * 900, pa.ListViewArray.from_arrays([0] * 900, [900] * 900, pa.array(np.zeros(900)))
    ),
    "indices of one text": lambda: pa.DictionaryArray.from_arrays(np.zeros(9000, np.int32), pa.array(["x" * 9000])),
    "indices of one list": lambda: pa.DictionaryArray.from_arrays(np.zeros(9000, np.int32), pa.array([[1.0] * 9000])),
    "nulls": lambda: pa.nulls(1 << 25),
    "nulls of fixed lists": lambda: pa.FixedSizeListArray.from_arrays(pa.nulls(1 << 25), 1 << 20),
    "within a struct": lambda: pa.StructArray.from_arrays([pa.nulls(1 << 25)], ["a"]),
    "within an extension": lambda: pa.ExtensionArray.from_storage(pa.opaque(pa.null(), "a", "b"), pa.nulls(1 << 25)),
    "within a union": lambda: pa.UnionArray.from_sparse(pa.array(np.zeros(1 << 23, np.int8)), [pa.nulls(1 << 23)]),
}
SMALL: dict[str, Callable[[], pa.Array]] = {
    "texts": lambda: pa.array(["x" * 100] * 100),
    "views of texts": lambda: pa.array(["x" * 100, "y", None] * 100, pa.string_view()),
    "a dictionary": lambda: pa.array(["BTC-USDT", "ETH-USDT"] * 1_000_000).dictionary_encode(),
    "a map": lambda: pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
    "nothing": lambda: pa.array([], pa.list_view(pa.string_view())),
    "a long entry that few rows have": lambda: pa.DictionaryArray.from_arrays(
        np.r_[np.zeros(1, np.int32), np.ones(500_000, np.int32)], pa.array(["x" * 10_000, "y"])
    ),
}


def weight(array: pa.Array) -> int:
    return plain_bytes(pa.RecordBatch.from_arrays([array], ["a"]), 64 * MIB)


@pytest.mark.parametrize("name", LARGE)
def test_what_stands_for_much_weighs_much(name: str) -> None:
    assert weight(LARGE[name]()) > 64 * MIB


@pytest.mark.parametrize("name", SMALL)
def test_what_is_written_out_already_weighs_what_it_is(name: str) -> None:
    assert weight(SMALL[name]()) < 64 * MIB


def test_batch_of_plain_columns_weighs_its_buffers() -> None:
    batch = trades(1000)
    assert plain_bytes(batch, 64 * MIB) == batch.get_total_buffer_size()


def test_rows_without_columns_weigh_something() -> None:
    batch = pa.RecordBatch.from_struct_array(pa.array([{}] * 1000, pa.struct([])))
    assert plain_bytes(batch, MIB) >= 8000
