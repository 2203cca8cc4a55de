"""SQL over the wire reaches nothing but tables: every way out is refused by a real server, which then goes on.

The engine behind it is locked besides: what the reading of a text would miss, the engine refuses by itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import pytest
from flight_here import trades
from system_processes import ServerProgram

import tickflight
from tickflight_server.config import LakehouseSettings, QuerySettings
from tickflight_server.query.engine import Engine
from tickflight_server.query.inventory import ALLOWED, CALLED, CALLED_FROM, classes
from tickflight_server.store import Store

SECRET = "planted-7f3a"
WAYS_OUT = (
    "FROM read_csv('{file}')",
    "FROM read_csv_auto('{file}')",
    "FROM read_text('{file}')",
    "FROM read_blob('{file}')",
    "FROM read_json('{file}')",
    "FROM read_parquet('{store}/trades/**')",
    "FROM parquet_metadata('{store}/trades/x.parquet')",
    "FROM read_duckdb('{store}/_tickflight/workspace.duckdb')",
    "FROM glob('{store}/*')",
    "FROM sniff_csv('{file}')",
    "FROM '{file}'",
    'FROM "{file}"',
    "FROM 'https://127.0.0.1:1/x.parquet'",
    "FROM 's3://bucket/x.parquet'",
    "DESCRIBE '{file}'",
    "SUMMARIZE '{file}'",
    "SHOW '{file}'",
    "WITH x AS (COPY (SELECT 1) TO '{folder}/out.csv') SELECT 1",
    "COPY (SELECT 1) TO '{folder}/out.csv'",
    "COPY trades FROM '{file}'",
    "EXPORT DATABASE '{folder}/out'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/out.db' AS out",
    "ATTACH '{store}/_tickflight/workspace.duckdb' AS again",
    "ATTACH ':memory:' AS out",
    "DETACH tickflight",
    "USE memory",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs FROM 'http://127.0.0.1:1'",
    "LOAD httpfs",
    "LOAD '{file}'",
    "UPDATE EXTENSIONS",
    "FROM duckdb_extensions()",
    "SET enable_external_access = true",
    "SET GLOBAL allowed_directories = ['/']",
    "SET lock_configuration = false",
    "SET memory_limit = '1TB'",
    "SET temp_directory = '{folder}'",
    "SET log_query_path = '{folder}/out.log'",
    "SET profiling_output = '{folder}/out.json'",
    "RESET memory_limit",
    "PRAGMA memory_limit = '1TB'",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL enable_logging(storage = 'file', storage_config = {{'path': '{folder}'}})",
    "FROM enable_logging()",
    "FROM duckdb_logs",
    "FROM truncate_duckdb_logs()",
    "SET VARIABLE x = 1",
    "RESET VARIABLE x",
    "SELECT getvariable('__market_trades')",
    "SHOW VARIABLES",
    "SHOW allowed_directories",
    "SELECT current_setting('temp_directory')",
    "FROM duckdb_settings()",
    "FROM pg_settings",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://x', 's3')",
    "CREATE SECRET s (TYPE http)",
    "CREATE PERSISTENT SECRET s (TYPE http)",
    "DROP SECRET s",
    "FROM duckdb_temporary_files()",
    "FROM duckdb_memory()",
    "FROM duckdb_prepared_statements()",
    "FROM duckdb_databases",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "CALL checkpoint()",
    "VACUUM",
    "SELECT getenv('HOME')",
    "FROM store",
    "FROM os",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "SELECT write_log('x')",
    "SELECT sleep_ms(60000)",
    "FROM query('SELECT 1')",
    "FROM query_table('trades')",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "CREATE TRIGGER x AFTER INSERT ON trades FOR EACH ROW SELECT 1",
    "SELECT variant_bytes_to_variant('x'::BLOB)",
)
# what asks for more than there is; each of them ends by memory, by time, or with its answer. Functions that make one
# huge value (repeat, lpad, range as a list) are left out: the engine does not count those against its limit
HEAVY = (
    "SELECT len(list(x)) FROM range(1000000000) t(x)",
    "SELECT length(string_agg(x, ',')) FROM range(1000000000) t(x)",
    "WITH RECURSIVE c AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    "SELECT len(generate_series(1, 10000000000))",
    "SELECT count(*) FROM range(10000000000000) WHERE range % 3 = 1",
    "SELECT count(DISTINCT md5(range::VARCHAR)) FROM range(1000000000)",
    "SELECT histogram(range) FROM range(1000000000)",
    "SELECT median(range) FROM range(1000000000)",
    "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range) = hash(b.range + 1)",
    "SELECT a.range FROM range(100000000) a ORDER BY random()",
)


HUGE = (
    *("repeat('x', 2000000000)", "repeat('x', 3000000000)", "lpad('x', 2000000000, 'a')", "rpad('x', 2000000000, 'a')"),
    *(
        "list_resize([1], 2000000000)",
        "array_resize([1], 2000000000, 2)",
        "range(2000000000)",
        "bitstring('1', 2000000000)",
    ),
    *("generate_series(1, 2000000000)", "printf('%2000000000d', 1)", "format('{:2000000000}', 1)"),
    # these the engine's own limit ends
    "WITH RECURSIVE r(s, n) AS (SELECT 'x', 0 UNION ALL SELECT s || s, n + 1 FROM r WHERE n < 31) SELECT max(s) FROM r",
    "SELECT string_agg(repeat('x', 1000000), '') FROM range(2000)",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProgram]:
    folder = tmp_path_factory.mktemp("locked down")
    config = folder / "config.yaml"
    config.write_text("query: {memory_mb: 256, statement_timeout_s: 2, concurrent_max: 4}")
    started = ServerProgram(folder, "--config", str(config))
    yield started
    started.stop()


@pytest.fixture
def ask(server: ServerProgram) -> Iterator[Callable[[str], str]]:
    """Run a statement over ADBC; return what came, or the error's text."""
    with flight_sql.connect(server.address, autocommit=True) as connection:

        def run(sql: str) -> str:
            with connection.cursor() as cursor:
                try:
                    cursor.execute(sql)
                    return f"rows: {cursor.fetch_arrow_table().to_pylist()}"
                except Exception as error:
                    return str(error)

        yield run


