"""The ADBC driver's own DB-API."""

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow as pa
import pytest
from connect_page import run_here

pytestmark = pytest.mark.tool("adbc-driver-flightsql")


def test_the_recipe_reads_and_writes(server, counts):
    names = run_here("DB-API", server.port)
    assert names["count"] == names["trades"].num_rows == counts["BTC-USDT"]
    prices = [price.as_py() for price in names["trades"]["price"]]
    assert names["highest"] == max(prices)
    assert names["above"] == sum(price > level for price in prices for level in (64999.0, 65001.0))


def test_a_query_with_a_table_bound_gives_the_rows_of_all_its_runs(server, counts):
    with flight_sql.connect(server.address, autocommit=True) as connection, connection.cursor() as cursor:
        sql = "SELECT symbol, count(*) FROM market.trades WHERE symbol = $1 GROUP BY ALL"
        cursor.execute(sql, pa.table({"1": list(counts)}))
        assert cursor.fetchall() == list(counts.items())


def test_executemany_writes_every_row(server):
    with flight_sql.connect(server.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE workspace.dbapi_many (a INTEGER, b VARCHAR)")
        cursor.executemany("INSERT INTO workspace.dbapi_many VALUES (?, ?)", [(1, "x"), (2, "y")])
    assert server.query("SELECT * FROM workspace.dbapi_many ORDER BY a") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_the_objects_are_listed_down_to_the_columns(server):
    with flight_sql.connect(server.address, autocommit=True) as connection:
        (catalog,) = connection.adbc_get_objects(table_name_filter="trades").read_all().to_pylist()
        schemas = {schema["db_schema_name"]: schema for schema in catalog["catalog_db_schemas"]}
        (table,) = schemas["market"]["db_schema_tables"]
        assert [column["column_name"] for column in table["table_columns"]][:2] == ["exchange", "symbol"]


def test_ingest_is_committed_whatever_becomes_of_the_transaction(server):
    with flight_sql.connect(server.address) as connection:
        with connection.cursor() as cursor:
            cursor.adbc_ingest("dbapi_kept", pa.table({"a": [1]}), mode="replace", db_schema_name="workspace")
        connection.rollback()
    assert server.query("SELECT a FROM workspace.dbapi_kept") == [{"a": 1}]


def test_what_a_transaction_wrote_is_gone_after_rollback(server):
    with flight_sql.connect(server.address) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE workspace.dbapi_undone (a INTEGER)")
        connection.commit()
        cursor.execute("INSERT INTO workspace.dbapi_undone VALUES (1)")
        connection.rollback()
        cursor.execute("SELECT count(*) FROM workspace.dbapi_undone")
        assert cursor.fetchall() == [(0,)]
