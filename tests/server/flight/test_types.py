"""Every type, by query, by bind and by ingest, and results of unusual shapes: the same schema wherever it is told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire import commands as c
from tickflight.wire.actions import ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult

EPOCH = 1_700_000_000
UTC = "UTC"

# SQL, its type in Arrow, and the value: what a query gives
QUERIED: list[tuple[str, pa.DataType, Any]] = [
    ("true", pa.bool_(), True),
    *((f"({n})::{t}", a, n) for n, t, a in ((-128, "TINYINT", pa.int8()), (-32768, "SMALLINT", pa.int16()))),
    ("(-2147483648)::INTEGER", pa.int32(), -(2**31)),
    ("(-9223372036854775808)::BIGINT", pa.int64(), -(2**63)),
    *((f"{2**b - 1}::{t}", a, 2**b - 1) for b, t, a in ((8, "UTINYINT", pa.uint8()), (16, "USMALLINT", pa.uint16()))),
    ("4294967295::UINTEGER", pa.uint32(), 2**32 - 1),
    ("18446744073709551615::UBIGINT", pa.uint64(), 2**64 - 1),
    ("12345678901234567890123::HUGEINT", pa.decimal128(38, 0), Decimal("12345678901234567890123")),
    ("1.5::FLOAT", pa.float32(), 1.5),
    ("'inf'::DOUBLE", pa.float64(), float("inf")),
    ("123.45::DECIMAL(9, 2)", pa.decimal128(9, 2), Decimal("123.45")),
    ("1e-18::DECIMAL(38, 18)", pa.decimal128(38, 18), Decimal("1E-18")),
    ("'naïve ☃'", pa.string(), "naïve ☃"),
    ("'\\x00\\xFF'::BLOB", pa.binary(), b"\x00\xff"),
    ("DATE '0001-01-01'", pa.date32(), date(1, 1, 1)),
    ("DATE '9999-12-31'", pa.date32(), date(9999, 12, 31)),
    ("TIME '23:59:59.999999'", pa.time64("us"), time(23, 59, 59, 999_999)),
    ("TIMESTAMP_S '2023-11-14 22:13:20'", pa.timestamp("s"), datetime(2023, 11, 14, 22, 13, 20)),
    ("TIMESTAMP_MS '2023-11-14 22:13:20.123'", pa.timestamp("ms"), datetime(2023, 11, 14, 22, 13, 20, 123_000)),
    ("TIMESTAMP '2023-11-14 22:13:20.123456'", pa.timestamp("us"), datetime(2023, 11, 14, 22, 13, 20, 123_456)),
    ("[1, NULL, 3]", pa.list_(pa.int32()), [1, None, 3]),
    ("{'a': 1, 'b': ['x']}", pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))]), {"a": 1, "b": ["x"]}),
    ("MAP {'k': 1.5::DOUBLE}", pa.map_(pa.string(), pa.float64()), [("k", 1.5)]),
]

# what a client sends, and the type that the engine keeps it in, where that is another
SENT: list[tuple[pa.Array, pa.DataType | None]] = [
    (pa.array([True, None, False]), None),
    *((pa.array([1, None, 100], kind), None) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((pa.array([1, None, 200], kind), None) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    *((pa.array([1.5, None, float("nan")], kind), None) for kind in (pa.float32(), pa.float64())),
    (pa.array([Decimal("1.23"), None], pa.decimal128(9, 2)), None),
    (pa.array([Decimal("1e-18"), None], pa.decimal128(38, 18)), None),
    (pa.array(["a", None, "☃" * 1000]), None),
    (pa.array(["a", None], pa.large_string()), pa.string()),
    (pa.array(["a", None], pa.string_view()), pa.string()),
    (pa.array(["a", None, "a"]).dictionary_encode(), pa.string()),
    (pa.array([b"\0", None, b""]), None),
    (pa.array([b"ab", None], pa.binary(2)), pa.binary()),
    (pa.array([date(1, 1, 1), None, date(9999, 12, 31)]), None),
    (pa.array([0, None, 86_399_999_999], pa.time64("us")), None),
    *((pa.array([EPOCH, None, -1], pa.timestamp(unit)), None) for unit in ("s", "ms", "us", "ns")),
    (pa.array([EPOCH * 10**6, None], pa.timestamp("us", UTC)), None),
    (pa.array([[1, None], [], None], pa.list_(pa.int64())), None),
    (pa.array([[1, None], [], None], pa.large_list(pa.int64())), pa.list_(pa.int64())),
    (pa.array([{"a": 1, "b": "x"}, None], pa.struct([("a", pa.int64()), ("b", pa.string())])), None),
    (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), None),
    (pa.array([pa.MonthDayNano([1, 2, 3_000]), None]), None),
]


def command(message: Any) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_command(message.serialize())


def prepared_schema(client: flight.FlightClient, sql: str) -> pa.Schema:
    request = ActionCreatePreparedStatementRequest(sql)
    (answer,) = client.do_action(flight.Action("CreatePreparedStatement", request.serialize()))
    told = ActionCreatePreparedStatementResult.parse(answer.body.to_pybytes())
    return pa.ipc.read_schema(pa.py_buffer(told.dataset_schema))


def everywhere(client: flight.FlightClient, sql: str) -> pa.Table:
    """Return a query's result; its schema is the same wherever it is told."""
    info = client.get_flight_info(command(c.CommandStatementQuery(sql)))
    tables = [client.do_get(e.ticket).read_all() for e in info.endpoints]
    for told in (info.schema, client.get_schema(command(c.CommandStatementQuery(sql))).schema):
        assert told.equals(tables[0].schema, check_metadata=True)
    assert prepared_schema(client, sql).equals(tables[0].schema, check_metadata=True)
    return pa.concat_tables(tables)


