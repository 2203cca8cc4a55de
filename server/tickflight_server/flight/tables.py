"""What clients see of tables, schemas and keys: the server's own and the users', as they are now.

The rule of this file: what is told here can be named in SQL by the same names.
"""

from __future__ import annotations

from tickflight_server.flight.catalogs import KeyInfo, SchemaInfo, TableInfo
from tickflight_server.query.engine import Engine
from tickflight_server.query.trees import CATALOG
from tickflight_server.query.workspace import Key


class Tables:
    """Lists the tables of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._own = [TableInfo(CATALOG, s, n, "table", a, remark) for s, n, remark, a in engine.opening.tables()]

    def tables(self) -> list[TableInfo]:
        """Return all tables and views."""
        made = self._engine.workspace.tables()
        return self._own + [
            TableInfo(CATALOG, t.schema, t.name, t.kind, t.arrow, t.comment, writable=True) for t in made
        ]

    def schemas(self) -> list[SchemaInfo]:
        """Return all schemas, the empty ones too."""
        return [SchemaInfo(CATALOG, name) for name in sorted(self._engine.workspace.schemas())]

    def keys(self) -> list[KeyInfo]:
        """Return the primary and foreign keys of the users' tables."""
        keys = self._engine.workspace.keys()
        primary = {(k.schema, k.table): k for k in keys if k.referenced is None}
        return [_key(key, primary) for key in keys]


def _key(key: Key, primary: dict[tuple[str, str], Key]) -> KeyInfo:
    own = (CATALOG, key.schema, key.table)
    if key.referenced is None:
        return KeyInfo(own, key.columns, key.name)
    # the engine has foreign keys only within a schema
    target = (CATALOG, key.schema, key.referenced)
    named = primary.get((key.schema, key.referenced))
    return KeyInfo(own, key.columns, key.name, target, key.referenced_columns, named.name if named else None)
