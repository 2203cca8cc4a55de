"""Superset's model of a database, in an environment of its own, over its own metadata tables in SQLite."""

import pytest
from connect_page import recipe

pytestmark = [pytest.mark.tool("apache-superset", environment="superset"), pytest.mark.slow]

# What Superset itself needs before it can look at a database: a configuration and its tables.
APPLICATION = """
import os, pathlib, sys
folder = pathlib.Path.cwd()
(folder / "superset_config.py").write_text(
    f'SECRET_KEY = "only for this test, nothing is kept"\\nSQLALCHEMY_DATABASE_URI = "sqlite:///{folder}/superset.db"\\n'
)
sys.path.insert(0, str(folder))
os.environ["SUPERSET_HOME"] = str(folder)
from superset.app import create_app
app = create_app()
app.app_context().push()
from superset.databases.ssh_tunnel.models import SSHTunnel
from superset.extensions import db
SSHTunnel.metadata.create_all(db.engine)
"""


def test_the_recipe_reads(server, counts, run_python):
    script = APPLICATION + recipe("Superset", "python", server.port)
    found = run_python(script, "[frame.to_dict('list'), sorted(views), [str(c['column_name']) for c in columns]]")
    assert dict(zip(found[0]["symbol"], found[0]["n"], strict=True)) == counts
    assert {"trades", "l2_book"} <= set(found[1])
    assert found[2][:2] == ["exchange", "symbol"]
