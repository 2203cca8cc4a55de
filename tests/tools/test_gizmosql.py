"""SQLAlchemy by the GizmoSQL dialect, in an environment of its own."""

import pytest
from connect_page import recipe

pytestmark = pytest.mark.tool("sqlalchemy-gizmosql-adbc-dialect", environment="gizmosql")


def test_the_recipe_reads_and_writes(server, counts, run_python):
    script = recipe("GizmoSQL dialect", "python", server.port)
    found = run_python(script, "{'counts': counts, 'kept': kept, 'names': names}")
    assert found["counts"] == counts
    assert found["kept"] == ["gap at 22:31"]
    assert {"trades", "l2_book"} <= set(found["names"])


def test_list_columns_are_not_known_to_the_dialect(server, run_python):
    script = f"""
import sqlalchemy as sa
engine = sa.create_engine("gizmosql://any:any@127.0.0.1:{server.port}?useEncryption=False")
try:
    said = sa.inspect(engine).get_columns("l2_book", schema="market")
except ValueError as error:
    said = str(error)
with engine.connect() as connection:
    lists = connection.execute(sa.text("SELECT bid_prices FROM market.l2_book LIMIT 1")).scalar_one()
engine.dispose()
"""
    found = run_python(script, "[said, lists]")
    assert found[0] == "Unsupported column type: DOUBLE[]"
    assert isinstance(found[1], list)
