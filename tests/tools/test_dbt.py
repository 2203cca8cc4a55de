"""dbt by its GizmoSQL adapter, in an environment of its own."""

import pytest
from connect_page import files

pytestmark = pytest.mark.tool("dbt-gizmosql", environment="dbt")


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
