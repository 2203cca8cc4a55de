"""Bound values arrive in the statement's order and as what they are."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.errors import StatementError
from tickflight_server.flight.parameters import read_batches, rows_of
from tickflight_server.query.values import TypedValue


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
    assert list(rows_of([batch(["whatever"], [1.0])], ("symbol",))) == [(1.0,)]


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
    batches = [pa.record_batch({"0": ["1", "2"]}), pa.record_batch({"0": ["3"]})]
    assert list(rows_of(batches, ("1",))) == [("1",), ("2",), ("3",)]


def test_statement_without_parameters_has_a_row_for_each_row() -> None:
    none = pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([])))
    assert list(rows_of([none], ())) == [(), ()]


def test_values_take_the_types_of_their_own_parameters() -> None:
    given = pa.record_batch({"b": pa.array([1], pa.int64()), "a": pa.array([2], pa.int64())})
    types = pa.schema([("a", pa.int8()), ("b", pa.string())])
    assert list(rows_of([given], ("a", "b"), types)) == [(TypedValue(2, "TINYINT"), TypedValue(1, "BIGINT"))]


def test_error_names_the_parameter() -> None:
    unions = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    given = pa.RecordBatch.from_arrays([pa.array(["x"]), unions], names=["0", "1"])
    with pytest.raises(StatementError, match=r"a value of type sparse_union.* cannot be bound to \$since: SQL"):
        list(rows_of([given], ("symbol", "since")))


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
