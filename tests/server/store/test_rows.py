"""Fitting: any reasonable shape of a column becomes the table's; a row that does not fit leaves with its reason."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.errors import RowError
from tickflight_server.schemas import LABEL, STORED, TIMESTAMP
from tickflight_server.store.ring import add_seq, make_segment, merge
from tickflight_server.store.rows import TIME_MAX_US, Fitted, fit

TRADES = STORED["trades"]
BOOK = STORED["l2_book"]
NOW = 1_800_000_000_000_000
US = 1_700_000_000_123_456


def labels(indices: list[int | None], entries: list[Any], index: pa.DataType | None = None) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(indices, index or pa.int32()), pa.array(entries))


def one(**columns: Any) -> pa.RecordBatch:
    """Return one ticker row with ``columns`` instead of its own; a column given as None is left out."""
    usual = {
        "exchange": ["X"],
        "symbol": ["A"],
        "bid": [1.0],
        "ask": [2.0],
        "timestamp": pa.array([US], TIMESTAMP),
        "receipt_timestamp": pa.array([US], TIMESTAMP),
    }
    return pa.record_batch({k: v for k, v in (usual | columns).items() if v is not None})


def fit_one(batch: pa.RecordBatch, **options: Any) -> Fitted:
    fitted = fit(STORED["ticker"], batch, options.pop("numeric", "float64"), now_us=NOW, **options)
    assert fitted.batch.num_rows + fitted.rejected_rows == batch.num_rows, "no row disappears"
    fitted.batch.validate(full=True)
    return fitted


def test_a_batch_in_the_tables_own_schema_is_not_copied(trades: Callable[..., pa.RecordBatch]) -> None:
    exact = fit(TRADES, trades(100), "float64", now_us=NOW).batch
    assert exact.schema.equals(TRADES.arrow_input(memory=True))
    again = fit(TRADES, exact, "float64", now_us=NOW)
    assert again.batch is exact
    assert again.rejected is None


def test_columns_are_matched_by_name_and_missing_ones_are_null(trades: Callable[..., pa.RecordBatch]) -> None:
    sent = trades(3)
    shuffled = sent.select(sorted(sent.schema.names, reverse=True))
    assert fit(TRADES, shuffled, "float64", now_us=NOW).batch.equals(fit(TRADES, sent, "float64", now_us=NOW).batch)
    bare = fit(TRADES, sent.select(["exchange", "symbol", "timestamp"]), "float64", now_us=NOW).batch
    assert bare["price"].null_count == bare["type"].null_count == 3
    assert bare["receipt_timestamp"].cast(pa.int64()).to_pylist() == [NOW] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": ["red"]}, "has no column 'colour'"),
        ({"seq": [1]}, "given by the server"),
        ({"symbol": None}, "'symbol' of table ticker is missing"),
        ({"timestamp": None}, "'timestamp' of table ticker is missing"),
        ({"bid": ["cheap"]}, "'bid' of table ticker cannot become double from string"),
        ({"bid": [[1.0]]}, "'bid' of table ticker cannot become double from list"),
        ({"bid": [{"a": 1}]}, "'bid' of table ticker cannot become double from struct"),
        ({"bid": [2**60 + 1]}, "'bid' of table ticker cannot become double from int64"),
        ({"symbol": [b"\xff"]}, "'symbol' of table ticker cannot become dictionary"),
        ({"symbol": labels([0], [b"\xff"])}, "'symbol' of table ticker cannot become dictionary"),
        ({"timestamp": [1.5]}, "'timestamp' of table ticker cannot become timestamp"),
        ({"timestamp": ["soon"]}, "'timestamp' of table ticker cannot become timestamp"),
        ({"timestamp": pa.array([2**60], pa.timestamp("s"))}, "'timestamp' of table ticker cannot become timestamp"),
    ],
)
def test_columns_that_do_not_fit_are_the_senders_mistake(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        fit_one(one(**change))
    assert caught.value.hint


def test_a_column_given_twice_is_refused() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(["X"])] * 2, names=["exchange", "exchange"])
    with pytest.raises(RowError, match="given twice"):
        fit_one(batch)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1], pa.int8()),
        pa.array([1], pa.uint64()),
        pa.array([1], pa.float32()),
        pa.array([1], pa.decimal128(10, 2)),
        pa.array(["1.0"]),
        labels([0], [1.0]),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("numeric", ["float64", "decimal"])
def test_numbers_are_widened(column: pa.Array, numeric: str) -> None:
    assert fit_one(one(bid=column), numeric=numeric).batch["bid"].to_pylist() == [1]


def test_decimals_keep_every_digit_that_was_sent_as_text() -> None:
    fitted = fit_one(one(bid=["12345678901234567890.123456789012345678"]), numeric="decimal")
    assert str(fitted.batch["bid"][0].as_py()) == "12345678901234567890.123456789012345678"


@pytest.mark.parametrize(
    "index", [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()], ids=str
)
@pytest.mark.parametrize("value", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()], ids=str)
def test_labels_of_any_index_and_value_type_are_taken(index: pa.DataType, value: pa.DataType) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], index), pa.array(["A", "B"]).cast(value))
    batch = pa.record_batch({"exchange": ["X"] * 3, "symbol": column, "timestamp": pa.array([US] * 3, TIMESTAMP)})
    fitted = fit_one(batch).batch
    assert fitted["symbol"].type.equals(LABEL)
    assert fitted["symbol"].to_pylist() == ["B", "A", "B"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()], ids=str)
def test_labels_may_come_as_plain_text(kind: pa.DataType) -> None:
    assert fit_one(one(symbol=pa.array(["A"]).cast(kind))).batch["symbol"].to_pylist() == ["A"]


def test_an_ordered_dictionary_is_taken() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(["A"]), ordered=True)
    assert fit_one(one(symbol=column)).batch["symbol"].type.equals(LABEL)


entries = st.lists(st.sampled_from(["A", "B", "C", "", None, "n\0l"]), min_size=1, max_size=6)


@given(data=st.data(), exact=st.booleans(), twice=entries)
def test_no_dictionary_whatever_its_entries_spoils_a_later_merge(data: st.DataObject, exact: bool, twice: list) -> None:
    segments = []
    expected: list[tuple[str, str | None]] = []
    for values in (data.draw(entries), twice, twice):
        indices = data.draw(st.lists(st.one_of(st.none(), st.integers(0, len(values) - 1)), min_size=1, max_size=9))
        column = labels(indices, values, pa.int32() if exact else pa.int8())
        n = len(indices)
        batch = pa.record_batch(
            {
                "exchange": labels([0] * n, ["X", None]),
                "symbol": column,
                "side": column,
                "timestamp": pa.array([US] * n, TIMESTAMP),
            }
        )
        if exact:
            schema = TRADES.arrow_input(memory=True)
            have = dict(zip(batch.schema.names, batch.columns, strict=True)) | {"receipt_timestamp": batch["timestamp"]}
            batch = pa.RecordBatch.from_arrays([have.get(f.name, pa.nulls(n, f.type)) for f in schema], schema=schema)
        fitted = fit(TRADES, batch, "float64", now_us=NOW)
        plain = [None if i is None else values[i] for i in indices]
        good = [v for v in plain if v and "\0" not in v]
        assert fitted.batch["symbol"].to_pylist() == fitted.batch["side"].to_pylist() == good
        assert fitted.rejected_rows == n - len(good)
        if good:
            numbered = add_seq(fitted.batch, TRADES.arrow(memory=True), len(expected) + 1)
            segments.append(make_segment(numbered))
            assert segments[-1].symbols == set(good)
            expected += [(v, v) for v in good]
    if segments:
        merged = merge(segments).batch
        assert list(zip(merged["symbol"].to_pylist(), merged["side"].to_pylist(), strict=True)) == expected


def test_a_few_rows_do_not_carry_a_large_dictionary_along() -> None:
    column = labels([700], [f"S{i}" for i in range(1_000)])
    assert len(fit_one(one(symbol=column)).batch["symbol"].dictionary) == 1


LIST_TYPES = [
    pa.list_(pa.float32()),
    pa.large_list(pa.float64()),
    pa.list_view(pa.float64()),
    pa.large_list_view(pa.int32()),
    pa.list_(pa.float64(), 2),
    pa.list_(pa.field("element", pa.float64(), nullable=False)),
    pa.list_(pa.decimal128(10, 2)),
]


@pytest.mark.parametrize("kind", LIST_TYPES, ids=str)
@pytest.mark.parametrize("numeric", ["float64", "decimal"])
def test_lists_of_every_layout_become_the_tables(kind: pa.DataType, numeric: str) -> None:
    batch = pa.record_batch(
        {
            "exchange": ["X"] * 2,
            "symbol": ["A"] * 2,
            "bid_prices": pa.array([[1, 2], [3, 4]], kind),
            "timestamp": pa.array([US] * 2, TIMESTAMP),
        }
    )
    fitted = fit(BOOK, batch, numeric, now_us=NOW).batch  # type: ignore[arg-type]
    assert fitted["bid_prices"].to_pylist() == [[1, 2], [3, 4]]
    assert fitted["ask_sizes"].to_pylist() == [None, None]


@given(
    lists=st.lists(st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=3)), min_size=1, max_size=8),
    kind=st.sampled_from([LIST_TYPES[1], LIST_TYPES[2], LIST_TYPES[3]]),
    data=st.data(),
)
def test_slices_and_nulls_of_lists_come_through(lists: list, kind: pa.DataType, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(lists) - 1))
    column = pa.array(lists, kind).slice(start)
    n = len(column)
    names = {"exchange": ["X"] * n, "symbol": ["A"] * n, "timestamp": pa.array([US] * n, TIMESTAMP)}
    fitted = fit(BOOK, pa.record_batch(names | {"bid_sizes": column}), "float64", now_us=NOW).batch
    fitted.validate(full=True)
    assert fitted["bid_sizes"].to_pylist() == lists[start:]


def test_a_list_view_whose_lists_lie_in_any_order_comes_through() -> None:
    offsets, sizes = pa.array([4, 0, 2, 1], pa.int32()), pa.array([2, 2, 0, 3], pa.int32())
    views = pa.ListViewArray.from_arrays(offsets, sizes, pa.array([0.0, 1, 2, 3, 4, 5]))
    names = {"exchange": ["X"] * 4, "symbol": ["A"] * 4, "timestamp": pa.array([US] * 4, TIMESTAMP)}
    fitted = fit(BOOK, pa.record_batch(names | {"bid_sizes": views}), "float64", now_us=NOW).batch
    assert fitted["bid_sizes"].to_pylist() == [[4, 5], [0, 1], [], [1, 2, 3]]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "+02:00", "America/New_York"])
def test_timestamps_of_every_unit_and_zone_are_the_same_instant(unit: str, zone: str | None) -> None:
    scale = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}[unit]
    sent = pa.array([int(US // scale) if scale >= 1 else US * 1_000 + 999], pa.int64()).cast(pa.timestamp(unit))
    if zone:
        sent = sent.cast(pa.int64()).cast(pa.timestamp(unit, zone))
    wanted = int(US // scale * scale) if scale >= 1 else US
    assert fit_one(one(timestamp=sent)).batch["timestamp"].cast(pa.int64()).to_pylist() == [wanted]


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (pa.array([US]), US),
        (pa.array([19_000], pa.date32()), 19_000 * 86_400_000_000),
        (pa.array(["2023-11-14 22:13:20.123456"]), US),
    ],
    ids=["int64", "date", "text"],
)
def test_times_may_come_as_microseconds_dates_or_text(sent: pa.Array, wanted: int) -> None:
    assert fit_one(one(timestamp=sent)).batch["timestamp"].cast(pa.int64()).to_pylist() == [wanted]


@pytest.mark.parametrize("us", [-1, -(2**62), TIME_MAX_US, 2**62, None])
@pytest.mark.parametrize("name", ["timestamp", "receipt_timestamp"])
def test_a_time_before_1970_or_after_2199_or_null_is_rejected_with_its_reason(us: int | None, name: str) -> None:
    both = {"exchange": ["X"] * 2, "symbol": ["A"] * 2, "bid": [1.0, 2.0], "timestamp": pa.array([US] * 2, TIMESTAMP)}
    fitted = fit_one(pa.record_batch(both | {name: pa.array([us, US], TIMESTAMP)}), producer=b"\x01\x02")
    assert fitted.batch["bid"].to_pylist() == [2.0]
    assert fitted.rejected is not None
    (row,) = fitted.rejected.to_pylist()
    assert f"column {name!r} is" in row["reason"]
    assert (row["table"], row["exchange"], row["symbol"], row["producer"]) == ("ticker", "X", "A", "0102")
    assert json.loads(row["row"])["bid"] == 1.0
    assert fitted.rejected.schema.equals(STORED["rejected"].arrow_input(memory=True))


def test_the_first_and_the_last_time_fit() -> None:
    batch = pa.record_batch(
        {
            "exchange": ["X"] * 2,
            "symbol": ["A"] * 2,
            "timestamp": pa.array([0, TIME_MAX_US - 1], TIMESTAMP),
        }
    )
    assert fit_one(batch).rejected is None


@pytest.mark.parametrize("symbol", ["", "a\0b", None])
def test_a_row_without_a_name_is_rejected_under_a_dash(symbol: str | None) -> None:
    fitted = fit_one(one(symbol=pa.array([symbol], pa.string()), bid=[float("nan")], ask=[float("inf")]))
    assert fitted.batch.num_rows == 0
    assert fitted.rejected is not None
    (row,) = fitted.rejected.to_pylist()
    assert row["symbol"] == "-"
    assert row["producer"] is None

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(row["row"], parse_constant=no_constant) | {"timestamp": "", "receipt_timestamp": ""} == {
        "exchange": "X",
        "symbol": symbol,
        "bid": "NaN",
        "ask": "Infinity",
        "timestamp": "",
        "receipt_timestamp": "",
    }
    # what was rejected fits into the table of the rejected
    assert fit(STORED["rejected"], fitted.rejected, "float64", now_us=NOW).rejected is None


def test_an_empty_batch_fits(trades: Callable[..., pa.RecordBatch]) -> None:
    fitted = fit(TRADES, trades(0), "float64", now_us=NOW)
    assert (fitted.batch.num_rows, fitted.rejected) == (0, None)
    dictionary = fit(TRADES, trades(5), "float64", now_us=NOW).batch.slice(2, 0)
    assert fit(TRADES, dictionary, "float64", now_us=NOW).batch.num_rows == 0


def test_a_large_batch_in_the_tables_schema_is_fitted_in_two_milliseconds(
    trades: Callable[..., pa.RecordBatch],
) -> None:
    batch = fit(TRADES, trades(65_536, symbols=[f"S{i}" for i in range(500)]), "float64", now_us=NOW).batch
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        fit(TRADES, batch, "float64", now_us=NOW)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.002


def test_many_bad_rows_among_good_ones_are_told_apart(trades: Callable[..., pa.RecordBatch]) -> None:
    batch = trades(1_000)
    times = batch["timestamp"].cast(pa.int64()).to_numpy().copy()
    times[::7] = -1
    index = batch.schema.get_field_index("timestamp")
    spoiled = batch.set_column(index, "timestamp", pa.array(times).cast(TIMESTAMP))
    fitted = fit(TRADES, spoiled, "float64", now_us=NOW)
    bad = np.arange(0, 1_000, 7).astype(float).tolist()
    assert fitted.rejected is not None
    assert [json.loads(text)["price"] for text in fitted.rejected["row"].to_pylist()] == bad
    assert sorted(fitted.batch["price"].to_pylist() + bad) == [float(i) for i in range(1_000)]
