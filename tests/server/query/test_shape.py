"""A text that is too deep or too long is refused before the engine's parser sees it, and no other is."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tickflight_server.errors import InputError, PermissionDeniedError, StatementError, TooLargeError, UnsupportedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.shape import Shape
from tickflight_server.query.statement import StatementReader

MANY = 100_000
TOO_DEEP: dict[str, Callable[[int], str]] = {
    "brackets": lambda n: "SELECT " + "(" * n + "1" + ")" * n,
    "open brackets": lambda n: "SELECT " + "(" * n,
    "lists": lambda n: "SELECT " + "[" * n + "]" * n,
    "structs": lambda n: "SELECT " + "{'a':" * n + "1" + "}" * n,
    "calls": lambda n: "SELECT " + "abs(" * n + "1" + ")" * n,
    "types": lambda n: "SELECT NULL::" + "STRUCT(a " * n + "INT" + ")" * n,
    "subqueries": lambda n: "SELECT * FROM " + "(SELECT * FROM " * n + "trades" + ")" * n,
    "open CTEs": lambda n: "WITH a AS (" * n,
    "CTEs in CTEs": lambda n: "WITH a AS (" * n + "SELECT 1" + ") FROM a" * n,
    "checks": lambda n: "CREATE TABLE t (a INT CHECK (" + "(" * n,
    "rows": lambda n: "INSERT INTO t VALUES " + "(" * n,
    "macros": lambda n: "CREATE MACRO f(x) AS " + "(" * n,
    "explain": lambda n: "EXPLAIN ANALYZE SELECT " + "(" * n,
    "unions": lambda n: " UNION ALL ".join(["SELECT 1"] * n),
    "unions without a FROM": lambda n: " UNION ".join(["FROM t"] * n),
    "joins": lambda n: "FROM t" + " JOIN t USING (a)" * n,
    "CTEs": lambda n: "WITH " + ", ".join(f"c{i} AS (SELECT {i})" for i in range(n)) + " SELECT 1",
    "cases": lambda n: "SELECT CASE " + "WHEN f(x) THEN g(y) " * n + "END",
    "sums": lambda n: "SELECT " + "1+" * n + "1",
    "ands": lambda n: "SELECT 1 WHERE " + "a=1 AND " * n + "b",
    "nots": lambda n: "SELECT " + "NOT " * n + "true",
    "minuses": lambda n: "SELECT " + "- " * n + "1",
    "casts": lambda n: "SELECT 1" + "::INT" * n,
    "places": lambda n: "SELECT x" + "[1]" * n,
    "names": lambda n: "SELECT " + "a." * n + "a",
    "calls by dots": lambda n: "SELECT (1)" + ".abs()" * n,
    # what could hide it
    "behind a text": lambda n: "SELECT E'\\'', " + "(" * n,
    "behind a name": lambda n: "SELECT a$b$, '$b$', " + "(" * n,
    "behind a comment": lambda n: "SELECT -- '\r" + "(" * n,
    "behind a block": lambda n: "SELECT /* ' */ /* \" */ " + "(" * n,
}


@pytest.fixture
def reader() -> StatementReader:
    """A reader that fails if it asks the engine."""
    return StatementReader(None, 1 << 24)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TOO_DEEP)
def test_what_is_too_deep_is_refused_cheaply_and_without_the_engine(
    reader: StatementReader, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("duckdb.extract_statements", None)
    sql = TOO_DEEP[name](MANY)
    for read in (reader.read, reader.parameter_names):
        begun = time.thread_time()
        with pytest.raises(TooLargeError, match=r"^the SQL text has more than \d+ .* \(query\.\w+\)\. Hint: Bind"):
            read(sql)
        assert time.thread_time() - begun < 0.05


def test_what_is_below_the_limits_ends_in_moderate_time(engine: Engine) -> None:
    for name, make in TOO_DEEP.items():
        begun = time.thread_time()
        for depth in (4, 40, 99):
            with suppress(InputError, PermissionDeniedError, UnsupportedError):
                engine.read(make(depth))
        assert time.thread_time() - begun < 1, name


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '" + "(" * MANY + "'",
        "SELECT 'it''s " + "''(" * MANY + "'",
        'SELECT 1 AS "' + "(" * MANY + '"',
        "SELECT E'\\'" + "(" * MANY + "'",
        "SELECT $$" + "(" * MANY + "$$",
        "SELECT $a$" + "$$(" * MANY + "$a$",
        "SELECT 1 -- " + "(" * MANY,
        "SELECT 1 /* " + "(" * MANY + " */",
        "SELECT 1 IN (" + ", ".join(map(str, range(MANY))) + ")",
        "VALUES " + ", ".join(["(1.5, -1, 'a.b.c.d')"] * 20_000),
        "SELECT " + ", ".join(["t.a.b.c"] * 20_000),
        "SELECT " + ", ".join(["abs((1))"] * 20_000),
        "SELECT " + " OR ".join(["(a = 1 AND b = 2)"] * 5000),
        "WITH " + ", ".join(f"c{i} AS (SELECT 1)" for i in range(900)) + " SELECT 1",
        "WITH a AS (SELECT 1), b AS (SELECT 2 WHERE 'with' <> \"with\") SELECT 1",
    ],
)
def test_what_is_only_long_passes(sql: str) -> None:
    Shape().check(sql)


@pytest.mark.parametrize(
    ("limits", "sql"),
    [
        ({"nesting_max": 3}, "SELECT ((((1))))"),
        ({"with_nesting_max": 1}, "WITH a AS (WITH b AS (SELECT 1) FROM b) FROM a"),
        ({"clauses_max": 12}, " UNION ".join(f"SELECT {i}" for i in range(7))),
        ({"chain_max": 100}, "SELECT " + "1 + " * 60 + "1"),
    ],
)
def test_limits_are_the_configurations(make_engine: Callable[..., Engine], limits: dict[str, Any], sql: str) -> None:
    (name,) = limits
    with pytest.raises(TooLargeError, match=rf"more than {limits[name]} .*query\.{name}"):
        Shape(**limits).check(sql)
    if name != "nesting_max":
        with pytest.raises(TooLargeError, match=rf"query\.{name}"):
            make_engine(**limits).read(sql)
    make_engine().read(sql)


@pytest.mark.parametrize("sql", ["SELECT '\ud800'", "SELECT \udcff", "\ud800" * 10_000])
def test_half_of_a_character_is_refused(engine: Engine, sql: str) -> None:
    with pytest.raises(StatementError, match="not valid Unicode"):
        engine.read(sql)


@pytest.mark.parametrize(
    "sql", ["SELECT 'a\0b'", "SELECT 1\0", "\0SELECT 1", "SELECT /* \0 */ 1", "SELECT \0(" + "(" * 50]
)
def test_byte_of_nothing_ends_in_an_answer_or_an_error_of_the_statement(engine: Engine, sql: str) -> None:
    with suppress(StatementError), engine.execute(engine.plan(sql)) as execution:
        execution.reader.read_all()
