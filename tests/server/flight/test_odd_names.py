"""Names with any characters in them: they are names, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest


@pytest.mark.parametrize("name", ["it's", 'a"b', "q\",market'; CREATE TABLE tickflight.workspace.injected (a INT);--"])
def test_schema_of_any_name_can_be_looked_in(make_server: Callable[..., Any], name: str) -> None:
    quoted = '"{}"'.format(name.replace('"', '""'))
    with adbc.connect(make_server().address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {quoted}")
        connection.adbc_current_db_schema = name
        cursor.execute("CREATE TABLE t AS SELECT 1 AS a")
        cursor.execute("SELECT current_schema(), a FROM t")
        assert cursor.fetchall() == [(name, 1)]
        cursor.execute("SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary")
        assert cursor.fetchall() == [(name, "t")]


@pytest.mark.parametrize("name", ["a.b", "a/b", "a\\b", "a?b", "x\n*"])
def test_table_that_no_query_could_name_is_not_made(make_server: Callable[..., Any], name: str) -> None:
    refused = pytest.raises(adbc.ProgrammingError, match="reads like the name of a file")
    with adbc.connect(make_server().address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a INT)")
        for sql in (f'CREATE TABLE "{name}" (a INT)', f'CREATE TEMP TABLE "{name}" (a INT)'):
            with refused:
                cursor.execute(sql)
        for sql in (f'CREATE VIEW "{name}" AS SELECT 1 AS a', f'ALTER TABLE t RENAME TO "{name}"'):
            with refused:
                cursor.execute(sql)
        with refused:
            cursor.adbc_ingest(name, pa.table({"a": [1]}), mode="create")
        cursor.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary")
        assert cursor.fetchall() == [("t",)]
