from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flight_here import trades
from sql_here import SqlHere

from tickflight_server.config import QuerySettings
from tickflight_server.errors import PermissionDeniedError, ServerError
from tickflight_server.query.engine import Engine
from tickflight_server.query.statement import Statement
from tickflight_server.store import Store

READ = "SELECT count(*), max(now() > TIMESTAMP '2020-01-01'), max(typeof(today())) FROM trades"
OBJECTS = """
SELECT schema_name, view_name, sql, comment FROM duckdb_views() WHERE database_name = 'tickflight'
UNION ALL SELECT schema_name, table_name, sql, comment FROM duckdb_tables() WHERE database_name = 'tickflight'
UNION ALL SELECT schema_name, function_name, macro_definition, comment FROM duckdb_functions()
WHERE database_name = 'tickflight'
UNION ALL SELECT schema_name, '', sql, comment FROM duckdb_schemas() WHERE database_name = 'tickflight'
UNION ALL SELECT schema_name, type_name, '', '' FROM duckdb_types() WHERE database_name = 'tickflight'
UNION ALL SELECT schema_name, sequence_name, '', '' FROM duckdb_sequences() WHERE database_name = 'tickflight'
UNION ALL SELECT schema_name, table_name || column_name, data_type, comment FROM duckdb_columns()
WHERE database_name = 'tickflight' ORDER BY ALL
"""
# what is refused with a sentence that says what to do instead
DENIED = r"""
DROP VIEW market.trades
DROP VIEW IF EXISTS "market"."trades" CASCADE
DROP VIEW tickflight.market.trades
DROP/**/VIEW/*x*/market/**/./**/trades
DROP VIEW -- a comment; DROP
DROP SCHEMA market CASCADE
DROP SCHEMA "MARKET" CASCADE
DROP SCHEMA IF EXISTS tickflight."market" CASCADE
DROP SCHEMA tickflight.system CASCADE
DROP SCHEMA workspace CASCADE
CREATE OR REPLACE VIEW market.trades AS SELECT 1 AS x
CREATE OR REPLACE VIEW trades AS SELECT 1 AS x
CREATE VIEW workspace."TRADES" AS SELECT 1 AS x
CREATE VIEW "Trades" AS SELECT 1 AS x
CREATE TABLE trades (x INT)
CREATE TABLE metrics (x INT)
CREATE TEMP TABLE trades (x INT)
CREATE TEMP VIEW trades AS SELECT 1 AS x
CREATE TEMPORARY VIEW "Trades" AS SELECT 1 AS x
CREATE OR REPLACE TEMP VIEW __market_trades AS SELECT 1 AS seq
CREATE TEMP TABLE __market_trades (x INT)
CREATE TABLE __market_trades (x INT)
CREATE VIEW "__V" AS FROM trades
CREATE TABLE market.own (x INT)
CREATE TABLE tickflight.system.own (x INT)
CREATE TABLE tickflight.main.trades (x INT)
CREATE TABLE main.own (x INT)
CREATE TABLE "Market".own (x INT)
CREATE VIEW market.v AS SELECT 1 AS x
CREATE VIEW duckdb_tables AS SELECT 1 AS x
CREATE SEQUENCE market.s
CREATE SEQUENCE tickflight.system.s
CREATE TYPE market.t AS ENUM ('a')
CREATE OR REPLACE MACRO market.now() AS 1
CREATE OR REPLACE MACRO tickflight.market.now() AS 1
CREATE MACRO now() AS 1
CREATE MACRO workspace.now() AS TIMESTAMP '2000-01-01'
CREATE MACRO NOW() AS 1
CREATE MACRO "Now"() AS 1
CREATE OR REPLACE MACRO today() AS 1
CREATE FUNCTION current_date() AS 1
CREATE TEMP MACRO now() AS 1
CREATE TEMPORARY FUNCTION now() AS 1
CREATE MACRO sum(x) AS 1
CREATE MACRO "Count"(x) AS 1
CREATE MACRO md5(x) AS 'a'
CREATE TEMP MACRO md5(x) AS 'a'
CREATE MACRO duckdb_views() AS TABLE SELECT 1
CREATE MACRO trades() AS TABLE SELECT 1
DROP MACRO market.now
DROP MACRO IF EXISTS tickflight.market.now
DROP FUNCTION market.now
DROP MACRO now
ALTER VIEW market.trades RENAME TO old
ALTER VIEW tickflight."market".trades RENAME TO old
ALTER TABLE market.trades RENAME TO old
ALTER TABLE mine RENAME TO trades
ALTER TABLE mine RENAME TO "Trades"
ALTER TABLE mine RENAME TO __t
COMMENT ON VIEW market.trades IS 'x'
COMMENT ON VIEW "trades" IS 'x'
COMMENT ON COLUMN market.trades.price IS 'x'
INSERT INTO market.trades VALUES (1)
INSERT INTO trades SELECT * FROM trades
INSERT INTO "Trades" SELECT * FROM trades
INSERT INTO tickflight.market.trades SELECT * FROM trades
UPDATE trades SET price = 0
UPDATE "market"."TRADES" SET price = 0
DELETE FROM trades
DELETE FROM tickflight.market.trades
TRUNCATE trades
TRUNCATE TABLE market.trades
MERGE INTO trades USING mine ON x = seq WHEN MATCHED THEN DELETE
MERGE INTO market.trades USING mine ON x = seq WHEN MATCHED THEN DELETE
SET VARIABLE __now = 1
RESET VARIABLE __now
SET GLOBAL TimeZone = 'UTC'
ATTACH ':memory:' AS market
DETACH tickflight
CREATE SECRET s (TYPE s3)
CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW DELETE FROM mine
CREATE MACRO f(a := (SELECT count(*) FROM read_csv('/etc/passwd'))) AS a
CREATE MACRO f(a) AS TABLE SELECT * FROM read_csv(a)
CREATE MACRO f() AS TABLE FROM '/etc/passwd'
CREATE TABLE c (x VARCHAR DEFAULT (getenv('HOME')))
CREATE TABLE c (x VARCHAR GENERATED ALWAYS AS (getenv('HOME')))
ALTER TABLE mine ALTER x SET DEFAULT getenv('HOME')
ALTER TABLE mine ALTER x TYPE VARCHAR USING current_setting('memory_limit')
CREATE TYPE t AS ENUM (SELECT content FROM read_text('/etc/passwd'))
""".replace("-- a comment; DROP\n", "-- a comment; DROP\\n market.trades\n").strip()
# what the engine itself refuses, or is not offered
FAILING = r"""
DROP TABLE market.trades
DROP SCHEMA tickflight.main CASCADE
CREATE TABLE system.own (x INT)
CREATE MACRO market.now() AS 1
CREATE SCHEMA "Market"
CREATE SCHEMA IF NOT EXISTS System
CREATE OR REPLACE SCHEMA market
CREATE SCHEMA temp.market
CREATE SCHEMA information_schema
CREATE TABLE pg_catalog.x (x INT)
ALTER TABLE market.trades ADD COLUMN x INT
ALTER TABLE mine SET SCHEMA market
ALTER SCHEMA market RENAME TO m2
COMMENT ON SCHEMA market IS 'x'
CREATE INDEX i ON market.trades (seq)
INSERT INTO temp.main.__market_trades SELECT 1
WITH d AS (DELETE FROM trades RETURNING *) SELECT * FROM d
DROP VIEW temp.main.__market_trades
CREATE TYPE t AS ENUM (SELECT x FROM mine)
ALTER TABLE mine ADD COLUMN y VARCHAR DEFAULT getvariable('__now')
DROP VIEW market.trades; SELECT 1
""".strip()


