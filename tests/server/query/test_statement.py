"""Only one reading statement passes, and it is known which tables it names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import duckdb
import pytest

from tickflight_server.errors import PermissionDeniedError, ServerError, StatementError, TooLargeError, UnsupportedError
from tickflight_server.query.statement import StatementReader


@pytest.fixture(scope="module")
def reader() -> Iterator[StatementReader]:
    with duckdb.connect() as connection:
        yield StatementReader(connection, 1 << 20)


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT 1", set()),
        ("VALUES (1), (2)", set()),
        ("FROM trades", {("", "trades")}),
        ("TABLE trades", {("", "trades")}),
        ('SELECT * FROM "Market"."TRADES"', {("market", "trades")}),
        ("SELECT * FROM tickflight.market.trades", {("market", "trades")}),
        ("WITH c AS (SELECT * FROM trades) SELECT * FROM c", {("", "trades"), ("", "c")}),
        ("SELECT * FROM trades ASOF JOIN ticker USING (symbol, timestamp)", {("", "trades"), ("", "ticker")}),
        ("SELECT (SELECT max(seq) FROM candles)", {("", "candles")}),
        ("SELECT * FROM trades WHERE EXISTS (FROM funding)", {("", "trades"), ("", "funding")}),
        ("FROM trades UNION ALL FROM fills", {("", "trades"), ("", "fills")}),
        ("DESCRIBE trades", {("", "trades")}),
        ("SHOW trades", {("", "trades")}),
        ("SUMMARIZE market.trades", {("market", "trades")}),
        ("SHOW TABLES", set()),
        ("PIVOT trades ON side IN ('buy') USING sum(amount)", {("", "trades")}),
        ("SELECT * FROM range(3), unnest([1, 2])", set()),
        ("EXPLAIN SELECT * FROM trades", {("", "trades")}),
    ],
)
def test_reading_statement_passes_and_names_its_tables(
    reader: StatementReader, sql: str, tables: set[tuple[str, str]]
) -> None:
    assert reader.read(sql).tables == tables


@pytest.mark.parametrize(
    "sql",
    [
        "COPY trades TO 'x.csv'",
        "COPY (SELECT 1) TO 'x.csv'",
        "ATTACH 'x' AS y",
        "DETACH tickflight",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "SET VARIABLE __now = 1",
        "RESET threads",
        "USE system",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
        "CREATE MACRO f() AS 1",
        "CREATE SECRET (TYPE s3)",
        "DROP VIEW trades",
        "ALTER TABLE trades RENAME TO x",
        "INSERT INTO trades VALUES (1)",
        "UPDATE trades SET price = 1",
        "DELETE FROM trades",
        "TRUNCATE trades",
        "EXPORT DATABASE 'x'",
        "IMPORT DATABASE 'x'",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "BEGIN",
        "COMMIT",
        "VACUUM",
        "CHECKPOINT",
        "EXPLAIN COPY trades TO 'x.csv'",
        "EXPLAIN ANALYZE COPY trades TO 'x.csv'",
        "EXPLAIN (ANALYZE) INSERT INTO trades VALUES (1)",
        "/* */ EXPLAIN /* */ CREATE TABLE x AS SELECT 1",
        "EXPLAIN EXPLAIN SELECT 1",
        # a WITH may hold them too
        "WITH x AS (COPY (SELECT 1) TO 'x.csv') SELECT 1",
        "WITH x AS (INSERT INTO trades VALUES (1) RETURNING *) FROM x",
        "WITH x AS (UPDATE trades SET price = 1 RETURNING *) FROM x",
        "WITH x AS (DELETE FROM trades RETURNING *) FROM x",
        "SELECT * FROM (WITH x AS (COPY trades TO 'x') SELECT 1)",
        "SELECT (WITH x AS (COPY trades TO 'x') SELECT 1)",
        "EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO 'x.csv') SELECT 1",
        "DESCRIBE (WITH x AS (COPY (SELECT 1) TO 'x.csv') SELECT 1)",
        # files, settings and the machine
        "SELECT * FROM read_parquet('x')",
        "SELECT * FROM parquet_scan('x')",
        "SELECT * FROM READ_CSV('x')",
        "SELECT * FROM read_text('x')",
        "SELECT * FROM glob('*')",
        "SELECT * FROM 'x.parquet'",
        'SELECT * FROM "x.parquet"',
        "SELECT * FROM 's3://bucket/x'",
        "SELECT * FROM sniff_csv('x')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM query_table('trades')",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_variables()",
        "SELECT * FROM pg_settings",
        "SELECT * FROM pg_catalog.PG_SETTINGS",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM duckdb_logs",
        "SELECT * FROM json_execute_serialized_sql('x')",
        "SELECT getvariable('__market_trades')",
        "SELECT '__now'.getvariable()",
        "SELECT list_transform(['x'], lambda v: getvariable(v))",
        "SELECT system.main.getvariable('x')",
        "SELECT current_setting('temp_directory')",
        "SELECT getenv('HOME')",
        "SELECT json_serialize_plan('SELECT 1')",
        "SELECT sleep_ms(100000)",
        "SELECT 1 WHERE (SELECT count(*) FROM (SELECT getenv('HOME'))) > 0",
    ],
)
def test_what_is_no_harmless_query_is_refused(reader: StatementReader, sql: str) -> None:
    with pytest.raises((UnsupportedError, PermissionDeniedError)) as caught:
        reader.read(sql)
    assert "\n" not in str(caught.value)


def test_refusal_names_the_kind_of_statement(reader: StatementReader) -> None:
    with pytest.raises(
        UnsupportedError, match=r"^COPY inside a query is not offered here\. Hint: Send it as a statement of its own\."
    ):
        reader.read("WITH x AS (COPY (SELECT 1) TO 'x.csv') SELECT 1")


@pytest.mark.parametrize("sql", ["", "  ", ";", "-- nothing", "/* nothing */", "SELECT 1; SELECT 2", "EXPLAIN"])
def test_text_of_not_one_statement_is_refused(reader: StatementReader, sql: str) -> None:
    with pytest.raises(StatementError, match=r"(is empty|holds 2 statements)\. Hint: Send one statement at a time\."):
        reader.read(sql)


@pytest.mark.parametrize("sql", ["SELECT 1;", "SELECT 1 -- end", "/* a */ SELECT 1 /* b */;", "\n\tSELECT 1\n"])
def test_comments_and_a_final_semicolon_are_no_matter(reader: StatementReader, sql: str) -> None:
    assert reader.read(sql).tables == set()


def test_syntax_error_shows_the_place(reader: StatementReader) -> None:
    with pytest.raises(StatementError) as caught:
        reader.read("SELECT price\nFRM trades\nWHERE x")
    assert 'near "trades"' in str(caught.value)
    assert "LINE 2: FRM trades\n            ^^^^^^" in str(caught.value)


def test_too_long_text_is_refused_by_its_bytes(reader: StatementReader) -> None:
    sql = f"SELECT '{'x' * 10_000_000}'"
    for read in (reader.read, reader.parameter_names):
        with pytest.raises(TooLargeError, match=r"has 10000009 bytes, query\.sql_bytes_max is 1048576"):
            read(sql)


def test_text_that_is_no_unicode_is_refused(reader: StatementReader) -> None:
    with pytest.raises(StatementError, match="not valid Unicode"):
        reader.read("SELECT '\ud800'")


@pytest.mark.parametrize("depth", [100, 900, 10_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: "SELECT " + "(" * n + "1" + ")" * n,
        lambda n: "SELECT " + "NOT " * n + "true",
        lambda n: "SELECT " + "[" * n + "]" * n,
        lambda n: "SELECT " + "abs(" * n + "1" + ")" * n,
        lambda n: "SELECT " + "1 + " * n + "1",
        lambda n: "SELECT * FROM " + "(SELECT * FROM " * n + "trades" + ")" * n,
        lambda n: "SELECT " + "CASE WHEN true THEN " * n + "1" + " END" * n,
    ],
    ids=["brackets", "not", "lists", "calls", "sums", "subqueries", "cases"],
)
def test_depth_ends_in_an_answer_or_an_error_of_the_statement(
    reader: StatementReader, make: object, depth: int
) -> None:
    sql = make(depth)  # type: ignore[operator]
    for read in (reader.read, reader.parameter_names):
        with suppress(StatementError, TooLargeError):
            read(sql)


def test_ten_thousand_comments_take_no_time(reader: StatementReader) -> None:
    begun = time.perf_counter()
    with pytest.raises(ServerError):
        reader.read("/**/" * 10_000 + "EXPLAIM SELECT 1")
    reader.read("/* * **/--\n" * 10_000 + "SELECT 1")
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("FROM system.parts", "FROM tickflight.system.parts"),
        ('FROM "system"."parts"', 'FROM tickflight."system"."parts"'),
        ("FROM SYSTEM.Parts p", "FROM tickflight.SYSTEM.Parts p"),
        ("SELECT 'é€', count(*) FROM system.parts", "SELECT 'é€', count(*) FROM tickflight.system.parts"),
        (
            "WITH c AS (FROM system.parts) SELECT * FROM c, system.log, (FROM system.feeds)",
            "WITH c AS (FROM {0}system.parts) SELECT * FROM c, {0}system.log, (FROM {0}system.feeds)".format(
                "tickflight."
            ),
        ),
        ("-- é\nFROM system.parts", "-- é\nFROM tickflight.system.parts"),
        ("EXPLAIN FROM system.parts", "EXPLAIN FROM tickflight.system.parts"),
        ("DESCRIBE system.parts", "DESCRIBE tickflight.system.parts"),
        ("SUMMARIZE system.parts", "SUMMARIZE tickflight.system.parts"),
        ("FROM tickflight.system.parts", "FROM tickflight.system.parts"),
        ("SELECT system.rows FROM tickflight.system.parts AS system", None),
        ("SELECT 'DESCRIBE system.parts'", None),
        ("SELECT ' system.parts ' FROM trades", None),
    ],
)
def test_schema_system_is_the_catalogs_own(reader: StatementReader, sql: str, expected: str | None) -> None:
    assert reader.read(sql).sql == (sql if expected is None else expected)


@pytest.mark.parametrize(
    ("sql", "run", "probe"),
    [
        ("EXPLAIN SELECT 1", "EXPLAIN SELECT 1", "EXPLAIN SELECT 1"),
        ("explain analyze SELECT 1", "explain analyze SELECT 1", "EXPLAIN SELECT 1"),
        ("EXPLAIN (ANALYZE, FORMAT json) SELECT 1", "EXPLAIN (ANALYZE, FORMAT json) SELECT 1", "EXPLAIN SELECT 1"),
        ("EXPLAIN (FORMAT json) SELECT 1", "EXPLAIN (FORMAT json) SELECT 1", "EXPLAIN (FORMAT json) SELECT 1"),
        ("EXPLAIN (SELECT 1)", "EXPLAIN (SELECT 1)", "EXPLAIN (SELECT 1)"),
        ("-- why\n/* so\n*/EXPLAIN SELECT 1", "\n\nEXPLAIN SELECT 1", "\n\nEXPLAIN SELECT 1"),
    ],
)
def test_explain_keeps_its_lines_and_its_probe_runs_nothing(
    reader: StatementReader, sql: str, run: str, probe: str
) -> None:
    statement = reader.read(sql)
    assert statement.explain
    assert (statement.sql, statement.probe_sql) == (run, probe)


@pytest.mark.parametrize(
    "sql",
    [
        "--\rCOPY (SELECT 1) TO 'x'; --\n EXPLAIN SELECT 1",
        "--\r EXPLAIN /* \n COPY (SELECT 1) TO 'x'; -- */ SELECT 1",
        "/* /* */ EXPLAIN /* */ */ COPY (SELECT 1) TO 'x'",
        "EXPLAIN /* \n */ SELECT 1 /* */",
    ],
)
def test_comment_hides_nothing_from_the_check(reader: StatementReader, sql: str) -> None:
    """Whatever the engine takes for a comment, its text begins with EXPLAIN or was looked through as a whole."""
    try:
        statement = reader.read(sql)
    except ServerError:
        return
    assert statement.sql.lstrip("\n").startswith("EXPLAIN")
    assert [s.type.name for s in duckdb.extract_statements(statement.sql)] == ["EXPLAIN"]


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT 1", ()),
        ("SELECT ?, ?", ("1", "2")),
        ("SELECT $2, $1", ("1", "2")),
        ("SELECT $10, $9, $1", ("1", "9", "10")),
        ("SELECT $b, '$c', $a, $b -- $z", ("b", "a")),
        ("EXPLAIN SELECT $b, $a", ("b", "a")),
    ],
)
def test_parameters_are_named_in_their_order(reader: StatementReader, sql: str, names: tuple[str, ...]) -> None:
    assert reader.parameter_names(sql) == names
