"""dbt by its GizmoSQL adapter, in an environment of its own."""

import pytest
from connect_page import files

pytestmark = [pytest.mark.tool("dbt-gizmosql", environment="dbt"), pytest.mark.slow]


@pytest.fixture
def project(server, tmp_path):
    for name, text in files("dbt", server.port).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "venues.csv").write_text("exchange,maker_fee\nBINANCE,0.001\nOKX,0.0008\n")
    return tmp_path


@pytest.fixture
def dbt(environment, project, run_command):
    def run(*arguments):
        quiet = {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DBT_PROFILES_DIR": str(project)}
        return run_command([str(environment / "bin" / "dbt"), *arguments], project, quiet)

    return run


def test_the_recipe_makes_a_table_twice(server, counts, dbt):
    for _ in range(2):
        assert "ERROR=0" in dbt("run")
        rows = server.query("SELECT symbol, max(high) AS high FROM workspace.trade_minutes GROUP BY ALL ORDER BY ALL")
        assert rows == server.query("SELECT symbol, max(price) AS high FROM market.trades GROUP BY ALL ORDER BY ALL")
    assert [row["symbol"] for row in rows] == list(counts)


def test_seeds_are_loaded(server, dbt):
    dbt("seed")
    rows = server.query("SELECT exchange, maker_fee FROM workspace.venues ORDER BY ALL")
    assert rows == [{"exchange": "BINANCE", "maker_fee": 0.001}, {"exchange": "OKX", "maker_fee": 0.0008}]


def test_an_incremental_model_grows_and_a_view_sees_it(server, counts, project, dbt):
    (project / "models" / "trade_prices.sql").write_text(
        """{{ config(materialized="incremental", unique_key="seq") }}
        SELECT seq, price FROM {{ source("market", "trades") }}
        WHERE {% if is_incremental() %} seq >= (SELECT max(seq) FROM {{ this }}) {% else %} seq <= 100 {% endif %}"""
    )
    (project / "models" / "trade_count.sql").write_text("SELECT count(*) AS n FROM {{ ref('trade_prices') }}")
    for rows in (100, sum(counts.values())):
        dbt("run", "--select", "trade_prices", "trade_count")
        assert server.query("SELECT n FROM workspace.trade_count") == [{"n": rows}]


def test_a_model_in_a_file_is_refused(project, dbt):
    (project / "models" / "outside.sql").write_text(
        """{{ config(materialized="external", location="outside.parquet") }} SELECT 1 AS a"""
    )
    with pytest.raises(AssertionError, match="COPY is not for users"):
        dbt("run", "--select", "outside")