@pytest.fixture
def here(engine: Engine, store: Store) -> SqlHere:
    store.append("trades", trades(10)).result()
    made = SqlHere(engine)
    made.write("CREATE TABLE mine AS SELECT 1 AS x")
    return made


def objects(here: SqlHere) -> list[Any]:
    with here.engine.workspace.connection() as connection:
        here.engine.opening.give_empty(connection)
        return connection.execute(OBJECTS).fetchall()


@pytest.mark.parametrize("in_transaction", [False, True])
def test_nothing_changes_or_hides_what_is_the_servers(here: SqlHere, in_transaction: bool) -> None:
    before = objects(here)
    wrong = []
    texts = [(sql.replace("\\n", "\n"), PermissionDeniedError) for sql in DENIED.splitlines()]
    texts += [(sql, ServerError) for sql in FAILING.splitlines()]
    assert len(texts) > 100
    for sql, kind in texts:
        session = here.engine.session()
        try:
            if in_transaction:
                here.write("BEGIN", session)
                here.write("CREATE TABLE other AS SELECT 1 AS x", session)
            try:
                here.write(sql, session)
                wrong.append(f"it passed: {sql}")
            except kind as error:
                if kind is PermissionDeniedError and not error.hint:
                    wrong.append(f"it has no hint: {sql}")
            if in_transaction and session.home.in_transaction:
                here.write("ROLLBACK", session)
            if here.rows(READ, session) != [(10, True, "DATE")] or here.rows(READ) != [(10, True, "DATE")]:
                wrong.append(f"trades are not as they were: {sql}")
        except ServerError as error:
            wrong.append(f"{sql}: {error!r}")
        session.close()
    assert wrong == []
    assert objects(here) == before


