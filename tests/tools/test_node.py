"""Two clients of Node.js."""

import json

import pytest
from connect_page import recipe

pytestmark = pytest.mark.tool("@lancedb/arrow-flight-sql-client", environment="node")

ANSWER = """
const plain = (row) => ({ symbol: row.symbol, n: Number(row.n) });
console.log(JSON.stringify([rows.map(plain), table.toArray().map(plain)]));
process.exit(0);
"""


def test_the_recipe_reads_with_both(server, counts, run_node):
    rows, table = json.loads(run_node(recipe("Node.js", "js", server.port) + ANSWER).splitlines()[-1])
    assert rows == table == [{"symbol": symbol, "n": n} for symbol, n in counts.items()]
