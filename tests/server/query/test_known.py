"""Plans that are kept: they say what the engine would say now."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.errors import StatementError
from tickflight_server.query.engine import Engine
from tickflight_server.query.session import Options
from tickflight_server.query.values import TypedValue
from tickflight_server.query.writer import Writer


@pytest.fixture
def searches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that the engine was asked for the plans of."""
    asked: list[str] = []
    search = engine._planner.search

    def note(statement: Any, *arguments: Any) -> Any:
        asked.append(statement.sql)
        return search(statement, *arguments)

    monkeypatch.setattr(engine._planner, "search", note)
    return asked


def _run(engine: Engine, sql: str) -> None:
    session = engine.session()
    Writer(engine).write(
        engine.read(sql),  # type: ignore[arg-type]
        [()],
        session=session,
        transaction=None,
        cuts=None,
        started=lambda _: None,
    )
    session.close()


@pytest.mark.parametrize(
    ("sql", "times"),
    [
        ("SELECT 1", 1),
        ("SELECT * FROM trades", 0),
        ("SELECT price FROM trades WHERE symbol = 'a' AND timestamp > now()", 0),
        ("SELECT max(price) FROM trades WHERE symbol = 'a' AND timestamp > now()", 1),
        ("SELECT count(*) FROM trades WHERE price > 1 OR symbol = 'a'", 1),
        ("SELECT * FROM system.tables", 1),
        ("SELECT count(*) FROM trades WHERE timestamp > date_trunc('day', now())", 3),
        ("EXPLAIN SELECT 1", 3),
    ],
)
def test_text_is_planned_once_unless_it_asks_the_time(
    engine: Engine, searches: list[str], sql: str, times: int
) -> None:
    plans = [engine.plan(sql) for _ in range(3)]
    assert len(searches) == times
    assert plans[0].schema == plans[1].schema == plans[2].schema
    assert plans[0].filters.keys() == plans[2].filters.keys()


def test_type_of_a_value_is_told_from_its_kind(engine: Engine, searches: list[str]) -> None:
    sql = "SELECT ? + 1::TINYINT AS n"
    values = [5, 5, 100, 127, 128, -128, -129, 70_000, 1 << 40, 1.5, TypedValue(5, "BIGINT"), datetime(2026, 1, 1)]
    for value in values[:-1]:
        kept = engine.plan(sql, [value]).schema
        with engine.execute(engine.plan(sql, [value])) as execution:
            assert execution.reader.schema == kept, value
    assert engine.plan("SELECT struct_extract({'a': 1, 'b': 'x'}, ?) AS v", ["a"]).schema.types == [pa.int32()]
    assert engine.plan("SELECT struct_extract({'a': 1, 'b': 'x'}, ?) AS v", ["b"]).schema.types == [pa.string()]


def test_statement_with_users_objects_is_planned_anew(engine: Engine) -> None:
    _run(engine, "CREATE TYPE mood AS ENUM ('a', 'b')")
    _run(engine, "CREATE TABLE mine AS SELECT 1 AS a")
    _run(engine, "CREATE MACRO twice(x) AS x * 2")
    for sql in ("SELECT 'a'::mood AS m", "SELECT * FROM mine", "SELECT twice(2) AS t"):
        assert not pa.types.is_floating(engine.plan(sql).schema.types[0])
    _run(engine, "DROP TYPE mood")
    _run(engine, "CREATE TYPE mood AS DOUBLE")
    _run(engine, "ALTER TABLE mine ALTER a TYPE DOUBLE")
    _run(engine, "CREATE OR REPLACE MACRO twice(x) AS x * 2.5::DOUBLE")
    with pytest.raises(StatementError), engine.execute(engine.plan("SELECT 'a'::mood AS m")) as execution:
        execution.reader.read_all()
    assert engine.plan("SELECT 1::mood AS m").schema.types == [pa.float64()]
    assert engine.plan("SELECT * FROM mine").schema.types == [pa.float64()]
    assert engine.plan("SELECT twice(2) AS t").schema.types == [pa.float64()]


def test_kept_schema_is_of_the_sessions_options(engine: Engine) -> None:
    sql = "SELECT '2026-01-01'::TIMESTAMPTZ AS t"
    assert engine.plan(sql).schema.field(0).type.tz == "UTC"
    zoned = Options(timezone="Europe/Berlin")
    for _ in range(2):
        assert engine.plan(sql, options=zoned).schema.field(0).type.tz == "Europe/Berlin"
        assert engine.plan(sql).schema.field(0).type.tz == "UTC"


def test_statement_that_fails_is_told_each_time(engine: Engine) -> None:
    for _ in range(2):
        with pytest.raises(StatementError, match="LINE 1"):
            engine.plan("SELECT nix FROM trades WHERE symbol = 'a'")


def test_types_of_parameters_are_asked_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT price FROM trades WHERE symbol = ? AND timestamp > ?"
    statement = engine.read(sql)
    first = engine.parameter_schema(statement, ("1", "2"), Options(), None)
    assert first.types == [pa.string(), pa.timestamp("us")]
    monkeypatch.setattr(engine.connections, "prober", None)
    assert engine.parameter_schema(statement, ("1", "2"), Options(), None) == first


def test_warm_engine_has_run_what_a_first_query_needs(engine: Engine) -> None:
    engine.warm_up()
    assert engine.plan("SELECT 1").schema.types == [pa.int32()]
