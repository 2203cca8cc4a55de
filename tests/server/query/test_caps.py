"""One value is at most ``query.value_mb_max``, and what is smaller is what the engine itself makes."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pytest
from sql_here import SqlHere

from tickflight_server.errors import PermissionDeniedError, ResourceExhaustedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.session import DEFAULTS
from tickflight_server.query.statement import Statement

ORDINARY = (
    *("repeat('ab', 3)", "repeat(NULL, 3)", "repeat('a', NULL)", "repeat('ab', -1)", "repeat('', 9000000000000)"),
    *("repeat([1, 2], 2)", "repeat([]::INT[], 2)", r"repeat('\xAA'::BLOB, 2)", "repeat([['a']], 3)", "'x'.repeat(3)"),
    *("repeat('a', 3::UTINYINT)", "repeat([1, 2, 3]::INT[3], 2)", "sum(length(repeat('a', 3)))"),
    *("lpad('a', 5, 'xy')", "lpad(NULL, 3, 'a')", "lpad('ä', 4, 'ö')", "lpad('a', -1, 'x')", "rpad('abc', 2, 'x')"),
    *("list_resize([1], 3)", "list_resize([1], 3, 7)", "list_resize(NULL, 3)", "list_resize([1.5], 2, 0)"),
    *("array_resize(['a'], 2, 'zz')", "list_resize([1], NULL)", "list_resize([[1]], 3, [2, 3])"),
    *("list_resize([1, 2]::INT[2], 3)", "list_resize([1], 2, NULL)", "bitstring('101', 10)"),
    *("bitstring('101'::BIT, 10)", "range(5)", "range(2, 5)", "range(5, 2)", "range(5, 1, -2)", "range(NULL, 3)"),
    *("range(0, 5, 0)", "range(1, 10::TINYINT)", "range(3)[2]", "[x FOR x IN range(3) IF x > 0]"),
    "range(DATE '2024-01-01', DATE '2024-01-05', INTERVAL 1 DAY)",
    "range(TIMESTAMP '2024-01-01', TIMESTAMP '2024-03-05', INTERVAL 1 MONTH)",
    "generate_series(TIMESTAMPTZ '2024-01-01', '2024-01-02'::TIMESTAMPTZ, INTERVAL 6 HOUR)",
    "generate_series(TIMESTAMP '2024-01-01', '2024-01-02', INTERVAL 6 HOUR)",
    *("generate_series(3)", "generate_series(1, 3)", "generate_series(3, 1, -1)", "unnest(generate_series(1, 3))"),
    *("list_transform([1, 2], lambda x: repeat('a', x))", "range(-9223372036854775807, 0, 9223372036854775806)"),
    *("printf('%05d %s', 7, 'a')", "format('{:>10}|{{}}', 'a')", "'{0} {1}'.format(1, 2)", "printf(NULL, 1)"),
)
HUGE = (
    *("repeat('x', 2000000000)", "repeat('x', 3000000000)", "repeat(repeat('x', 8000000), 8000000)"),
    *("lpad('x', 2000000000, 'a')", "rpad('x', 2000000000, 'a')", "list_resize([1], 2000000000)"),
    *("list_resize([[1]], 1000000, range(1000000))", "array_resize(['a'], 2000000000, 'b')", "range(3000000000)"),
    *(
        "generate_series(1, 3000000000)",
        "range(0, 3000000000, 2)",
        "range(3000000000, 0, -1)",
        "bitstring('1', 2000000000)",
    ),
    "range(TIMESTAMP '1900-01-01', TIMESTAMP '2024-01-01', INTERVAL 1 SECOND)",
    "list_transform([2000000000], lambda x: repeat('a', x))",
    "repeat('x', CASE WHEN random() < 2 THEN 2000000000 END)",
    "repeat([1, 2, 3], 1000000000)",
)
REFUSED = (
    *("system.main.repeat('x', 3)", "main.lpad('x', 3, 'a')", "pg_catalog.range(3)", '"system"."main"."REPEAT"(1, 2)'),
    *("printf('%2000000000d', 1)", "printf('%*d', 2000000000, 1)", "printf('%.200000f', 1.0)", "printf(chr(37), 1)"),
    *("format('{:2000000000}', 1)", "format('{:{}}', 1, 2000000000)", "format('{{{:99999}', 1)", "format($1, 1)"),
    " || ".join(f"format('{{:{width}}}', 1)" for width in (9999, 10001)),
)


def test_ordinary_call_gives_what_the_engine_does(engine: Engine) -> None:
    with duckdb.connect() as plain:
        plain.execute("SET TimeZone = 'UTC'")
        for call in ORDINARY:
            expected = plain.sql(f"SELECT {call} AS a").to_arrow_table()
            statement = engine.read(f"SELECT {call} AS a")
            assert isinstance(statement, Statement)
            with engine.execute(engine.plan(statement)) as execution:
                found = execution.reader.read_all()
            assert found.to_pylist() == expected.to_pylist(), call
            assert found.schema.types == expected.schema.types, call


def test_huge_value_is_refused_before_it_is_made(engine: Engine) -> None:
    here = SqlHere(engine)
    for call in HUGE:
        with pytest.raises(
            ResourceExhaustedError, match=r"query.value_mb_max.*\(\) would make a value of more than 8 MB"
        ):
            pytest.fail(f"{call}: {str(here.rows(f'SELECT {call}'))[:100]}")


def test_way_round_the_limit_is_refused(engine: Engine) -> None:
    here = SqlHere(engine)
    for call in REFUSED:
        with pytest.raises(PermissionDeniedError):
            pytest.fail(f"{call}: {str(here.rows(f'SELECT {call}'))[:100]}")


def test_limit_is_the_configured_one(make_engine: Callable[..., Engine]) -> None:
    here = SqlHere(make_engine(value_mb_max=1))
    assert here.rows("SELECT length(repeat('x', 1048576))") == [(1048576,)]
    with pytest.raises(ResourceExhaustedError, match="more than 1 MB"):
        here.rows("SELECT length(repeat('x', 1048577))")


def test_views_macros_and_writes_call_it_too(engine: Engine) -> None:
    here = SqlHere(engine)
    here.write("CREATE TABLE workspace.t (a BIGINT, b VARCHAR)")
    here.write("INSERT INTO workspace.t (a, b) VALUES (1, repeat('x', 2)), (2, lpad('x', 3, 'x'))")
    here.write("CREATE VIEW workspace.v AS SELECT repeat('z', a) AS r, range(a) AS l FROM workspace.t")
    here.write("CREATE MACRO workspace.twice(x, n) AS repeat(x, n * 2)")
    assert here.rows("SELECT a, b FROM workspace.t ORDER BY a") == [(1, "xx"), (2, "xxx")]
    assert here.rows("SELECT r, l FROM workspace.v ORDER BY r") == [("z", [0]), ("zz", [0, 1])]
    assert here.rows("SELECT workspace.twice('q', 2)") == [("qqqq",)]
    with pytest.raises(ResourceExhaustedError):
        here.rows("SELECT workspace.twice('q', 1000000000)")
    with pytest.raises(ResourceExhaustedError):
        here.write("INSERT INTO workspace.t (a, b) VALUES (1, repeat('x', 2000000000))")
    for definition in (
        "CREATE VIEW workspace.w AS SELECT system.main.repeat('z', 3)",
        "CREATE MACRO workspace.w(x) AS system.main.repeat(x, 3)",
        "CREATE TABLE workspace.w (a VARCHAR DEFAULT repeat('x', 2000000000))",
        "CREATE TABLE workspace.w (a VARCHAR, b VARCHAR AS (system.main.repeat(a, 2000000000)))",
        "CREATE TABLE workspace.w (a VARCHAR, CHECK (\"lpad\"(a, 2000000000, 'x') <> ''))",
        "ALTER TABLE workspace.t ALTER b SET DEFAULT printf('%2000000000d', 1)",
        "MERGE INTO t USING v ON t.a = v.a WHEN MATCHED THEN UPDATE SET b = system.main.repeat('x', 2000000000)",
    ):
        with pytest.raises(PermissionDeniedError):
            here.write(definition)
    here.write("CREATE TABLE workspace.range (a BIGINT)")  # a table's name


def test_rows_of_a_table_function_are_not_counted(engine: Engine) -> None:
    assert SqlHere(engine).rows("SELECT count(*) FROM range(20000000)") == [(20_000_000,)]


def test_parameters_are_taken(engine: Engine) -> None:
    for sql, given, expected in (
        ("SELECT repeat($1, $2)", ("ab", 2), "abab"),
        ("SELECT lpad($1, $2, $3)", ("a", 3, "x"), "xxa"),
        ("SELECT len(range($1, $2))", (2, 5), 3),
    ):
        statement = engine.read(sql)
        assert isinstance(statement, Statement)
        assert len(engine.parameter_schema(statement, engine.parameter_names(sql), DEFAULTS, None)) == len(given)
        with engine.execute(engine.plan(statement, given)) as execution:
            assert execution.reader.read_all()[0].to_pylist() == [expected]
        assert not statement.asks_now
