"""Values come out of the engine as they were sent, in the engine's type for theirs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickflight_server.errors import StatementError
from tickflight_server.flight.parameter_values import values_of
from tickflight_server.query.database import relation
from tickflight_server.query.values import TypedValue

Back = Callable[..., pa.ChunkedArray]
US_LAST = 9_223_372_036_854_775_806
US_FIRST = -9_223_372_022_400_000_000
NS_FIRST = -9_223_286_400_000_000_000
INTERVAL = pa.month_day_nano_interval()


@pytest.fixture(scope="module")
def back() -> Back:
    """Bind each value of a column; return what the engine says that they are."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")

    def run(column: pa.Array, wanted: pa.DataType | None = None) -> pa.ChunkedArray:
        chunks = [
            relation(connection, "SELECT ?", [value]).to_arrow_table().column(0)
            for value in values_of(column, wanted, "1")
        ]
        return pa.chunked_array([chunk for column in chunks for chunk in column.chunks])

    return run


def far(ticks: int, kind: pa.DataType) -> pa.Array:
    """Return one value of a type of 8 bytes, by what its bytes say."""
    return pa.array([ticks], pa.int64()).view(kind)


KEPT = [
    *(pa.array([-(1 << (bits - 1)), 0, (1 << (bits - 1)) - 1], f"int{bits}") for bits in (8, 16, 32, 64)),
    *(pa.array([0, 1, (1 << bits) - 1], f"uint{bits}") for bits in (8, 16, 32, 64)),
    pa.array([True, False]),
    pa.array([0.1, -0.0, 3.4e38, float("inf"), float("-inf")], pa.float32()),
    pa.array([0.1, -0.0, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf")]),
    pa.array(["", "é", "a\x00b", "NULL", 'it\'s \\ "x"']),
    pa.array([b"", b"\x00\xff'\\", b"abc"]),
    pa.array([Decimal("1.50"), Decimal("-999.99")], pa.decimal128(5, 2)),
    pa.array([Decimal("9" * 38), Decimal("-" + "9" * 38)], pa.decimal128(38, 0)),
    pa.array([Decimal("0." + "1" * 38)], pa.decimal128(38, 38)),
    pa.array([Decimal("0E-10")], pa.decimal128(20, 10)),
    pa.array([date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)]),
    pa.array([-719_163, 2_932_897, -(1 << 31) + 2, (1 << 31) - 2], pa.int32()).view(pa.date32()),
    *(far(ticks, pa.timestamp("us")) for ticks in (-1, US_FIRST, US_LAST, US_LAST + 1, -US_LAST - 1)),
    *(far(ticks, pa.timestamp("us")) for ticks in (-62_135_596_800_000_000, 253_402_300_799_999_999)),
    *(far(ticks, pa.timestamp("ns")) for ticks in (1, -1, NS_FIRST, US_LAST, 1_767_312_000_123_456_789)),
    *(far(ticks, pa.timestamp("s")) for ticks in (-1, 1_767_312_000, 9_000_000_000_000)),
    *(far(ticks, pa.timestamp("ms")) for ticks in (-1, 1_767_312_000_123)),
    *(far(ticks, pa.time64("us")) for ticks in (0, 1, 86_399_999_999)),
    *(far(ticks, pa.time64("ns")) for ticks in (0, 1, 86_399_999_999_999)),
    pa.array([(1, 2, 3000), (-1, 0, -3_600_000_000_001_000), (0, 99_999_999, 0)], INTERVAL),
    pa.array([[1, None], [], [3]], pa.list_(pa.int8())),
    pa.array([[[]], [[1], None, []]], pa.list_(pa.list_(pa.int32()))),
    pa.array([["a,b", "it's", "\\", "NULL", "", '"', None, "[x]", "é\n"]]),
    pa.array([[b"\x00\xff'\\", b""]]),
    pa.array([[0.1, float("inf"), 1e-300]]),
    pa.array([[True, False, None]]),
    pa.array([[Decimal("1.25")]], pa.list_(pa.decimal128(10, 3))),
    pa.array([[date(1, 1, 1), date(9999, 12, 31)]]),
    pa.array([[datetime(1, 1, 1), datetime.max, None]]),
    pa.array([[1_767_312_000_123_456_789]], pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("ns"))),
    pa.array([[(1, 2, 3000)]], pa.list_(INTERVAL)),
    pa.array([[1, 2], [3, None]], pa.list_(pa.int16(), 2)),
    pa.array(
        [{"a": 1, "B c": None, "end": ["x"]}],
        pa.struct({"a": pa.int8(), "B c": pa.int64(), "end": pa.list_(pa.string())}),
    ),
    pa.array([{'it\'s "q"': {"b": [1.5]}}]),
    pa.array([[("a", 1), ("it's", None)], []], pa.map_(pa.string(), pa.int32())),
    pa.array([[(1, [{"k": 2}])]], pa.map_(pa.int64(), pa.list_(pa.struct({"k": pa.int8()})))),
]


