"""polars over ADBC, by connection and by URI."""

import adbc_driver_flightsql.dbapi as flight_sql
import pytest
from connect_page import run_here

pl = pytest.importorskip("polars", reason="polars is not installed")
pytestmark = pytest.mark.tool("polars")


def test_the_recipe_reads_and_writes(server, counts):
    names = run_here("polars", server.port)
    assert names["trades"].height == counts["BTC-USDT"]
    assert names["stored"].sort("timestamp").equals(names["means"])
    (row,) = server.query("SELECT count(*) AS n FROM workspace.polars_means")
    assert row["n"] == 2 * names["means"].height


def test_a_query_comes_in_batches(server, counts):
    with flight_sql.connect(server.address, autocommit=True) as connection:
        batches = pl.read_database("SELECT * FROM market.trades", connection, iter_batches=True, batch_size=50)
        assert sum(batch.height for batch in batches) == sum(counts.values())


def test_a_uri_of_grpc_names_no_driver(server):
    with pytest.raises(ModuleNotFoundError, match="adbc_driver_grpc"):
        pl.read_database_uri("SELECT 1", server.address, engine="adbc")


def test_lists_are_lists(server):
    uri = f"flightsql://127.0.0.1:{server.port}?transport=tcp"
    frame = pl.read_database_uri("SELECT bid_prices FROM market.l2_book LIMIT 1", uri, engine="adbc")
    assert frame.schema == {"bid_prices": pl.List(pl.Float64)}