def test_no_way_out_of_the_tables_over_the_wire(
    ask: Callable[[str], str], server: ServerProgram, tmp_path: Path
) -> None:
    store = server.log.parent / "store"
    planted = tmp_path / "planted.csv"
    planted.write_text(f"a\n{SECRET}\n")
    before = {path.name for path in tmp_path.iterdir()}
    for way in WAYS_OUT:
        sql = way.format(file=planted, folder=tmp_path, store=store)
        answer = ask(sql)
        assert not answer.startswith("rows:"), sql
        # the engine's words quote the caller's own
        assert SECRET not in answer, sql
        assert str(tmp_path) not in answer or str(tmp_path) in sql, answer
        assert str(store) not in answer or str(store) in sql, answer
        assert "/root" not in answer, answer
        assert "/home" not in answer, answer
    assert {path.name for path in tmp_path.iterdir()} == before
    assert ask("SELECT 1 AS one") == "rows: [{'one': 1}]"


def test_every_refused_function_is_refused_over_the_wire(ask: Callable[[str], str]) -> None:
    allowed = classes().names((*CALLED, *CALLED_FROM), ALLOWED)
    for name in sorted(classes().names(CALLED) - allowed):
        assert "is not offered here" in ask(f'SELECT "{name}"(1)'), name
    for name in sorted(classes().names(CALLED_FROM) - classes().names(CALLED_FROM, ALLOWED)):
        assert "is not offered here" in ask(f'FROM "{name}"(1)'), name


def test_condition_of_a_tail_calls_nothing_that_is_refused(server: ServerProgram) -> None:
    with tickflight.connect(server.address) as client:
        for where in ("getvariable('x') IS NULL", "price = sleep_ms(1)", "EXISTS (FROM read_text('/etc/hostname'))"):
            with (
                pytest.raises((tickflight.PermissionDeniedError, tickflight.QueryError)),
                client.tail("trades", where=where) as rows,
            ):
                next(iter(rows))


