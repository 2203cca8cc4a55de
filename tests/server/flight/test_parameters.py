"""Bound values arrive in the statement's order and as what they are."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.errors import StatementError
from tickflight_server.flight.parameters import read_batches, rows_of


def batch(names: list[str], values: list[Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([v]) for v in values], names=names)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["0", "1"], ("1", "2")),
        (["1", "2"], ("1", "2")),
        (["", ""], ("1", "2")),
        (["x", "x"], ("1", "2")),
        (["x", "y"], ("1", "2")),
        (["0", "1"], ("b", "a")),
        (["", ""], ("b", "a")),
        (["b", "a"], ("b", "a")),
        (["B", "A"], ("b", "a")),
    ],
)
def test_values_go_by_position_or_in_order_of_names(given: list[str], wanted: tuple[str, ...]) -> None:
    assert list(rows_of([batch(given, ["first", "second"])], wanted)) == [("first", "second")]


@pytest.mark.parametrize(
    ("given", "wanted"), [(["a", "b"], ("b", "a")), (["2", "1"], ("1", "2")), (["Sym", "t"], ("T", "sym"))]
)
def test_values_go_by_name_where_the_names_are_the_statements(given: list[str], wanted: tuple[str, ...]) -> None:
    assert list(rows_of([batch(given, ["first", "second"])], wanted)) == [("second", "first")]


def test_one_named_parameter_takes_the_one_value() -> None:
    assert list(rows_of([batch(["whatever"], [1])], ("symbol",))) == [(1,)]


@pytest.mark.parametrize("given", [["symbl", "since"], ["since", "symbl"], ["symbol", "symbol"]])
def test_wrong_name_is_refused_and_not_guessed_at(given: list[str]) -> None:
    with pytest.raises(
        StatementError, match=r"no value is given for \$\w+\. Hint: Its parameters are \$symbol, \$since"
    ):
        list(rows_of([batch(given, [1, 2])], ("symbol", "since")))


@pytest.mark.parametrize(("values", "names"), [([1], ("1", "2")), ([1, 2], ("1",)), ([1], ()), ([], ("a",))])
def test_wrong_number_of_values_is_refused(values: list[Any], names: tuple[str, ...]) -> None:
    with pytest.raises(StatementError, match=f"has {len(names)} parameters, {len(values)} values were given"):
        list(
            rows_of(
                [
                    pa.RecordBatch.from_arrays(
                        [pa.array([v]) for v in values], names=[str(i) for i in range(len(values))]
                    )
                ],
                names,
            )
        )


def test_every_row_of_every_batch_is_a_binding() -> None:
    batches = [pa.record_batch({"0": [1, 2]}), pa.record_batch({"0": [3]})]
    assert list(rows_of(batches, ("1",))) == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        (pa.scalar(None, pa.int64()), None),
        (pa.scalar(5, pa.int8()), 5),
        (pa.scalar(2**64 - 1, pa.uint64()), 2**64 - 1),
        (pa.scalar(1.5, pa.float32()), 1.5),
        (pa.scalar(True), True),
        (pa.scalar("é", pa.large_string()), "é"),
        (pa.scalar("é", pa.string_view()), "é"),
        (pa.scalar(b"\x00"), b"\x00"),
        (pa.scalar(Decimal("1.50"), pa.decimal128(5, 2)), Decimal("1.50")),
        (pa.scalar([1, 2]), [1, 2]),
        (pa.scalar({"a": 1}), {"a": 1}),
        (pa.scalar(date(2026, 1, 2)), date(2026, 1, 2)),
        (pa.scalar(time(1, 2, 3, 4)), time(1, 2, 3, 4)),
        (pa.scalar(3_723_000_004_999, pa.time64("ns")), time(1, 2, 3, 4)),
        (pa.scalar(timedelta(seconds=1)), timedelta(seconds=1)),
        (pa.scalar(1_500, pa.duration("ns")), timedelta(microseconds=1)),
        (pa.scalar(datetime(2026, 1, 2), pa.timestamp("s")), datetime(2026, 1, 2)),
        (pa.scalar(1_767_312_000_000_001_999, pa.timestamp("ns")), datetime(2026, 1, 2, 0, 0, 0, 1)),
        (pa.scalar(1_767_312_000_000_000, pa.timestamp("us", "UTC")), datetime(2026, 1, 2)),
        (pa.scalar(1_767_312_000_000_000, pa.timestamp("us", "Asia/Tokyo")), datetime(2026, 1, 2)),
        (pa.scalar(-62_135_596_800_000_000, pa.timestamp("us")), datetime(1, 1, 1)),
        (pa.scalar(253_402_300_799_999_999, pa.timestamp("us")), datetime.max),
        (pa.array(["a", "b"]).dictionary_encode()[1], "b"),
    ],
)
def test_value_is_what_it_was(scalar: pa.Scalar, expected: Any) -> None:
    given = pa.RecordBatch.from_arrays([pa.array([scalar], scalar.type)], names=["0"])
    assert list(rows_of([given], ("1",))) == [(expected,)]


def test_time_beyond_the_calendar_is_refused() -> None:
    far = pa.RecordBatch.from_arrays([pa.array([2**62], pa.int64()).cast(pa.timestamp("us"))], names=["0"])
    with pytest.raises(StatementError, match=r"a value of type timestamp\[us\] cannot be bound"):
        list(rows_of([far], ("1",)))


def test_stream_of_batches_is_read() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("0", pa.int64())])) as writer:
        writer.write_batch(pa.record_batch({"0": [1]}))
        writer.write_batch(pa.record_batch({"0": [2]}))
    assert [b.num_rows for b in read_batches(sink.getvalue().to_pybytes())] == [1, 1]


@pytest.mark.parametrize("data", [b"junk", b"\xff" * 100, b"\xff\xff\xff\xff\x10\x00\x00\x00"])
def test_bytes_that_are_no_stream_are_refused(data: bytes) -> None:
    with pytest.raises(StatementError, match="the parameters are no Arrow IPC stream") as caught:
        read_batches(data)
    assert "\n" not in str(caught.value)