@pytest.mark.parametrize("column", KEPT, ids=lambda c: str(c.type))
def test_value_and_type_are_kept(back: Back, column: pa.Array) -> None:
    found = back(column, pa.string())
    assert _unnamed(found.type) == _unnamed(column.type)
    # Python has no dates and times that far
    same = found.cast(column.type)
    assert same.equals(pa.chunked_array([column])) or same.to_pylist() == column.to_pylist()


def _unnamed(kind: pa.DataType) -> str:
    """Return a type without the names and nullability of list items."""
    return re.sub(r"<\w*: ", "<", str(kind)).replace(" not null", "")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["é"], pa.large_string()), pa.array(["é"])),
        (pa.array(["é"], pa.string_view()), pa.array(["é"])),
        (pa.array(["a", "b", "a"]).dictionary_encode(), pa.array(["a", "b", "a"])),
        (pa.array([1, 2], pa.int16()).dictionary_encode(), pa.array([1, 2], pa.int16())),
        (pa.RunEndEncodedArray.from_arrays([2], ["x"]), pa.array(["x", "x"])),
        (pa.array([b"x"], pa.large_binary()), pa.array([b"x"])),
        (pa.array([b"x"], pa.binary_view()), pa.array([b"x"])),
        (pa.array([b"xy"], pa.binary(2)), pa.array([b"xy"])),
        (pa.array([1.5], pa.float16()), pa.array([1.5], pa.float32())),
        (pa.array([86_400_000], pa.int64()).view(pa.date64()), pa.array([date(1970, 1, 2)])),
        (pa.array([1], pa.int32()).view(pa.time32("s")), pa.array([1_000_000], pa.int64()).view(pa.time64("us"))),
        (pa.array([1], pa.int32()).view(pa.time32("ms")), pa.array([1000], pa.int64()).view(pa.time64("us"))),
        (far(-1_500_000, pa.duration("ns")), pa.array([(0, 0, -1_500_000)], INTERVAL)),
        (far(86_400, pa.duration("s")), pa.array([(0, 0, 86_400_000_000_000)], INTERVAL)),
        (pa.array([Decimal(5)], pa.decimal256(76, 2)), pa.array([Decimal(5)], pa.decimal128(38, 2))),
        (pa.array([Decimal(1200)], pa.decimal128(3, -2)), pa.array([Decimal(1200)], pa.decimal128(5, 0))),
        (pa.array([Decimal("1.5")], pa.decimal32(5, 2)), pa.array([Decimal("1.5")], pa.decimal128(5, 2))),
        (pa.array([UUID(int=5).bytes], pa.uuid()), pa.array([str(UUID(int=5))])),
        (pa.array(['{"a": 1}'], pa.json_(pa.string())), pa.array(['{"a": 1}'])),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())), pa.array([True, False])),
        (pa.array([[1]], pa.large_list(pa.int8())), pa.array([[1]], pa.list_(pa.int8()))),
        (pa.array([[1]], pa.list_view(pa.int8())), pa.array([[1]], pa.list_(pa.int8()))),
        (pa.array([["x"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), pa.array([["x"]])),
        (pa.array([[None]]), pa.array([[None]], pa.list_(pa.int32()))),
        (far(5, pa.timestamp("us", "Asia/Tokyo")), far(5, pa.timestamp("us"))),
        (far(5, pa.timestamp("ns", "UTC")), far(5, pa.timestamp("ns"))),
    ],
    ids=lambda c: str(c.type),
)
def test_value_comes_in_the_nearest_type_that_sql_has(back: Back, column: pa.Array, expected: pa.Array) -> None:
    found = back(column)
    assert found.cast(expected.type).to_pylist() == expected.to_pylist()
    assert found.type.id == expected.type.id


