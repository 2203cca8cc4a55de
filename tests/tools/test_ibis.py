"""ibis by its GizmoSQL backend, in an environment of its own."""

import pytest
from connect_page import recipe

pytestmark = pytest.mark.tool("ibis-gizmosql", environment="gizmosql")


def test_the_recipe_reads_and_writes(server, counts, run_python):
    script = recipe("ibis", "python", server.port)
    found, weighted = run_python(script, "[counts.to_dict('list'), weighted.to_dict('list')]")
    assert dict(zip(found["symbol"], found["n"], strict=True)) == counts
    (row,) = server.query("SELECT max(price) AS highest FROM market.trades")
    assert max(found["highest"]) == row["highest"]
    assert (weighted["n"], weighted["weight"]) == ([counts["BTC-USDT"]], [2])
