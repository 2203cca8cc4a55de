"""Whole columns and single values: what fits is exact, what does not is named."""

from __future__ import annotations

import decimal
import enum
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.feed.columns import SECONDS_END, column, sides, times
from tickflight_server.schemas import DECIMAL, Column

PRICE = Column("price", "number", "price")
TIME = Column("start", "time", "start")
TIMESTAMP = Column("timestamp", "time", "timestamp", required=True)
SYMBOL = Column("symbol", "label", "symbol", required=True)
SIDE = Column("side", "label", "side")
ID = Column("id", "text", "id")
TRADES = Column("trades", "int", "trades")
CLOSED = Column("closed", "flag", "closed")

fitting = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**19), max_value=10**19, places=18)
any_decimal = st.decimals() | st.builds(
    lambda digits, zeros, e: Decimal((0, tuple(map(int, str(digits * 10**zeros))), e)),
    *(st.integers(0, 10**60), st.integers(0, 40), st.integers(-130, 30)),
)
seconds = st.floats(min_value=0, max_value=SECONDS_END, exclude_max=True, allow_subnormal=False)


@given(st.lists(fitting))
def test_decimals_that_fit_are_exact(values: list[Decimal]) -> None:
    filled = column(PRICE, values, "decimal")
    assert filled.array.type == DECIMAL
    assert filled.bad == {}
    assert filled.array.to_pylist() == values


@given(st.lists(any_decimal))
def test_every_decimal_is_exact_or_named(values: list[Decimal]) -> None:
    filled = column(PRICE, values, "decimal")
    for index, (value, stored) in enumerate(zip(values, filled.array.to_pylist(), strict=True)):
        fits = value.is_finite() and (value == 0 or value.adjusted() < 20) and value == _at_scale_18(value)
        assert (index in filled.bad) != fits
        assert stored == (value if fits else None)


def _at_scale_18(value: Decimal) -> Decimal:
    numerator, denominator = value.as_integer_ratio()
    return Decimal(numerator * 10**18 // denominator).scaleb(-18, _WIDE) if denominator else value


_WIDE = decimal.Context(prec=10_000, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


@given(st.lists(any_decimal))
def test_float64_is_what_float_gives(values: list[Decimal]) -> None:
    filled = column(PRICE, values, "float64")
    for index, (value, stored) in enumerate(zip(values, filled.array.to_pylist(), strict=True)):
        finite = not value.is_snan() and math.isfinite(_float(value))
        assert (index in filled.bad) != finite
        assert stored == (float(value) if finite else None)


def _float(value: Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


@given(st.lists(seconds))
def test_times_are_rounded_as_python_rounds(values: list[float]) -> None:
    filled = column(TIME, values, "float64")
    assert filled.array.cast(pa.int64()).to_pylist() == [round(value * 1e6) for value in values]


@given(st.lists(seconds, min_size=1))
def test_times_as_text_are_the_same_times(values: list[float]) -> None:
    assert column(TIME, [repr(v) for v in values], "float64").array == column(TIME, values, "float64").array


def test_event_without_time_gets_the_time_of_receipt() -> None:
    filled = times(TIMESTAMP, [None, 0, 0.0, 5.0], [1.0, 2.0, 3.0, 4.0])
    assert filled.bad == {}
    assert filled.array.cast(pa.int64()).to_pylist() == [1_000_000, 2_000_000, 3_000_000, 5_000_000]
    mixed = times(TIMESTAMP, [None, "6.5", "soon", -1.0], ["1.5", "2.0", "3.0", 4.0])
    assert mixed.array.cast(pa.int64()).to_pylist() == [1_500_000, 6_500_000, None, None]
    assert set(mixed.bad) == {2, 3}


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        (PRICE, Decimal("NaN"), "price: Decimal('NaN') is not a finite number"),
        (PRICE, Decimal("-Infinity"), "not a finite number"),
        (PRICE, Decimal("1e400"), "not a finite number"),
        (PRICE, Decimal("sNaN"), "is not a number"),
        (PRICE, float("nan"), "nan is not a finite number"),
        (PRICE, "cheap", "'cheap' is not a number"),
        (PRICE, [1], "[1] is not a number"),
        (SYMBOL, None, "symbol: is missing"),
        (SYMBOL, "", "symbol: is missing"),
        (SYMBOL, 7, "7 is not text"),
        (TIMESTAMP, float("inf"), "not a finite time"),
        (TIMESTAMP, -1.0, "outside 1970..2200"),
        (TIMESTAMP, 1_700_000_000_000.0, "outside 1970..2200"),
        (TIMESTAMP, SECONDS_END, "outside 1970..2200"),
        (TIMESTAMP, None, "is missing"),
        (TIMESTAMP, 0.0, "is missing"),
        (TIMESTAMP, "noon", "is not a time in seconds"),
        (TRADES, 1.5, "1.5 is not a whole number"),
        (TRADES, "many", "not a whole number"),
        (TRADES, 1 << 63, "does not fit 64 bits"),
        (TRADES, math.inf, "not a whole number"),
    ],
)
def test_value_that_does_not_fit_is_named_and_the_others_stay(spec: Column, value: Any, said: str) -> None:
    fine = {"number": Decimal("1.5"), "label": "BTC-USDT", "time": 1.5, "int": 3}[spec.kind]
    filled = column(spec, [fine, value, fine], "float64")
    assert list(filled.bad) == [1]
    assert said in filled.bad[1]
    assert filled.array.is_valid().to_pylist() == [True, False, True]
    assert filled.array.type == spec.arrow_type("float64", memory=True)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Decimal("1e20"), "over 20 whole digits"),
        (Decimal("1e-19"), "over 18 digits after the point"),
        (Decimal("1e-999999"), "over 18 digits after the point"),
        (Decimal("Infinity"), "not a finite number"),
        (float("nan"), "not a finite number"),
        ("x", "not a number"),
        (None, None),
        (Decimal("1." + "0" * 60), None),
        (0.1, None),
        (3, None),
        ("2.50", None),
    ],
)
def test_decimal_column_keeps_or_names(value: Any, said: str | None) -> None:
    filled = column(PRICE, [Decimal("2"), value], "decimal")
    if said is None:
        assert filled.bad == {}
        assert filled.array[1].as_py() == (None if value is None else Decimal(str(value)))
    else:
        assert said in filled.bad[1]


