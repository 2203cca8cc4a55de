"""pandas over ADBC."""

import adbc_driver_flightsql.dbapi as flight_sql
import pytest
from connect_page import run_here

pd = pytest.importorskip("pandas", reason="pandas is not installed")
pytestmark = pytest.mark.tool("pandas")


def test_the_recipe_reads_and_writes(server, counts):
    names = run_here("pandas", server.port)
    assert len(names["trades"]) == counts["BTC-USDT"]
    assert names["stored"].columns.tolist() == ["timestamp", "first", "max", "min", "last"]
    assert names["stored"]["max"].max() == names["trades"].price.max()


@pytest.fixture
def connection(server):
    with flight_sql.connect(server.address, autocommit=True) as connection:
        yield connection


def test_a_query_with_wildcards_in_it_is_taken_for_no_table(connection, counts):
    frame = pd.read_sql("SELECT count(*) AS n FROM market.trades WHERE symbol LIKE '%_USDT%'", connection)
    assert frame.n.tolist() == [sum(counts.values())]


def test_a_table_is_read_by_its_name(connection, counts):
    assert len(pd.read_sql("trades", connection)) == sum(counts.values())


def test_parameters_are_refused_by_pandas_and_a_cursor_gives_a_frame(connection, counts):
    with pytest.raises(NotImplementedError, match="not implemented for ADBC"):
        pd.read_sql("SELECT * FROM trades WHERE symbol = ?", connection, params=("BTC-USDT",))
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM trades WHERE symbol = ?", ("BTC-USDT",))
        assert len(cursor.fetch_df()) == counts["BTC-USDT"]


@pytest.mark.parametrize(("mode", "rows"), [("append", 4), ("replace", 2)])
def test_to_sql_treats_a_table_that_exists_as_told(connection, mode, rows):
    frame = pd.DataFrame({"a": [1, 2]})
    frame.to_sql("pandas_twice", connection, schema="workspace", if_exists="replace", index=False)
    frame.to_sql("pandas_twice", connection, schema="workspace", if_exists=mode, index=False)
    assert len(pd.read_sql("SELECT * FROM workspace.pandas_twice", connection)) == rows
    with pytest.raises(ValueError, match="exists"):
        frame.to_sql("pandas_twice", connection, schema="workspace", if_exists="fail", index=False)


def test_to_sql_without_a_schema_writes_to_the_workspace(connection):
    pd.DataFrame({"a": [1]}).to_sql("pandas_plain", connection, if_exists="replace", index=False)
    assert pd.read_sql("SELECT a FROM workspace.pandas_plain", connection).a.tolist() == [1]
