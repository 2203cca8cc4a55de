"""What SqlInfo says is so: a check for each code, on a server that answers it.

The rule of this file: a check compares the value that came over the wire with what the server does; a code without one
fails ``test_every_code_has_a_check``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from flight_here import FlightHere, trades
from flight_peer import Clocked, Peer, described
from pyarrow import flight

import tickflight_server
from tickflight.wire import actions as a
from tickflight.wire import commands as c
from tickflight.wire import enums as e
from tickflight.wire.flight import FlightInfo
from tickflight_server.flight.sqlinfo import SQL_INFO

QUERY = {"sql_bytes_max": 2**20, "handles_max": 5000, "sessions_max": 4000, "handle_idle_s": 60}


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    here = FlightHere(tmp_path_factory.mktemp("truth"), query=QUERY)
    here.store.append("trades", trades(10)).result()
    made = Peer(here)
    yield made
    made.client.close()
    here.stop()


@contextmanager
def other(kind: type[FlightHere], folder: Path, **options: Any) -> Iterator[Peer]:
    """A server with settings of its own, for claims about limits."""
    here = kind(folder, **options)
    made = Peer(here)
    try:
        yield made
    finally:
        made.client.close()
        here.stop()


Check = Callable[[Peer, Path], None]
CHECKS: dict[int, Check] = {}


def check(*codes: int) -> Callable[[Check], Check]:
    def enter(function: Check) -> Check:
        for code in codes:
            assert code not in CHECKS
            CHECKS[code] = function
        return function

    return enter


def says(code: int, *statements: str) -> None:
    """Let a boolean code be true just if all of the statements run."""

    def compare(peer: Peer, _: Path) -> None:
        assert peer.info[code] == peer.runs(*statements)

    check(code)(compare)


def gives(code: int, expected: Any, *answers: tuple[str, Any]) -> None:
    """Let a code have a value, and queries an only value each that proves it."""

    def compare(peer: Peer, _: Path) -> None:
        assert peer.info[code] == expected
        for sql, value in answers:
            assert peer.value(sql) == value, sql

    check(code)(compare)


def bits(code: int, members: dict[IntEnum, tuple[str, ...]]) -> None:
    """Let a bitmask have the bits of those members whose statements all run."""

    def compare(peer: Peer, _: Path) -> None:
        found = sum(1 << member for member, statements in members.items() if peer.runs(*statements))
        assert peer.info[code] == found

    assert set(members) == set(type(next(iter(members)))), "each member has to be tried"
    check(code)(compare)


def unlimited(code: int, *statements: Callable[[], str]) -> None:
    """Let a limit be 0, and statements run that go far."""

    def compare(peer: Peer, _: Path) -> None:
        assert peer.info[code] == 0
        assert peer.runs(*(make() for make in statements))

    check(code)(compare)


def absent(code: int, expected: Any, *statements: str) -> None:
    """Let a code say that there is no such thing, and each statement that would need it be refused."""

    def compare(peer: Peer, _: Path) -> None:
        assert peer.info[code] == expected
        assert not [sql for sql in statements if peer.runs(sql)]

    check(code)(compare)


# --- the server


@check(0)
def server_has_its_name(peer: Peer, _: Path) -> None:
    assert peer.info[0] == "tickflight"


@check(1)
def version_is_the_engines_and_the_packages(peer: Peer, _: Path) -> None:
    version = tickflight_server.__version__
    assert peer.info[1] == f"duckdb {peer.value('SELECT version()')} (tickflight {version})"


@check(2)
def arrow_is_the_one_that_runs(peer: Peer, _: Path) -> None:
    assert peer.info[2] == pa.__version__


says(4, "SELECT 1")


@check(3)
def read_only_servers_take_no_rows(peer: Peer, _: Path) -> None:
    runs = peer.runs("CREATE TABLE w3 (a INT)", "INSERT INTO w3 VALUES (1)", "DELETE FROM w3", "DROP TABLE w3")
    assert peer.info[3] == (not runs)


@check(5, 6, 7)
def substrait_is_absent(peer: Peer, _: Path) -> None:
    assert (peer.info[5], peer.info[6], peer.info[7]) == (False, None, None)
    plan = c.SubstraitPlan(b"plan", "0.1")
    with pytest.raises(pa.ArrowNotImplementedError):
        peer.client.get_flight_info(described(c.CommandStatementSubstraitPlan(plan)))
    with pytest.raises(pa.ArrowNotImplementedError):
        peer.action("CreatePreparedSubstraitPlan", a.ActionCreatePreparedSubstraitPlanRequest(plan))


@check(8, 573)
def transactions_are_there_and_savepoints_are_not(peer: Peer, _: Path) -> None:
    assert peer.info[8] == e.SqlSupportedTransaction.SQL_SUPPORTED_TRANSACTION_TRANSACTION
    assert peer.info[573] is False
    transaction = peer.begin()
    with pytest.raises(pa.ArrowNotImplementedError):
        peer.action("BeginSavepoint", a.ActionBeginSavepointRequest(transaction, "s"))
    peer.end(transaction, commit=False)
    assert not peer.runs("SAVEPOINT s")


@check(9)
def cancel_query_ends_a_query(peer: Peer, _: Path) -> None:
    assert peer.info[9] is True
    info = peer.client.get_flight_info(described(c.CommandStatementQuery("SELECT 1")))
    answer = peer.action("CancelQuery", a.ActionCancelQueryRequest(FlightInfo.parse(info.serialize()).serialize()))
    assert answer.result == e.CancelResult.CANCEL_RESULT_CANCELLED
    with pytest.raises(flight.FlightCancelledError):
        peer.client.do_get(info.endpoints[0].ticket).read_all()


@check(10)
def bulk_ingestion_makes_and_fills_tables(peer: Peer, _: Path) -> None:
    assert peer.info[10] is True
    with adbc.connect(peer.here.address, autocommit=True) as connection, connection.cursor() as cursor:
        assert cursor.adbc_ingest("i10", pa.table({"a": [1, 2]}), mode="create") == 2
        assert cursor.adbc_ingest("i10", pa.table({"a": [3]}), mode="append") == 1
        assert cursor.adbc_ingest("trades", pa.Table.from_batches([trades(1)]), mode="append") == 1
    assert peer.value("SELECT sum(a) FROM i10") == 6


@check(11)
def ingest_honours_its_transaction(peer: Peer, _: Path) -> None:
    assert peer.info[11] is True
    for commit, rows in ((False, 0), (True, 1)):
        transaction = peer.begin()
        peer.ingest("i11", pa.record_batch({"a": [1]}), transaction_id=transaction)
        peer.end(transaction, commit=commit)
        assert len(peer.listed(table_name_filter_pattern="i11")) == rows
    transaction = peer.begin()
    with pytest.raises(pa.ArrowNotImplementedError, match="no part in transactions"):
        peer.ingest("trades", trades(1), transaction_id=transaction)
    peer.end(transaction, commit=False)


@check(100)
def unused_prepared_statement_lasts_as_long_as_told(_: Peer, folder: Path) -> None:
    with other(Clocked, folder, query={"handle_idle_s": 20}) as peer:
        assert peer.info[100] == 20_000
        handle = peer.prepare("SELECT 1").prepared_statement_handle
        command = described(c.CommandPreparedStatementQuery(handle))
        for _ in range(2):  # use keeps it
            peer.here.clock.us += 19_000_000
            peer.client.get_flight_info(command)
        peer.here.clock.us += 21_000_000
        with pytest.raises(KeyError):
            peer.client.get_flight_info(command)


@check(101)
def unused_transaction_lasts_as_long_as_told(_: Peer, folder: Path) -> None:
    for number, limits in enumerate(({"transaction_idle_s": 20}, {"transaction_idle_s": 90, "session_idle_s": 20})):
        with other(Clocked, folder / str(number), query=limits) as peer:
            assert peer.info[101] == 20_000
            transaction = peer.begin()
            peer.run_in(transaction, "CREATE TABLE w101 (a INT)")
            for _ in range(2):  # use keeps it
                peer.here.clock.us += 19_000_000
                peer.here.flight.main._sessions.sweep()
                peer.run_in(transaction, "SELECT * FROM w101")
            peer.here.clock.us += 21_000_000
            peer.here.flight.main._sessions.sweep()
            with pytest.raises(KeyError):
                peer.end(transaction, commit=True)
            assert not peer.runs("SELECT * FROM w101")


# --- names and the words of the dialect

says(500, "CREATE DATABASE d500")
says(501, "CREATE SCHEMA s501", "CREATE TABLE s501.t (a INT)", "DROP TABLE s501.t", "DROP SCHEMA s501")
says(502, "CREATE TABLE t502 (a INT)", "DROP TABLE t502")


@check(503, 505)
def names_are_found_whatever_their_case(peer: Peer, _: Path) -> None:
    insensitive = e.SqlSupportedCaseSensitivity.SQL_CASE_SENSITIVITY_CASE_INSENSITIVE
    assert (peer.info[503], peer.info[505]) == (insensitive, insensitive)
    peer.table('CREATE TABLE Mixed503 ("Col" INT)')
    peer.table("INSERT INTO mIXED503 VALUES (1)")
    assert peer.value("SELECT cOL FROM MIXED503") == 1
    assert peer.value('SELECT "cOL" FROM "mixed503"') == 1
    # they are told as they were written
    assert [row["table_name"] for row in peer.listed(table_name_filter_pattern="Mixed503")] == ["Mixed503"]


@check(504)
def quoted_names_may_hold_anything(peer: Peer, _: Path) -> None:
    quote = peer.info[504]
    assert quote == '"'
    name = 'a "b"; select 504'
    quoted = quote + name.replace(quote, quote * 2) + quote
    peer.table(f"CREATE TABLE {quoted} ({quoted} INT)")
    assert peer.table(f"SELECT {quoted} FROM {quoted}").schema.names == [name]


@check(506)
def every_listed_table_can_be_selected(peer: Peer, _: Path) -> None:
    assert peer.info[506] is True
    peer.table("CREATE OR REPLACE VIEW v506 AS SELECT symbol FROM market.trades")
    listed = [row for row in peer.listed() if '"' not in row["table_name"]]
    assert {row["table_name"] for row in listed} >= {"trades", "health", "v506"}
    for row in listed:
        name = ".".join(f'"{row[part]}"' for part in ("catalog_name", "db_schema_name", "table_name"))
        assert peer.runs(f"SELECT * FROM {name} LIMIT 0"), name


@check(507)
def nulls_sort_at_the_end_both_ways(peer: Peer, _: Path) -> None:
    assert peer.info[507] == e.SqlNullOrdering.SQL_NULLS_SORTED_AT_END
    for direction in ("ASC", "DESC"):
        assert peer.rows(f"SELECT x FROM (VALUES (NULL), (1), (2)) t(x) ORDER BY x {direction}")[-1] == (None,)


@check(508)
def keywords_are_the_engines(peer: Peer, _: Path) -> None:
    names = peer.rows("SELECT DISTINCT keyword_name FROM duckdb_keywords() ORDER BY 1")
    assert peer.info[508] == [name for (name,) in names]


ARGUMENTS = (
    *("()", "", "(1)", "(1, 2)", "('a')", "('a', 'b')", "('a', 1)", "('a', 'b', 'c')", "('a', 'b', 1)", "(1, 0, 9)"),
    *("('a' IN 'ab')", "(true)", "(['a'], ',')", "('a'::BLOB)", "('1010')", "(DATE '2020-01-01')", "(2020, 1, 1)"),
    *("('year', DATE '2020-01-01')", "('year', DATE '2020-01-01', DATE '2021-01-01')", "('UTC', now())"),
    *("(INTERVAL 1 DAY, DATE '2020-01-01')", "(now(), '%Y')", "('2020', '%Y')", "(now(), now())"),
    *("('a', 3, ' ')", "(now()::TIMESTAMPTZ)"),
)


@check(509, 510, 511, 512)
def every_listed_function_runs(peer: Peer, _: Path) -> None:
    for code in (509, 510, 511, 512):
        assert len(peer.info[code]) > 10
        failed = [f for f in peer.info[code] if not any(peer.runs(f"SELECT {f}{given}") for given in ARGUMENTS)]
        assert failed == []


@check(513)
def escape_makes_wildcards_plain(peer: Peer, _: Path) -> None:
    escape = peer.info[513]
    for name in ("w513_a", "w513xa", "w513%a"):
        peer.table(f'CREATE TABLE "{name}" (a INT)')

    def found(pattern: str) -> list[str]:
        return [row["table_name"] for row in peer.listed(table_name_filter_pattern=pattern)]

    assert found("w513_a") == ["w513%a", "w513_a", "w513xa"]
    assert found(f"w513{escape}_a") == ["w513_a"]
    assert found(f"w513{escape}%a") == ["w513%a"]


@check(514)
def other_characters_of_bare_names_are_those_told(peer: Peer, _: Path) -> None:
    # letters of other scripts are letters; of all the rest of ASCII, these
    marks = [chr(n) for n in range(33, 127) if not chr(n).isalnum() and chr(n) not in "_\"'"]
    taken = [m for m in marks if peer.runs(f"CREATE OR REPLACE TEMP TABLE a{m}b AS SELECT 1 AS c{m}d")]
    assert peer.info[514] == "".join(taken)


says(515, "SELECT a AS b, 2 c FROM (SELECT 1 AS a) ORDER BY b, c")
gives(516, True, ("SELECT (NULL || 'x') IS NULL", True))

SAMPLES = {
    "BIGINT": ("BIGINT", "1"),
    "BINARY": ("BLOB", "'1'"),
    "BIT": ("BOOLEAN", "true"),
    "CHAR": ("VARCHAR", "'1'"),
    "DATE": ("DATE", "'2020-01-01'"),
    "DECIMAL": ("DECIMAL(18,3)", "1.5"),
    "FLOAT": ("DOUBLE", "1"),
    "INTEGER": ("INTEGER", "1"),
    "INTERVAL_DAY_TIME": ("INTERVAL", "'1 day'"),
    "INTERVAL_YEAR_MONTH": ("INTERVAL", "'1 month'"),
    "LONGVARBINARY": ("BLOB", "'1'"),
    "LONGVARCHAR": ("VARCHAR", "'1'"),
    "NUMERIC": ("DECIMAL(18,3)", "1.5"),
    "REAL": ("FLOAT", "1"),
    "SMALLINT": ("SMALLINT", "1"),
    "TIME": ("TIME", "'10:00:00'"),
    "TIMESTAMP": ("TIMESTAMP", "'2020-01-01'"),
    "TINYINT": ("TINYINT", "1"),
    "VARBINARY": ("BLOB", "'1'"),
    "VARCHAR": ("VARCHAR", "'1'"),
}


@check(517)
def casts_are_those_that_run(peer: Peer, _: Path) -> None:
    def cast(source: str, target: str) -> str:
        kind, value = SAMPLES[source]
        if kind == "VARCHAR":  # a text that the target can be made of
            value = SAMPLES[target][1].replace("1.5", "1")
        # a value of a column: constants are taken for more
        return f"(SELECT CAST(x AS {SAMPLES[target][0]}) FROM (SELECT CAST({value} AS {kind}) AS x))"

    assert len(SAMPLES) == len(e.SqlSupportsConvert)
    told = {source: set(targets) for source, targets in peer.info[517]}
    for source in SAMPLES:
        numbers = {target: int(e.SqlSupportsConvert[f"SQL_CONVERT_{target}"]) for target in SAMPLES}
        claimed = [target for target in SAMPLES if numbers[target] in told[numbers[source]]]
        assert peer.runs("SELECT " + ", ".join(cast(source, target) for target in claimed))
        others = {SAMPLES[target]: target for target in SAMPLES if target not in claimed}
        assert not [target for target in others.values() if peer.runs(f"SELECT {cast(source, target)}")]


gives(518, True, ("SELECT t.a FROM (SELECT 1 AS a) AS t", 1))
gives(519, False, ("WITH t AS (SELECT 1 AS a) SELECT t.a FROM t AS t", 1))
gives(520, True, ("SELECT a FROM (VALUES (1), (2)) t(a) ORDER BY -a LIMIT 1", 2))
gives(521, True, ("SELECT a FROM (VALUES (1, 2), (2, 1)) t(a, b) ORDER BY b LIMIT 1", 2))
bits(
    522,
    {
        e.SqlSupportedGroupBy.SQL_GROUP_BY_UNRELATED: ("SELECT sum(b) FROM (VALUES (1, 2)) t(a, b) GROUP BY a",),
        e.SqlSupportedGroupBy.SQL_GROUP_BY_BEYOND_SELECT: (
            "SELECT a, sum(c) FROM (VALUES (1, 2, 3)) t(a, b, c) GROUP BY a, b",
        ),
    },
)
gives(523, True, ("SELECT 'a%' LIKE 'a!%' ESCAPE '!' AND NOT 'ab' LIKE 'a!%' ESCAPE '!'", True))


@check(524)
def column_without_nulls_takes_none(peer: Peer, _: Path) -> None:
    assert peer.info[524] is True
    peer.table("CREATE TABLE t524 (a INT NOT NULL)")
    assert not peer.runs("INSERT INTO t524 VALUES (NULL)")
    assert peer.runs("INSERT INTO t524 VALUES (1)")


bits(
    525,
    {
        e.SupportedSqlGrammar.SQL_MINIMUM_GRAMMAR: (
            "CREATE TABLE t525 (a INT, b VARCHAR)",
            "INSERT INTO t525 (a, b) VALUES (1, 'x')",
            "UPDATE t525 SET b = 'y' WHERE a = 1",
            "SELECT a FROM t525 WHERE b = 'y' ORDER BY a",
            "DELETE FROM t525 WHERE a = 1",
        ),
        e.SupportedSqlGrammar.SQL_CORE_GRAMMAR: (
            "ALTER TABLE t525 ADD COLUMN c DOUBLE",
            "CREATE INDEX i525 ON t525 (a)",
            "DROP INDEX i525",
            "CREATE VIEW v525 AS SELECT a, max(b) AS m FROM t525 GROUP BY a HAVING a IN (SELECT 1)",
            "DROP VIEW v525",
            "GRANT SELECT ON t525 TO public",
        ),
        e.SupportedSqlGrammar.SQL_EXTENDED_GRAMMAR: (
            "SELECT * FROM (SELECT 1 AS a) LEFT JOIN (SELECT 1 AS a) USING (a)",
            "SELECT a FROM t525 FOR UPDATE",
        ),
    },
)
bits(
    526,
    {
        e.SupportedAnsi92SqlGrammarLevel.ANSI92_ENTRY_SQL: (
            "CREATE TABLE t526 (a INTEGER NOT NULL, b CHAR(3) DEFAULT 'x', c DECIMAL(5, 2), UNIQUE (a), CHECK (c > 0))",
            "INSERT INTO t526 (a, c) VALUES (1, 2.5)",
            "INSERT INTO t526 SELECT a + 1, b, c FROM t526",
            "UPDATE t526 SET b = NULL WHERE a BETWEEN 2 AND 3",
            "CREATE VIEW v526 (x) AS SELECT DISTINCT b FROM t526 WHERE b IS NOT NULL",
            "SELECT b, COUNT(*), SUM(c), AVG(c), MIN(c), MAX(a) FROM t526 GROUP BY b HAVING COUNT(*) > 0 ORDER BY 1",
            "SELECT a FROM t526 WHERE b LIKE 'x%' OR a IN (1, 2) AND NOT EXISTS (SELECT 1 FROM v526 WHERE x = b)",
            "SELECT a FROM t526 WHERE c >= ANY (SELECT c FROM t526) UNION ALL SELECT 1",
            "DELETE FROM t526 WHERE a = 1",
        ),
        e.SupportedAnsi92SqlGrammarLevel.ANSI92_INTERMEDIATE_SQL: (
            "SELECT CASE WHEN a = 1 THEN CAST(b AS CHAR) END FROM t526",
            "SELECT a FROM t526 EXCEPT SELECT 2",
            "CREATE DOMAIN d526 AS INTEGER",
        ),
        e.SupportedAnsi92SqlGrammarLevel.ANSI92_FULL_SQL: ("CREATE ASSERTION a526 CHECK (1 = 1)",),
    },
)


@check(527)
def integrity_is_kept(peer: Peer, _: Path) -> None:
    assert peer.info[527] is True
    peer.table("CREATE TABLE p527 (a INT PRIMARY KEY, b INT DEFAULT 4 CHECK (b > 0), c INT UNIQUE)")
    peer.table("CREATE TABLE f527 (x INT REFERENCES p527 (a))")
    peer.table("INSERT INTO p527 (a, c) VALUES (1, 1)")
    assert peer.value("SELECT b FROM p527") == 4
    for broken in ("p527 VALUES (1, 1, 2)", "p527 VALUES (2, -1, 2)", "p527 VALUES (2, 1, 1)", "f527 VALUES (2)"):
        assert not peer.runs(f"INSERT INTO {broken}"), broken
    assert peer.runs("INSERT INTO f527 VALUES (1)")
    assert not peer.runs("DELETE FROM p527")


@check(528)
def outer_joins_are_full(peer: Peer, _: Path) -> None:
    assert peer.info[528] == e.SqlOuterJoinsSupportLevel.SQL_FULL_OUTER_JOINS
    sides = "(VALUES (1), (2)) l(a) {} JOIN (VALUES (2), (3)) r(b) ON a = b"
    found = {kind: len(peer.rows(f"SELECT * FROM {sides.format(kind)}")) for kind in ("LEFT", "RIGHT", "FULL")}
    assert found == {"LEFT": 2, "RIGHT": 2, "FULL": 3}


@check(529, 531, 532)
def words_are_those_of_statements(peer: Peer, _: Path) -> None:
    schema, catalog = peer.info[529], peer.info[531]
    assert (schema, catalog, peer.info[532]) == ("schema", "catalog", True)
    assert peer.runs(f"CREATE {schema} s529", f"DROP {schema} s529")
    assert peer.value(f"SELECT current_{schema}()") == "workspace"
    assert peer.value(f"SELECT current_{catalog}()") == "tickflight"
    assert peer.runs("SELECT * FROM tickflight.market.trades")
    assert not peer.runs("SELECT * FROM trades.market.tickflight")


absent(530, "", "CREATE PROCEDURE p() AS SELECT 1", "CALL pragma_version()")
bits(
    533,
    {
        e.SqlSupportedElementActions.SQL_ELEMENT_IN_PROCEDURE_CALLS: ("CALL workspace.p()",),
        e.SqlSupportedElementActions.SQL_ELEMENT_IN_INDEX_DEFINITIONS: (
            "CREATE TABLE t533 (a INT)",
            "CREATE INDEX i533 ON workspace.t533 (a)",
        ),
        e.SqlSupportedElementActions.SQL_ELEMENT_IN_PRIVILEGE_DEFINITIONS: (
            "GRANT SELECT ON workspace.t533 TO public",
        ),
    },
)
bits(
    534,
    {
        e.SqlSupportedElementActions.SQL_ELEMENT_IN_PROCEDURE_CALLS: ("CALL tickflight.workspace.p()",),
        e.SqlSupportedElementActions.SQL_ELEMENT_IN_INDEX_DEFINITIONS: (
            "CREATE TABLE t534 (a INT)",
            "CREATE INDEX i534 ON tickflight.workspace.t534 (a)",
        ),
        e.SqlSupportedElementActions.SQL_ELEMENT_IN_PRIVILEGE_DEFINITIONS: (
            "GRANT SELECT ON tickflight.workspace.t534 TO public",
        ),
    },
)
bits(
    535,
    {
        e.SqlSupportedPositionedCommands.SQL_POSITIONED_DELETE: ("DELETE FROM t WHERE CURRENT OF c",),
        e.SqlSupportedPositionedCommands.SQL_POSITIONED_UPDATE: ("UPDATE t SET a = 1 WHERE CURRENT OF c",),
    },
)
absent(536, False, "SELECT 1 AS a FOR UPDATE", "SELECT symbol FROM trades FOR UPDATE")
absent(537, False, "CALL p()", "{call p()}", "CREATE PROCEDURE p() AS SELECT 1")
bits(
    538,
    {
        e.SqlSupportedSubqueries.SQL_SUBQUERIES_IN_COMPARISONS: ("SELECT 1 WHERE 1 = (SELECT 1)",),
        e.SqlSupportedSubqueries.SQL_SUBQUERIES_IN_EXISTS: ("SELECT 1 WHERE EXISTS (SELECT 1)",),
        e.SqlSupportedSubqueries.SQL_SUBQUERIES_IN_INS: ("SELECT 1 WHERE 1 IN (SELECT 1)",),
        e.SqlSupportedSubqueries.SQL_SUBQUERIES_IN_QUANTIFIEDS: ("SELECT 1 WHERE 1 <= ALL (SELECT 1)",),
    },
)
gives(539, True, ("SELECT a FROM (VALUES (1), (2)) t(a) WHERE EXISTS (SELECT 1 WHERE t.a = 2)", 2))
bits(
    540,
    {
        e.SqlSupportedUnions.SQL_UNION: ("SELECT 1 UNION SELECT 2",),
        e.SqlSupportedUnions.SQL_UNION_ALL: ("SELECT 1 UNION ALL SELECT 1",),
    },
)

# --- limits: 0 is none but that of the statement's length

LONG = "n" * 10_000
MANY = 500
columns = ", ".join(f"c{n} INT" for n in range(2_000))
listed = ", ".join(f"{n} AS c{n}" for n in range(2_000))
numbers = ", ".join(f"c{n}" for n in range(MANY))
unlimited(541, lambda: "SELECT '{}'::BLOB".format(r"\xAA" * 200_000))
unlimited(542, lambda: "SELECT '{}'".format("x" * 1_000_000))
unlimited(543, lambda: f"CREATE TABLE t543 ({LONG} INT)", lambda: f"SELECT {LONG} FROM t543")
unlimited(544, lambda: f"SELECT count(*) FROM (SELECT {listed}) GROUP BY {numbers}")
unlimited(545, lambda: f"CREATE TABLE t545 ({columns})", lambda: f"CREATE INDEX i545 ON t545 ({numbers})")
unlimited(546, lambda: f"SELECT c0 FROM (SELECT {listed}) ORDER BY {numbers}")
unlimited(547, lambda: f"SELECT {listed}")
unlimited(548, lambda: f"CREATE TABLE t548 ({columns})")
absent(550, 0, "DECLARE c CURSOR FOR SELECT 1")
unlimited(
    551,
    lambda: "CREATE TABLE t551 (a VARCHAR PRIMARY KEY)",
    lambda: "INSERT INTO t551 VALUES ('{}')".format("x" * 100_000),
    lambda: "SELECT * FROM t551",
)
unlimited(552, lambda: f"CREATE SCHEMA {LONG}", lambda: f"CREATE TABLE {LONG}.t (a INT)")
absent(553, 0, f"CREATE PROCEDURE {LONG}() AS SELECT 1")
absent(554, 0, f"ATTACH ':memory:' AS {LONG}", f"CREATE DATABASE {LONG}")
unlimited(559, lambda: f"CREATE TABLE {LONG} (a INT)", lambda: f"SELECT * FROM {LONG}")
unlimited(560, lambda: "SELECT 1 FROM {}".format(", ".join(f"(SELECT 1) t{n}" for n in range(200))))


@check(549)
def each_of_as_many_sessions_keeps_its_own(_: Peer, folder: Path) -> None:
    with other(FlightHere, folder, query={"sessions_max": 2}) as peer:
        assert peer.info[549] == 2
        peers = [Peer(peer.here, cookie=f"arrow_flight_session_id={name}") for name in "abc"]
        for one in peers[:2]:
            one.action("SetSessionOptions", a.SetSessionOptionsRequest({"timezone": "Asia/Tokyo"}))
        zones = [one.action("GetSessionOptions", a.GetSessionOptionsRequest()) for one in peers]
        # the third took the place of the first, which was unused for longest
        assert [z.session_options["timezone"] for z in zones] == ["Asia/Tokyo", "Asia/Tokyo", "UTC"]
        told = peers[0].action("GetSessionOptions", a.GetSessionOptionsRequest())
        assert told.session_options["timezone"] == "UTC"
        for one in peers:
            one.client.close()


@check(555, 556)
def row_may_be_large_with_its_blobs(peer: Peer, _: Path) -> None:
    assert (peer.info[555], peer.info[556]) == (0, True)
    size = 5_000_000
    peer.table("CREATE TABLE t555 (a VARCHAR, b BLOB)")
    peer.table(f"INSERT INTO t555 SELECT repeat('x', {size}), repeat('y', {size})::BLOB")
    ((text, blob),) = peer.rows("SELECT * FROM t555")
    assert len(text) == len(blob) == size


@check(557)
def statement_may_be_as_long_as_told(peer: Peer, _: Path) -> None:
    longest = peer.info[557]
    assert longest == QUERY["sql_bytes_max"]
    text = "SELECT '{}'"
    fits = longest - len(text.format(""))
    assert peer.runs(text.format("x" * fits))
    assert not peer.runs(text.format("x" * (fits + 1)))
    assert not peer.runs(text.format("é" * (fits // 2 + 1)))  # it is bytes that count


@check(558)
def as_many_statements_are_open_as_told(_: Peer, folder: Path) -> None:
    with other(FlightHere, folder, query={"handles_max": 3}) as peer:
        assert peer.info[558] == 3
        handles = [peer.prepare("SELECT 1").prepared_statement_handle for _ in range(4)]
        for handle in handles[1:]:
            peer.client.get_flight_info(described(c.CommandPreparedStatementQuery(handle)))
        with pytest.raises(KeyError):
            peer.client.get_flight_info(described(c.CommandPreparedStatementQuery(handles[0])))


@check(561)
def name_of_a_user_may_be_long(peer: Peer, folder: Path) -> None:
    name = "u" * peer.info[561]
    with pytest.raises(ValueError, match="1 to 200 characters"):
        FlightHere(folder / "longer", auth={"users": {f"{name}u": "secret"}})
    here = FlightHere(folder, auth={"users": {name: "secret"}})
    try:
        with adbc.connect(here.address, {"username": name, "password": "secret"}, autocommit=True) as connection:
            assert connection.adbc_get_info()["vendor_name"] == "tickflight"
    finally:
        here.stop()


# --- transactions


@check(562, 563, 564)
def transactions_read_what_is_committed_and_no_more(peer: Peer, _: Path) -> None:
    level = e.SqlTransactionIsolationLevel.SQL_TRANSACTION_READ_COMMITTED
    assert (peer.info[562], peer.info[563], peer.info[564]) == (level, True, 1 << level)
    peer.table("CREATE TABLE t562 (a INT)")
    reads, writes = peer.begin(), peer.begin()
    peer.run_in(writes, "INSERT INTO t562 VALUES (1)")
    count = "SELECT count(*) FROM t562"
    assert peer.run_in(writes, count) == [(1,)]
    assert peer.run_in(reads, count) == [(0,)]  # nothing that is not committed
    peer.end(writes, commit=True)
    assert peer.run_in(reads, count) == [(1,)]  # and no one state for all of it
    peer.end(reads, commit=True)
    undone = peer.begin()
    peer.run_in(undone, "DELETE FROM t562")
    peer.end(undone, commit=False)
    assert peer.value(count) == 1


@check(565, 566)
def definitions_are_part_of_their_transaction(peer: Peer, _: Path) -> None:
    assert (peer.info[565], peer.info[566]) == (False, False)
    peer.table("CREATE TABLE t565 (a INT)")
    for commit in (False, True):
        transaction = peer.begin()
        peer.run_in(transaction, "INSERT INTO t565 VALUES (1)")
        peer.run_in(transaction, "CREATE TABLE u565 (a INT)")
        peer.end(transaction, commit=commit)
        assert peer.value("SELECT count(*) FROM t565") == commit
        assert peer.runs("SELECT * FROM u565") == commit


# --- result sets


@check(567, 568, 569, 570, 571)
def results_are_read_forward_and_only_read(peer: Peer, _: Path) -> None:
    forward = e.SqlSupportedResultSetType.SQL_RESULT_SET_TYPE_FORWARD_ONLY
    read_only = 1 << e.SqlSupportedResultSetConcurrency.SQL_RESULT_SET_CONCURRENCY_READ_ONLY
    assert peer.info[567] == 1 << forward
    assert [peer.info[code] for code in (568, 569, 570, 571)] == [read_only, read_only, 0, 0]
    # the protocol has no call to go back or to write through a result: a stream ends, and its rows are copies
    peer.table("CREATE TABLE t567 AS SELECT range AS a FROM range(3)")
    info = peer.client.get_flight_info(described(c.CommandStatementQuery("SELECT a FROM t567 ORDER BY a")))
    stream = peer.client.do_get(info.endpoints[0].ticket)
    assert stream.read_all()["a"].to_pylist() == [0, 1, 2]
    with pytest.raises(StopIteration):
        stream.read_chunk()
    assert not peer.runs("UPDATE t567 SET a = 1 WHERE CURRENT OF c")


@check(572)
def many_rows_of_values_are_one_update(peer: Peer, _: Path) -> None:
    assert peer.info[572] is True
    with adbc.connect(peer.here.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t572 (a INT PRIMARY KEY)")
        cursor.executemany("INSERT INTO t572 VALUES (?)", [(1,), (2,), (3,)])
        assert cursor.rowcount == 3
        with pytest.raises(adbc.ProgrammingError, match="uplicate"):
            cursor.executemany("INSERT INTO t572 VALUES (?)", [(4,), (1,)])
    assert peer.value("SELECT count(*) FROM t572") == 3


absent(574, False, "CALL p(a => 1)", "{call p(a => 1)}")  # of callable statements; a query has $name


@check(575)
def large_values_are_sent_and_not_pointed_at(peer: Peer, _: Path) -> None:
    assert peer.info[575] is False
    assert pa.types.is_binary(peer.table("SELECT repeat('x', 100000)::BLOB AS b").schema.field("b").type)


absent(576, False, "{?= call abs(1)}", "{fn abs(1)}", "CALL abs(1)")


def test_every_code_has_a_check() -> None:
    assert sorted(CHECKS) == [info.code for info in SQL_INFO]


FIRST = [code for code in sorted(CHECKS) if code == min(other for other in CHECKS if CHECKS[other] is CHECKS[code])]


@pytest.mark.parametrize("code", FIRST)
def test_what_is_said_is_so(peer: Peer, tmp_path: Path, code: int) -> None:
    CHECKS[code](peer, tmp_path)