def test_what_asks_for_everything_ends_and_rows_come_in_meanwhile(
    server: ServerProgram, full: bool, record_property: Callable[[str, object], None]
) -> None:
    waits: list[float] = []
    answers: list[str] = []
    pending = list(HEAVY if full else HEAVY[:4])

    def attack() -> None:
        with flight_sql.connect(server.address, autocommit=True) as connection:
            while pending:
                try:
                    sql = pending.pop()
                except IndexError:
                    return
                with connection.cursor() as cursor:
                    try:
                        cursor.execute(sql)
                        answers.append(f"rows: {str(cursor.fetchall())[:80]}")
                    except Exception as error:
                        answers.append(str(error))

    threads = [threading.Thread(target=attack) for _ in range(2)]
    with tickflight.connect(server.address) as client, client.writer("trades") as writer:
        for thread in threads:
            thread.start()
        number = 0
        while any(thread.is_alive() for thread in threads):
            begun = time.monotonic()
            assert writer.write(trades(100, first=number)).result(60).rows == 100
            waits.append(time.monotonic() - begun)
            number += 100
        for thread in threads:
            thread.join()
        assert server.process.poll() is None
        assert client.sql("SELECT count(*) AS n FROM trades").arrow().to_pylist() == [{"n": number}]
    assert len(answers) == (len(HEAVY) if full else 4)
    ends = ("resource exhausted (query.", "query.statement_timeout_s", "rows: ", "Error: ")
    assert [answer for answer in answers if not any(end in answer for end in ends)] == []
    waits.sort()
    record_property("longest wait of a batch, s", waits[-1])
    # a statement that is not interrupted at once must not keep rows out
    assert waits[len(waits) * 99 // 100] < 2.0


def test_huge_value_ends_at_once_and_a_small_query_goes_on(server: ServerProgram) -> None:
    """The engine's own limit does not count a single value: these took 4 GB, and were not interrupted."""
    statm = Path(f"/proc/{server.process.pid}/statm")
    pages: list[int] = []
    over = threading.Event()

    def small() -> None:
        with flight_sql.connect(server.address, autocommit=True) as connection, connection.cursor() as cursor:
            while not over.is_set():
                cursor.execute("SELECT 1")
                assert cursor.fetchall() == [(1,)]
                pages.append(int(statm.read_text().split()[1]))

    other = threading.Thread(target=small)
    other.start()
    try:
        with flight_sql.connect(server.address, autocommit=True) as connection:
            for call in HUGE:
                begun = time.monotonic()
                with connection.cursor() as cursor:
                    try:
                        cursor.execute(f"SELECT length(({call})::VARCHAR)")
                        answer = f"rows: {cursor.fetchall()}"
                    except Exception as error:
                        answer = str(error)
                ends = ("query.value_mb_max", "wide together", "query.memory_mb")
                assert any(end in answer for end in ends), (call, answer)
                assert time.monotonic() - begun < 2, call
    finally:
        over.set()
        other.join()
    assert len(pages) > len(HUGE)
    assert (max(pages) - pages[0]) * os.sysconf("SC_PAGE_SIZE") < 500 << 20


# --- the second wall


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_text('/etc/hostname')",
        "FROM read_csv('/etc/passwd')",
        "FROM read_blob('/proc/self/environ')",
        "FROM glob('/etc/*')",
        "FROM '{folder}/planted.csv'",
        "FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "FROM read_duckdb('/etc/passwd')",
        "FROM sniff_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY (SELECT 1) TO '/dev/stdout'",
        "EXPORT DATABASE '{folder}/out'",
        "IMPORT DATABASE '{folder}'",
        "ATTACH '{folder}/out.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{folder}/planted.csv'",
        "UPDATE EXTENSIONS",
        "CREATE PERSISTENT SECRET s (TYPE http)",
        "CALL enable_logging(storage = 'file', storage_config = {{'path': '{folder}'}})",
        "PRAGMA enable_profiling",
        *(f"SET GLOBAL {name} = NULL" for name in ("threads", "memory_limit", "temp_directory", "home_directory")),
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET allowed_configs = ['threads']",
        "SET lock_configuration = false",
        "SET autoload_known_extensions = true",
        "SET profiling_output = '{folder}/out.json'",
        "RESET memory_limit",
        "FROM folder",
    ],
)
def test_engine_refuses_by_itself_what_leads_out(locked: Any, tmp_path: Path, sql: str) -> None:
    folder = tmp_path  # what a replacement scan would find
    (folder / "planted.csv").write_text(f"a\n{SECRET}\n")
    with pytest.raises(Exception, match=r"Error|registered"):
        locked.execute(sql.format(folder=folder)).fetchall()
    assert [path.name for path in folder.iterdir()] == ["planted.csv"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A connection of an engine, past all that reads texts."""
    folder = tmp_path_factory.mktemp("locked")
    with Store(LakehouseSettings(storage_path=folder / "lake", wal_commit_interval_ms=0)) as store:
        store.append("trades", trades(10)).result()
        engine = Engine(store, QuerySettings())
        connection = engine.connections.connect()
        yield connection
        connection.close()
        engine.close()
