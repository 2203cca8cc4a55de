"""An engine and what writes, behind one call: statements run as a session's would."""

from __future__ import annotations

from typing import Any

from tickflight_server.query.engine import Engine
from tickflight_server.query.session import SqlSession
from tickflight_server.query.writer import Outcome, Writer
from tickflight_server.query.writing import Writing


class SqlHere:
    """Runs SQL on ``engine``, each text in a session of its own unless one is given."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.writer = Writer(engine)

    def write(self, sql: str, session: SqlSession | None = None, rows: Any = ((),), **more: Any) -> Outcome:
        """Run what is no query."""
        writing = self.engine.read(sql)
        assert isinstance(writing, Writing), sql
        if session is not None:
            return self.writer.write(writing, rows, session=session, **more)
        session = self.engine.session()
        try:
            return self.writer.write(writing, rows, session=session, **more)
        finally:
            session.close()

    def rows(self, sql: str, session: SqlSession | None = None) -> list[tuple[Any, ...]]:
        """Return a query's rows."""
        return self.ask(sql, session)[0]

    def ask(self, sql: str, session: SqlSession | None = None) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
        """Return a query's rows, and what was opened for it."""
        seat = session.seat(None) if session is not None else None
        more = {} if session is None else {"options": session.options}
        statement = self.engine.read(sql)
        assert not isinstance(statement, Writing), sql
        plan = self.engine.plan(statement, seat=seat, **more)
        with self.engine.execute(plan, seat=seat, **more) as execution:
            table = execution.reader.read_all()
            return list(zip(*(c.to_pylist() for c in table.columns), strict=True)), execution.opened
