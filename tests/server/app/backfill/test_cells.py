"""Cells become what the file says, or a reason."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from backfill_files import cells


def test_decimals_keep_every_digit() -> None:
    found = cells({"n": ["0.00001000", "12345678901234567890.123456789012345678", "1e-5", None]}, "decimal").number("n")
    assert found.to_pylist()[:3] == [
        Decimal("0.000010000000000000"),
        Decimal("12345678901234567890.123456789012345678"),
        Decimal("0.000010000000000000"),
    ]
    assert found[3].as_py() is None


def test_a_decimal_that_needs_more_digits_is_a_fault_and_not_rounded() -> None:
    some = cells({"n": ["1", "0.1234567890123456789", "123456789012345678901"]}, "decimal")
    assert some.number("n").to_pylist() == [Decimal(1), None, None]
    assert sorted(some.faults) == [1, 2]


def test_floats_of_a_parquet_file_become_the_decimals_that_they_show() -> None:
    assert cells({"n": pa.array([0.1, 65000.1])}, "decimal").number("n").to_pylist() == [
        Decimal("0.1"),
        Decimal("65000.1"),
    ]


@pytest.mark.parametrize("text", ["abc", " 1", "1,2", "nan", "inf", "-inf", "0x10"])
def test_what_is_no_number_is_a_fault(text: str) -> None:
    some = cells({"n": ["1", text]})
    assert some.number("n").to_pylist() == [1.0, None]
    assert "number" in some.faults[1]
    assert repr(text) in some.faults[1]


def test_times_of_digits_are_told_apart_by_size() -> None:
    some = cells({"t": ["1735689600000", "1735689600000123", "1735689600"]})
    assert some.time("t", unit="ms_us").to_pylist()[:2] == [1735689600000000, 1735689600000123]
    assert list(some.faults) == [2]


def test_times_of_text_are_utc() -> None:
    some = cells({"t": ["2024-01-01 00:00:00.000001", "2024-01-01T01:00:00+01:00", "soon", None]})
    assert some.time("t").to_pylist() == [1704067200000001, 1704067200000000, None, None]
    assert list(some.faults) == [2]
    zoned = pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], pa.timestamp("ns", "Europe/Berlin"))
    assert cells({"t": zoned}).time("t").to_pylist() == [1704067200000000]


@pytest.mark.parametrize("text", ["-1", "7258118400000000", "99999999999999999999"])
def test_a_time_that_the_store_does_not_take_is_a_fault(text: str) -> None:
    some = cells({"t": ["1704067200000000", text]})
    some.time("t")
    assert list(some.faults) == [1]


def test_flags_in_any_case() -> None:
    some = cells({"f": ["true", "False", "1", "0", None, "yes"]})
    assert some.flag("f").to_pylist()[:5] == [True, False, True, False, None]
    assert list(some.faults) == [5]


def test_labels_get_their_meaning_or_a_fault() -> None:
    some = cells({"s": ["A", "B", None, "A"]})
    assert some.label("s", {"A": "x"}.get, "is unknown").to_pylist()[0] == "x"
    assert some.faults == {1: "s 'B' is unknown"}


def test_lists_of_numbers_from_json() -> None:
    some = cells({"l": ["[1.5,2]", "[]", None, '["3.25", null]', "[1,x]", "7"]})
    assert some.numbers("l").to_pylist()[:4] == [[1.5, 2.0], [], None, [3.25, None]]
    assert sorted(some.faults) == [4, 5]


def test_lists_of_texts_from_json() -> None:
    some = cells({"l": ['["a","b,c"]', "[]", None, "{}", "[1"]})
    assert some.texts("l").to_pylist() == [["a", "b,c"], [], None, None, None]
    assert sorted(some.faults) == [3, 4]


def test_the_first_reason_of_a_row_counts() -> None:
    some = cells({"a": ["x"], "b": ["y"]})
    some.number("a")
    some.number("b")
    assert some.faults == {0: "a 'x' is not a number"}
    assert some.good().to_pylist() == [False]


def test_missing_values_are_faults_where_they_are_required() -> None:
    some = cells({"a": ["1", None]})
    some.require("a", some.number("a"))
    assert some.faults == {1: "a is missing"}
    assert cells({"a": ["1"]}).good() is None