def test_what_a_session_was_given_is_not_dropped(here: SqlHere) -> None:
    session = here.engine.session()
    here.write("CREATE TEMP TABLE t AS SELECT 1 AS x", session)
    with pytest.raises(PermissionDeniedError, match="__market_trades is the server's own"):
        here.write("DROP VIEW IF EXISTS temp.main.__market_trades", session)
    assert here.rows(READ, session) == [(10, True, "DATE")]
    session.close()


def test_users_make_what_they_like_in_their_schemas(here: SqlHere) -> None:
    for sql in (
        "CREATE SCHEMA own",
        "CREATE TABLE own.trades (x INT)",
        "CREATE VIEW own.v AS SELECT count(*) AS n FROM market.trades",
        "CREATE SEQUENCE s",
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE TABLE moods (m mood, id INT DEFAULT nextval('s') PRIMARY KEY)",
        "CREATE INDEX i ON moods (m)",
        "COMMENT ON TABLE moods IS 'how it is'",
        "DROP INDEX i",
        "ALTER TABLE moods RENAME TO feelings",
        "CREATE MACRO own.plus(a, b) AS a + b",
        "DROP TABLE feelings",
        "DROP SCHEMA own CASCADE",
    ):
        here.write(sql)
    assert {t.name for t in here.engine.workspace.tables()} == {"mine"}


@pytest.mark.parametrize(
    ("make", "ask"),
    [
        ("CREATE VIEW v AS SELECT * FROM trades", "v"),
        ("CREATE VIEW v AS SELECT seq, symbol FROM (SELECT * FROM market.trades)", "v"),
        ("CREATE TEMP VIEW v AS SELECT * FROM tickflight.market.trades", "v"),
        ("CREATE MACRO f() AS TABLE SELECT * FROM trades", "f()"),
        ("CREATE MACRO f(a := 1, b := 2) AS TABLE SELECT * FROM trades WHERE a < b", "f()"),
    ],
)
def test_users_views_and_macros_read_live_rows_of_the_parts_that_match(
    here: SqlHere, store: Store, release: Callable[[], None], make: str, ask: str
) -> None:
    store.append("trades", trades(5, "ETH-USDT")).result()
    release()
    session = here.engine.session()
    here.write(make, session)
    sql = f"SELECT count(*) FROM {ask} WHERE symbol = 'ETH-USDT'"
    rows, opened = here.ask(sql, session)
    assert rows == [(5,)]
    assert len(opened["trades"].parts) == 1
    store.append("trades", trades(7, "ETH-USDT", 100)).result()
    assert here.rows(sql, session) == [(12,)]
    session.close()


def test_view_over_view_and_macro_reads_live_rows(here: SqlHere, store: Store) -> None:
    here.write("CREATE MACRO last_price() AS (SELECT max(price) FROM trades)")
    here.write("CREATE VIEW a AS SELECT last_price() AS p, (SELECT count(*) FROM trades) AS n")
    here.write("CREATE VIEW b AS SELECT p, n FROM a")
    assert here.rows("SELECT p, n FROM b") == [(9.0, 10)]
    store.append("trades", trades(1, first=50)).result()
    assert here.rows("SELECT p, n FROM b") == [(50.0, 11)]