NULLS = [
    *(
        "int8",
        "uint64",
        "float16",
        "float32",
        "float64",
        "string",
        "large_string",
        "binary",
        "bool",
        "date32",
        "date64",
    ),
    *(
        pa.date64(),
        pa.null(),
        pa.decimal128(5, 2),
        pa.decimal256(70, 2),
        pa.timestamp("ns", "UTC"),
        pa.timestamp("s"),
        INTERVAL,
    ),
    *(pa.duration("s"), pa.time32("s"), pa.time64("ns"), pa.uuid(), pa.json_(), pa.list_(pa.int8()), pa.binary(3)),
    *(
        pa.struct({"a": pa.int8()}),
        pa.map_(pa.string(), pa.int8()),
        pa.dictionary(pa.int8(), pa.string()),
        pa.string_view(),
    ),
]


@pytest.mark.parametrize("kind", NULLS, ids=str)
def test_null_of_every_type_is_none(kind: Any) -> None:
    assert values_of(pa.nulls(2, kind), None, "1") == [None, None]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_not_a_number_stays_none(back: Back, kind: pa.DataType) -> None:
    assert math.isnan(back(pa.array([math.nan]).cast(kind))[0].as_py())


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (far(1, pa.duration("ns")), "SQL's intervals end at the microsecond"),
        (far(1 << 62, pa.duration("s")), "the interval is out of SQL's range"),
        (pa.array([(0, 0, 1)], INTERVAL), "SQL's intervals end at the microsecond"),
        (far(US_FIRST - 1, pa.timestamp("us")), "the time is out of SQL's range"),
        (far(NS_FIRST - 1, pa.timestamp("ns")), "the time is out of SQL's range"),
        (far(1 << 62, pa.timestamp("s")), "the time is out of SQL's range"),
        (pa.array([-(1 << 31)], pa.int32()).view(pa.date32()), "the date is out of SQL's range"),
        (far(-1, pa.time64("us")), "it is no time of day"),
        (far(86_400_000_000_001, pa.time64("ns")), "it is no time of day"),
        (pa.array([Decimal("9" * 39)], pa.decimal256(76, 0)), "SQL's decimals have 38 digits"),
        (pa.array([[Decimal(1)]], pa.list_(pa.decimal256(76, 0))), "SQL's decimals have 38 digits"),
        (pa.array([{}], pa.struct([])), "SQL has no struct without fields"),
    ],
    ids=lambda c: str(c.type) if isinstance(c, pa.Array) else "",
)
def test_value_that_sql_cannot_hold_is_refused(column: pa.Array, reason: str) -> None:
    with pytest.raises(StatementError, match=rf"a value of type .* cannot be bound to \$since: {reason}\."):
        values_of(column, None, "since")


def test_time_to_the_microsecond_is_the_tables_plain_constant() -> None:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "Asia/Tokyo")):
        assert values_of(far(1_767_312_000_000_001, kind), None, "1") == [datetime(2026, 1, 2, 0, 0, 0, 1)]