@pytest.mark.parametrize(("sql", "kind", "value"), QUERIED, ids=[q[0] for q in QUERIED])
def test_query_gives_the_type_and_the_value(
    client: flight.FlightClient, sql: str, kind: pa.DataType, value: Any
) -> None:
    found = everywhere(client, f"SELECT {sql} AS v UNION ALL SELECT NULL")
    assert found.schema == pa.schema([("v", kind)])
    assert sorted(found["v"].to_pylist(), key=lambda v: v is None) == [value, None]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("TIMESTAMP_NS '2023-11-14 22:13:20.123456789'", pa.scalar(EPOCH * 10**9 + 123_456_789, pa.timestamp("ns"))),
        ("TIMESTAMPTZ '2023-11-14 22:13:20+00'", pa.scalar(EPOCH * 10**6, pa.timestamp("us", UTC))),
        ("INTERVAL '1 month 2 days 3 microseconds'", pa.scalar(pa.MonthDayNano([1, 2, 3_000]))),
    ],
)
def test_query_gives_what_python_has_no_type_for(client: flight.FlightClient, sql: str, value: pa.Scalar) -> None:
    found = everywhere(client, f"SELECT {sql} AS v")
    assert found.schema.field("v").type == value.type
    assert found["v"][0] == value


def test_enums_and_uuids_are_what_every_client_reads(client: flight.FlightClient) -> None:
    found = everywhere(client, "SELECT 'a'::ENUM ('a', 'b') AS e, '00000000-0000-0000-0000-000000000001'::UUID AS u")
    assert pa.types.is_dictionary(found.schema.field("e").type)
    assert found["e"].to_pylist() == ["a"]
    assert str(found["u"].to_pylist()[0]).endswith("1")


@pytest.fixture(scope="module")
def workspace(served: Any) -> Iterator[adbc.Cursor]:
    with adbc.connect(served.address, autocommit=True) as connection, connection.cursor() as made:
        yield made


def plain(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    as_number = pa.types.is_timestamp(kind) or pa.types.is_floating(kind)
    return [str(v) if as_number and v is not None else v for v in _python(column)]


def _python(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_pylist()
    return column.to_pylist()


@pytest.mark.parametrize(("column", "kept"), SENT, ids=[str(a.type) for a, _ in SENT])
def test_ingest_keeps_the_type_and_the_values(
    workspace: adbc.Cursor, column: pa.Array, kept: pa.DataType | None
) -> None:
    rows = workspace.adbc_ingest("kept", pa.table({"v": column}), mode="replace")
    workspace.execute("FROM kept")
    found = workspace.fetch_arrow_table()
    assert rows == len(column)
    assert found.schema.field("v").type == (kept or column.type)
    assert plain(found["v"]) == plain(pa.chunked_array([column]))


@pytest.mark.parametrize(("column", "kept"), SENT, ids=[str(a.type) for a, _ in SENT])
def test_binding_into_a_table_is_ingest_row_by_row(
    workspace: adbc.Cursor, column: pa.Array, kept: pa.DataType | None
) -> None:
    workspace.adbc_ingest("bound", pa.table({"n": [-1] * len(column), "v": column}), mode="replace")
    workspace.execute("DELETE FROM bound")
    rows = pa.record_batch({"0": pa.array(range(len(column))), "1": column})
    workspace.executemany("INSERT INTO bound VALUES (?, ?)", rows)
    workspace.execute("SELECT v FROM bound ORDER BY n")
    found = workspace.fetch_arrow_table()
    assert found.schema.field("v").type == (kept or column.type)
    assert plain(found["v"]) == plain(pa.chunked_array([column]))


def test_result_without_rows_has_its_schema(client: flight.FlightClient) -> None:
    found = everywhere(client, "SELECT price, symbol FROM trades WHERE false")
    assert (found.num_rows, found.column_names) == (0, ["price", "symbol"])


def test_statement_without_columns_is_an_empty_stream(client: flight.FlightClient, cursor: adbc.Cursor) -> None:
    sql = "CREATE OR REPLACE TABLE nothing (a INTEGER)"
    info = client.get_flight_info(command(c.CommandStatementQuery(sql)))
    (endpoint,) = info.endpoints
    for found in (client.do_get(endpoint.ticket).read_all(), client.do_get(endpoint.ticket).read_all()):
        assert (found.num_columns, found.num_rows) == (0, 0)
    assert info.schema == client.get_schema(command(c.CommandStatementQuery(sql))).schema == pa.schema([])
    statement = cursor.adbc_statement
    statement.set_sql_query(sql)
    stream, rows = statement.execute_query()
    assert (pa.RecordBatchReader._import_from_c(stream.address).read_all().num_columns, rows) == (0, 0)


def test_two_thousand_columns_are_a_result(client: flight.FlightClient) -> None:
    found = everywhere(client, "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(2_000)))
    assert found.to_pylist() == [{f"c{i}": i for i in range(2_000)}]


def test_columns_may_have_the_same_name(client: flight.FlightClient) -> None:
    found = everywhere(client, "SELECT 1 AS a, 'x' AS a, symbol AS a FROM trades LIMIT 1")
    assert found.column_names == ["a", "a", "a"]
    assert [column.to_pylist() for column in found.columns[:2]] == [[1], ["x"]]


def test_names_may_be_anything(client: flight.FlightClient) -> None:
    assert everywhere(client, """SELECT 2 AS "a b", 3 AS "☃", 4 AS "x""y" """).num_columns == 3