def test_view_that_is_changed_and_rolled_back_is_read_as_before(here: SqlHere) -> None:
    here.write("CREATE VIEW v AS SELECT count(*) AS n FROM ticker")
    session = here.engine.session()
    here.write("BEGIN", session)
    here.write("CREATE OR REPLACE VIEW v AS SELECT count(*) + 100 AS n FROM trades", session)
    assert (here.rows("FROM v", session), here.rows("FROM v")) == ([(110,)], [(0,)])
    here.write("ROLLBACK", session)
    assert (here.rows("FROM v", session), here.rows("FROM v")) == ([(0,)], [(0,)])
    session.close()


def test_temporary_views_of_one_name_are_each_sessions_own(here: SqlHere) -> None:
    sessions = [here.engine.session() for _ in range(2)]
    for session, table in zip(sessions, ("trades", "ticker"), strict=True):
        here.write(f"CREATE TEMP VIEW v AS SELECT count(*) AS n FROM {table}", session)
    assert [here.rows("FROM v", session) for session in sessions] == [[(10,)], [(0,)]]
    for session in sessions:
        session.close()


def test_statement_is_read_with_the_views_of_when_it_runs(here: SqlHere) -> None:
    here.write("CREATE VIEW v AS SELECT count(*) AS n FROM ticker")
    statement = here.engine.read("SELECT n FROM v WHERE n > $1")
    assert isinstance(statement, Statement)
    here.write("CREATE OR REPLACE VIEW v AS SELECT count(*) AS n FROM trades")
    with here.engine.execute(here.engine.plan(statement, (1,))) as execution:
        assert execution.reader.read_all().to_pydict() == {"n": [10]}


def test_asking_for_columns_takes_no_number_of_a_sequence(here: SqlHere) -> None:
    here.write("CREATE SEQUENCE numbers")
    assert [here.rows("SELECT nextval('numbers')") for _ in range(3)] == [[(1,)], [(2,)], [(3,)]]


def open_engine(folder: Path, store: Store) -> Engine:
    return Engine(store, QuerySettings(), workspace=folder / "workspace.duckdb")


def test_users_objects_are_there_after_a_restart(tmp_path: Path, store: Store) -> None:
    store.append("trades", trades(10)).result()
    first = SqlHere(open_engine(tmp_path, store))
    for sql in (
        "CREATE TABLE kept AS SELECT seq, price FROM trades",
        "CREATE VIEW v AS SELECT count(*) AS n FROM trades",
        "CREATE MACRO f() AS TABLE SELECT max(price) AS p FROM trades",
    ):
        first.write(sql)
    first.engine.close()
    again = SqlHere(open_engine(tmp_path, store))
    assert again.rows("SELECT count(*), sum(price), (SELECT n FROM v), (FROM f()) FROM kept") == [(10, 45.0, 10, 9.0)]
    again.engine.close()


@pytest.mark.parametrize("damage", ["no database", "cut"])
def test_damaged_workspace_is_set_aside_and_told(tmp_path: Path, store: Store, damage: str) -> None:
    store.append("trades", trades(10)).result()
    file = tmp_path / "workspace.duckdb"
    first = SqlHere(open_engine(tmp_path, store))
    first.write("CREATE TABLE kept AS SELECT range AS x FROM range(100000)")
    first.engine.close()
    content = file.read_bytes()
    if damage == "no database":
        file.write_bytes(b"x" * len(content))
    else:
        file.write_bytes(content[:5000])
    again = SqlHere(open_engine(tmp_path, store))
    assert again.rows(READ) == [(10, True, "DATE")]
    (told,) = [c for c in store.health.conditions() if c.component == "workspace"]
    (aside,) = tmp_path.glob("workspace.duckdb.damaged-*")
    assert (told.state, aside.name in told.hint) == ("degraded", True)
    again.write("CREATE TABLE kept AS SELECT 1 AS x")
    again.engine.close()


def test_torn_log_of_the_workspace_is_the_end_of_it(tmp_path: Path, store: Store) -> None:
    first = SqlHere(open_engine(tmp_path, store))
    first.write("CREATE TABLE kept AS SELECT range AS x FROM range(1000)")
    first.engine.close()
    (tmp_path / "workspace.duckdb.wal").write_bytes(b"\x01" * 10_000)
    again = SqlHere(open_engine(tmp_path, store))
    assert again.rows("SELECT count(*) FROM kept") == [(1000,)]
    again.engine.close()
