"""DuckDB as a client: it reads the stream of adbc_driver_manager."""

import pytest
from connect_page import run_here

pytest.importorskip("duckdb", reason="duckdb is not installed")
pytestmark = pytest.mark.tool("duckdb")


def test_the_recipe_reads(server, counts):
    names = run_here("DuckDB", server.port)
    sql = "SELECT symbol, max(price) - min(price) AS spread FROM market.trades GROUP BY ALL ORDER BY ALL"
    assert names["spread"] == [(row["symbol"], row["spread"]) for row in server.query(sql)]
