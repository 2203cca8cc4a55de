"""Everything that the installed engine offers to SQL has a verdict, and what is refused is refused in every place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from sql_here import SqlHere
from ways_to_call import AFTER_FROM, IN_EXPRESSIONS, texts

from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.errors import InputError, PermissionDeniedError, StatementError, UnsupportedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.inventory import (
    ALLOWED,
    CALLED,
    CALLED_FROM,
    FILE,
    UNCLASSIFIED,
    VERDICTS,
    Classes,
    classes,
    installed,
    main,
    parse,
    renewed,
    serialize,
)
from tickflight_server.query.writing import _KINDS, Writing
from tickflight_server.store import Store

FUNCTIONS = classes().names((*CALLED, *CALLED_FROM), ALLOWED)
REFUSED = sorted(classes().names(CALLED) - FUNCTIONS)
REFUSED_FROM = sorted(classes().names(CALLED_FROM) - classes().names(CALLED_FROM, ALLOWED))
# one or two of each reason
SOME = ("getvariable", "current_setting", "sleep_ms", "pg_sleep", "txid_current", "stats", "combine_aggr")
SOME_FROM = ("read_csv", "glob", "query_table", "duckdb_settings", "enable_logging", "duckdb_memory", "arrow_scan")
STATEMENTS = {
    "SELECT": "SELECT 1",
    "EXPLAIN": "EXPLAIN SELECT 1",
    "INSERT": "INSERT INTO t VALUES (1)",
    "UPDATE": "UPDATE t SET a = 1",
    "DELETE": "DELETE FROM t",
    "MERGE_INTO": "MERGE INTO t USING u ON (t.a = u.a) WHEN MATCHED THEN DELETE",
    "CREATE": "CREATE TABLE t (a INT)",
    "DROP": "DROP TABLE t",
    "ALTER": "ALTER TABLE t RENAME TO u",
    "SET": "SET schema = 'workspace'",
    "TRANSACTION": "BEGIN",
    "COPY": "COPY trades TO 'x.csv'",
    "EXPORT": "EXPORT DATABASE 'x'",
    "ATTACH": "ATTACH 'x.db'",
    "DETACH": "DETACH tickflight",
    "LOAD": "LOAD httpfs",
    "PRAGMA": "PRAGMA database_list",
    "CALL": "CALL pragma_version()",
    "PREPARE": "PREPARE p AS SELECT 1",
    "EXECUTE": "EXECUTE p",
    "VACUUM": "VACUUM",
    "MULTI": "PIVOT trades ON side USING count(*)",
}
# kinds that no text is of, or that come as one of the others
NOT_WRITTEN = {
    "INVALID",
    "ANALYZE",
    "VARIABLE_SET",
    "CREATE_FUNC",
    "RELATION",
    "EXTENSION",
    "LOGICAL_PLAN",
    "COPY_DATABASE",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlHere]:
    folder = tmp_path_factory.mktemp("lake")
    with Store(LakehouseSettings(storage_path=folder, wal_commit_interval_ms=0)) as store:
        engine = Engine(store, QuerySettings())
        yield SqlHere(engine)
        engine.close()


def refused(here: SqlHere, sql: str) -> bool:
    """Return whether ``sql`` is refused when it is read, or taken as a setting, before the engine binds any of it."""
    try:
        read = here.engine.read(sql)
        if isinstance(read, Writing) and read.kind == "setting":
            here.write(sql)
    except (PermissionDeniedError, UnsupportedError):
        return True
    except StatementError as error:
        return "syntax error" in error.message and sql.startswith(("PRAGMA", "CALL"))  # the name is a keyword
    except InputError:
        return sql.startswith("SET")  # a value that is nobody's
    return False


# --- the list


def test_everything_that_is_installed_is_classified() -> None:
    known = classes().verdicts
    assert installed() - known.keys() == set(), "new: make inventory, then give each a verdict"
    assert known.keys() - installed() == set(), "gone: make inventory"
    assert {verdict for verdict in known.values() if verdict not in VERDICTS} == set()


def test_list_is_as_its_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again.txt"
    again.write_text(FILE.read_text())
    main(again)
    assert again.read_text() == FILE.read_text()
    assert capsys.readouterr().out == ""


def test_what_is_new_is_to_be_classified_and_what_is_gone_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = dict(classes().verdicts)
    del known["scalar", "abs"]
    known["scalar", "not_there"] = "pure"
    file = tmp_path / "list.txt"
    file.write_text(serialize(Classes(known)))
    main(file)
    assert capsys.readouterr().out == "unclassified: scalar abs\ngone: scalar not_there\n"
    assert parse(file.read_text()).verdicts["scalar", "abs"] == UNCLASSIFIED


def test_what_is_unclassified_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with duckdb.connect() as database:  # what a later engine may bring
        assert database.execute("SELECT abs(-1)").fetchone() == (1,)
    known = Classes({k: v for k, v in classes().verdicts.items() if k != ("scalar", "abs")})
    assert renewed(known).verdicts["scalar", "abs"] not in ALLOWED
    assert renewed(known).reason("abs", CALLED) == "is not known to be harmless"


# --- functions


def test_refused_function_is_refused_wherever_it_stands(here: SqlHere, full: bool) -> None:
    passed = [
        sql for name in (REFUSED if full else SOME) for sql in texts(name, IN_EXPRESSIONS) if not refused(here, sql)
    ]
    assert passed == []


def test_refused_table_function_is_refused_wherever_it_stands(here: SqlHere, full: bool) -> None:
    names = REFUSED_FROM if full else SOME_FROM
    passed = [sql for name in names for sql in texts(name, AFTER_FROM) if not refused(here, sql)]
    assert passed == []


def test_every_refused_function_is_refused_with_its_reason(here: SqlHere) -> None:
    for name in REFUSED:
        with pytest.raises(PermissionDeniedError, match=r"is not offered here\. Hint: It ") as caught:
            here.engine.read(f'SELECT "{name}"(1)')
        assert caught.value.hint == f"It {classes().reason(name, CALLED)}."
    for name in REFUSED_FROM:
        for sql in (f"FROM {name}(1)", f"CREATE VIEW v AS FROM system.main.{name}(1)"):
            with pytest.raises(PermissionDeniedError, match=rf"{name}\(\) is not offered here\. Hint: It "):
                here.engine.read(sql)


def test_every_allowed_function_passes(here: SqlHere) -> None:
    for name in sorted(classes().names(CALLED, ALLOWED)):
        here.engine.read(f'SELECT "{name}"(1)')
    for name in sorted(classes().names(CALLED_FROM, ALLOWED)):
        here.engine.read(f'FROM "{name}"(1)')


def test_table_may_have_a_refused_functions_name(here: SqlHere) -> None:
    for sql in (
        "CREATE TABLE summary (a INT PRIMARY KEY)",
        "CREATE TABLE IF NOT EXISTS workspace.query (a INT REFERENCES summary (a))",
        "CREATE INDEX found ON query (a)",
        "INSERT INTO summary (a) SELECT 1",
        "INSERT INTO query (a) VALUES (1)",
        "CREATE VIEW stats (b) AS SELECT a FROM query",
        "MERGE INTO query USING summary ON (query.a = summary.a) WHEN NOT MATCHED THEN INSERT (a) VALUES (1)",
    ):
        here.write(sql)
    assert here.rows("FROM stats") == [(1,)]


# --- views, settings, statements


def test_refused_view_of_the_engine_is_refused(here: SqlHere) -> None:
    names = classes().names(["view"]) - classes().names(["view"], ALLOWED)
    assert names
    for name in names:
        for sql in (f"FROM {name}", f"DESCRIBE {name}", f"SHOW {name}", f"CREATE VIEW v AS FROM system.main.{name}"):
            assert refused(here, sql), sql


def test_allowed_view_of_the_engine_has_no_path_of_the_machine(here: SqlHere) -> None:
    root = str(here.engine.store.root)
    for name in classes().names(["view"], ALLOWED) - {"columns", "tables", "views", "schemata"}:
        if name.startswith(("pg_", "duckdb_", "sqlite_")):
            assert root not in str(here.rows(f"FROM {name}")), name
    assert root not in str(here.rows("FROM duckdb_databases()"))


def test_settings_are_neither_told_nor_changed(here: SqlHere) -> None:
    own = classes().names(["setting"], ALLOWED)
    for name in sorted(classes().names(["setting"])):
        if name not in own:
            for sql in (
                f"SET {name} = 1",
                f"SET GLOBAL {name} = 'x'",
                f"SET SESSION {name} = DEFAULT",
                f"RESET {name}",
            ):
                with pytest.raises((PermissionDeniedError, UnsupportedError)):
                    here.write(sql)
            assert refused(here, f"SHOW {name}"), name
            assert refused(here, f'SUMMARIZE (FROM (SHOW "{name.upper()}"))'), name
        for sql in (f"PRAGMA {name} = 1", f"PRAGMA {name}", f"SELECT current_setting('{name}')"):
            assert refused(here, sql), sql


def test_statements_are_of_the_kinds_that_the_list_lets_pass(here: SqlHere) -> None:
    assert STATEMENTS.keys() | NOT_WRITTEN == classes().names(["statement"])
    assert classes().names(["statement"], ALLOWED) == {*_KINDS, "SELECT", "EXPLAIN"}
    for kind, sql in STATEMENTS.items():
        assert [s.type.name for s in duckdb.extract_statements(sql)] in ([kind], ["SELECT"]) or kind == "MULTI", sql
        assert refused(here, sql) is (kind not in classes().names(["statement"], ALLOWED)), sql


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW VARIABLES",
        "FROM (SHOW VARIABLES)",
        "FROM trades, (SHOW VARIABLES)",
        "SHOW allowed_directories",
        "FROM temp.main.__market_trades_ring",
        "SELECT * FROM trades, __market_trades",
        "DESCRIBE __market_trades",
        "MERGE INTO t USING temp.main.__market_trades_ring r ON (t.a = r.seq) WHEN MATCHED THEN DELETE",
        "FROM system.main.duckdb_databases()",
        "FROM duckdb_databases",
        "SELECT sum(price) EXPORT_STATE FROM trades",
        "UPDATE EXTENSIONS",
        "DEALLOCATE p",
        "CREATE SECRET s (TYPE http)",
        "CREATE PERSISTENT SECRET s (TYPE http)",
        "CHECKPOINT",
        "FORCE CHECKPOINT",
        "ANALYZE",
        "IMPORT DATABASE 'x'",
        "COPY FROM DATABASE tickflight TO x",
        "INSTALL httpfs",
        "FORCE INSTALL httpfs FROM 'http://127.0.0.1/x'",
    ],
)
def test_other_ways_out_are_refused(here: SqlHere, sql: str) -> None:
    assert refused(here, sql)


def test_view_that_was_made_when_more_was_offered_is_refused(
    tmp_path: Path, store: Store, make_trades: Callable[..., Any]
) -> None:
    file = tmp_path / "workspace.duckdb"
    with duckdb.connect() as database:
        database.execute(f"ATTACH '{file}' AS made")
        database.execute("CREATE SCHEMA made.workspace; USE made.workspace")
        database.execute("CREATE VIEW old AS SELECT current_setting('threads') AS x")
        database.execute("CREATE MACRO machine() AS current_setting('memory_limit')")
        database.execute("CREATE MACRO files() AS TABLE FROM duckdb_settings()")
        database.execute("CREATE VIEW young AS SELECT 1 AS x")
    engine = Engine(store, QuerySettings(), workspace=file)
    here = SqlHere(engine)
    try:
        assert here.rows("FROM young") == [(1,)]
        for sql in ("FROM old", "SELECT machine()", "FROM files()", "DESCRIBE old"):
            with pytest.raises(PermissionDeniedError, match="calls what is not offered here any more"):
                here.rows(sql)
        here.write("CREATE OR REPLACE VIEW old AS SELECT 2 AS x")
        assert here.rows("FROM old") == [(2,)]
    finally:
        engine.close()
