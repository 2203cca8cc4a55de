"""One result, one schema: in GetFlightInfo, in GetSchema, when prepared, and in the stream."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from by_hand import ByHand

from tickflight.wire.commands import CommandGetTables, CommandPreparedStatementQuery, CommandStatementQuery
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS

QUERIES = (
    "FROM trades",
    "FROM trades LIMIT 0",
    'SELECT 1 AS x, 2 AS x, NULL AS " "',
    "SELECT [1, NULL] AS l, {'a': 1, 'b': ['x']} AS s, MAP {'k': 1} AS m, [[1]]::INT[1][] AS f",
    "SELECT 1.5::DECIMAL(38, 18) AS d, 1::HUGEINT AS h, INTERVAL 1 MONTH AS i, uuid() AS u, 'x'::BLOB AS b",
    "SELECT 'x'::ENUM('x', 'y') AS e, '1'::JSON AS j, '101'::BIT AS bits, union_value(n := 1) AS un",
    "SELECT TIMESTAMP '2026-01-01' AS us, TIMESTAMP_NS '2026-01-01' AS ns, TIMESTAMP_MS '2026-01-01' AS ms",
    "SELECT TIMESTAMP_S '2026-01-01' AS s, TIMESTAMPTZ '2026-01-01' AS tz, TIME '10:00' AS t, DATE '2026-01-01' AS d",
    f"SELECT {', '.join(f'{n} AS c{n}' for n in range(2000))}",
    "SHOW TABLES",
    "DESCRIBE trades",
    "EXPLAIN SELECT 1",
    "SELECT * FROM system.parts",
    "CREATE TABLE IF NOT EXISTS told (a INT)",
    "INSERT INTO told VALUES (1)",
    "INSERT INTO told VALUES (1) RETURNING a AS b, 'x' AS c",
    "UPDATE told SET a = a RETURNING *",
    "SET timezone = 'UTC'",
)


@pytest.mark.parametrize("sql", QUERIES, ids=lambda sql: sql[:30])
def test_statement_has_one_schema_by_every_road(ada: ByHand, sql: str) -> None:
    ada.run("CREATE TABLE IF NOT EXISTS told (a INT)")
    found: dict[str, pa.Schema] = {}
    found["GetSchema"] = ada.schema(CommandStatementQuery(sql))
    info = ada.info(CommandStatementQuery(sql))
    found["GetFlightInfo"] = info.schema
    found["stream"] = ada.get(info.endpoints[0].ticket.ticket).schema
    result = ada.prepare(sql)
    query = CommandPreparedStatementQuery(result.prepared_statement_handle)
    found["prepared"] = pa.ipc.read_schema(pa.py_buffer(result.dataset_schema))
    found["prepared GetSchema"] = ada.schema(query)
    info = ada.info(query)
    found["prepared GetFlightInfo"] = info.schema
    found["prepared stream"] = ada.get(info.endpoints[0].ticket.ticket).schema
    if result.is_update:
        del found["prepared"]  # empty, so that drivers run it as an update
    for road, schema in found.items():
        assert schema.equals(found["stream"], check_metadata=True), road


@pytest.mark.parametrize("kind", [*RESULT_SCHEMAS, "with schemas"], ids=str)
def test_catalog_command_has_one_schema_by_every_road(ada: ByHand, kind: Any) -> None:
    command = CommandGetTables(include_schema=True) if kind == "with schemas" else kind()
    info = ada.info(command)
    stream = ada.get(info.endpoints[0].ticket.ticket).schema
    assert info.schema.equals(stream, check_metadata=True)
    assert ada.schema(command).equals(stream, check_metadata=True)


@pytest.mark.parametrize("sql", [sql for sql in QUERIES if not sql.startswith(("CREATE", "INSERT", "UPDATE", "SET"))])
def test_adbc_is_told_the_schema_that_it_gets(adbc_ada: adbc.Connection, sql: str) -> None:
    with adbc_ada.cursor() as cursor:
        expected = cursor.adbc_execute_schema(sql)
        cursor.execute(sql)
        assert cursor.fetch_arrow_table().schema.equals(expected)