def test_missing_values_are_null_where_a_column_allows_them() -> None:
    for spec in (PRICE, TIME, SIDE, ID, TRADES, CLOSED):
        for values in ([None, None], [None]):
            filled = column(spec, values, "float64")
            assert filled.bad == {}
            assert filled.array.null_count == len(values)
    assert column(PRICE, [None, Decimal("1")], "float64").array.to_pylist() == [None, 1.0]


def test_other_forms_are_kept_as_text() -> None:
    class Kind(enum.Enum):
        BUY = "buy"
        NONE = None

    assert column(SIDE, [Kind.BUY, Kind.NONE, "sell"], "float64").array.to_pylist() == ["buy", None, "sell"]
    assert column(ID, [12, "\ud800x", "é"], "float64").array.to_pylist() == ["12", "\\ud800x", "é"]
    assert column(TRADES, ["12", 3.0, None], "float64").array.to_pylist() == [12, 3, None]
    assert column(CLOSED, [True, 0, None], "float64").array.to_pylist() == [True, False, None]


def test_labels_are_dictionaries_with_few_values() -> None:
    array = column(SYMBOL, ["a", "b", "a"], "float64").array
    assert array.type == pa.dictionary(pa.int32(), pa.string())
    assert array.dictionary.to_pylist() == ["a", "b"]


def test_level_that_does_not_fit_spoils_its_own_book_alone() -> None:
    rows = [[(Decimal(1), Decimal(2))], [(Decimal("NaN"), Decimal(2))], [(1, 2, 3)], [(1, None)], 7, [], [(3, 0)]]
    filled = sides("bids", rows, 2, "float64")
    assert set(filled.bad) == {1, 2, 3, 4}
    assert filled.prices.to_pylist() == [[1.0], [], [], [], [], [], [3.0]]
    assert filled.sizes.to_pylist() == [[2.0], [], [], [], [], [], [0.0]]
    assert filled.ids is None


def test_widths_that_cancel_out_are_found() -> None:
    filled = sides("bids", [[(1,), (2, 3, 4)], [(5, 6)]], 2, "float64")
    assert set(filled.bad) == {0}
    assert filled.prices.to_pylist() == [[], [5.0]]