@pytest.mark.parametrize(
    ("column", "wanted", "expected"),
    [
        (pa.array([5]), pa.int32(), TypedValue(5, "INTEGER")),
        (pa.array([1 << 40]), pa.int32(), TypedValue(1 << 40, "BIGINT")),
        (pa.array([-1]), pa.uint64(), TypedValue(-1, "BIGINT")),
        (pa.array([5], pa.int8()), pa.uint64(), TypedValue(5, "UBIGINT")),
        (pa.array([5]), pa.string(), TypedValue(5, "BIGINT")),
        (pa.array([5]), None, 5),
        (pa.array([5], pa.int8()), None, TypedValue(5, "TINYINT")),
        (pa.array([0.5]), pa.float32(), TypedValue(0.5, "FLOAT")),
        (pa.array([0.1]), pa.float32(), 0.1),
        (far(1000, pa.timestamp("ns")), pa.timestamp("us"), datetime(1970, 1, 1, 0, 0, 0, 1)),
        (far(1, pa.timestamp("ns")), pa.timestamp("us"), TypedValue("1970-01-01 00:00:00.000000001", "TIMESTAMP_NS")),
        (far(1, pa.timestamp("s")), pa.timestamp("us"), datetime(1970, 1, 1, 0, 0, 1)),
        (far(1000, pa.timestamp("ns", "UTC")), pa.timestamp("us"), datetime(1970, 1, 1, 0, 0, 0, 1)),
        (far(1, pa.timestamp("us", "Asia/Tokyo")), pa.timestamp("us"), datetime(1970, 1, 1, 0, 0, 0, 1)),
        (
            far(1, pa.timestamp("us", "Asia/Tokyo")),
            pa.timestamp("us", "UTC"),
            TypedValue("1970-01-01 00:00:00.000001+00", "TIMESTAMP WITH TIME ZONE"),
        ),
        (
            far(1, pa.timestamp("s", "UTC")),
            pa.string(),
            TypedValue("1970-01-01 00:00:01.000000+00", "TIMESTAMP WITH TIME ZONE"),
        ),
        (
            far(1, pa.timestamp("ns", "UTC")),
            pa.timestamp("us", "UTC"),
            TypedValue("1970-01-01 00:00:00.000000001+00", "TIMESTAMPTZ_NS"),
        ),
        (far(1000, pa.time64("ns")), pa.time64("us"), TypedValue("00:00:00.000001", "TIME")),
        (far(1, pa.time64("ns")), pa.time64("us"), TypedValue("00:00:00.000000001", "TIME_NS")),
    ],
)
def test_value_takes_its_parameters_type_where_it_stays_the_same(
    column: pa.Array, wanted: pa.DataType, expected: Any
) -> None:
    assert values_of(column, wanted, "1") == [expected]


@given(st.integers(US_FIRST, US_LAST))
@settings(max_examples=200, deadline=None)
def test_any_instant_is_kept(back: Back, ticks: int) -> None:
    assert back(far(ticks, pa.timestamp("us"))).cast(pa.int64()).to_pylist() == [ticks]


@given(st.integers(NS_FIRST, US_LAST))
@settings(max_examples=200, deadline=None)
def test_any_nanosecond_is_kept(back: Back, ticks: int) -> None:
    assert back(far(ticks, pa.timestamp("ns"))).cast(pa.int64()).to_pylist() == [ticks]


@given(st.lists(st.text() | st.none(), max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_list_of_texts_is_kept(back: Back, texts: list[str | None]) -> None:
    column = pa.array([texts], pa.list_(pa.string()))
    assert back(column).to_pylist() == [texts]


@given(st.dictionaries(st.text(min_size=1), st.binary(), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_map_is_kept(back: Back, entries: dict[str, bytes]) -> None:
    column = pa.array([list(entries.items())], pa.map_(pa.string(), pa.binary()))
    assert back(column).to_pylist() == [list(entries.items())]
