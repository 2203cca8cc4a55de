"""The engine's database and the few calls on its connections.

The rule of this file: of market data the database holds views and no rows. A view reads a temporary table of the
connection, which each query gives its own contents; what users make is in the database's file. Nothing outside the
data folder can be reached.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import structlog

from tickflight_server.config import QuerySettings
from tickflight_server.files import close_to_others
from tickflight_server.paths import Layout
from tickflight_server.priority import in_the_back
from tickflight_server.query import caps
from tickflight_server.query.allocator import give_back_from_now_on
from tickflight_server.query.binding import stream
from tickflight_server.query.macros import MARKET_MACROS
from tickflight_server.query.statement import Parameters, view_name
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.query.system import system_tables
from tickflight_server.query.trees import CATALOG
from tickflight_server.query.values import engine_value
from tickflight_server.store import SeenStore

LOG = structlog.get_logger(__name__)
MACROS = {
    "now": "TIMESTAMP",
    "get_current_timestamp": "TIMESTAMP",
    "transaction_timestamp": "TIMESTAMP",
    "current_localtimestamp": "TIMESTAMP",
    "today": "TIMESTAMP::DATE",
    "current_date": "TIMESTAMP::DATE",
    "get_current_time": "TIMESTAMP::TIME",
    "current_localtime": "TIMESTAMP::TIME",
}
# what the engine tells of the machine is told without; calls of the engine's own are refused (allowed.py)
TABLE_MACROS = {"duckdb_databases": "SELECT * REPLACE (NULL::VARCHAR AS path) FROM system.main.duckdb_databases()"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


def make_database(
    store: SeenStore, settings: QuerySettings, prefix: str, file: Path | None = None, spill: str = ""
) -> duckdb.DuckDBPyConnection:
    """Return a database with the views, and the users' tables of ``file``, locked against everything but the data.

    It spills into a folder of its own, ``spill`` below that of all of them, which one without a name empties.

    A file that cannot be read is set aside, and told: market data is served all the same.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "asof_loop_join_threshold": "0",
        "memory_limit": f"{settings.memory_mb}MiB",
        # nothing is fetched, loaded or kept for a statement's sake
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
    }
    if settings.threads:
        config["threads"] = str(settings.threads)
    database = in_the_back(lambda: duckdb.connect(":memory:", config=config))
    run = database.execute
    made = file is None or not file.exists()
    _attach(run, file, store)
    run(f"USE {CATALOG}")
    run("DETACH memory")
    run("SET GLOBAL TimeZone = 'UTC'")
    run("SET GLOBAL python_enable_replacements = false")
    views = _make_views(database, store, settings)
    if not made:
        _drop_left(run, views)
    run("COMMIT")
    # a list setting takes no parameter
    layout = Layout(Path(prefix))
    # below the data folder as the queries name them
    readable = (str(f.relative_to(store.root)) if f.is_relative_to(store.root) else f for f in store.read_folders)
    places = (f"{prefix}{f}" if isinstance(f, str) else str(f) for f in readable)
    folders = ", ".join("'{}/'".format(place.replace("'", "''")) for place in places)
    run(f"SET GLOBAL allowed_directories = [{folders}]")
    _allow_spilling(run, layout.spill / spill, settings.spill_mb)
    run("SET GLOBAL enable_external_access = false")
    # what the server itself sets for a session
    run("SET GLOBAL allowed_configs = ['search_path', 'schema', 'TimeZone']")
    run("SET GLOBAL lock_configuration = true")
    give_back_from_now_on()
    return database


def _attach(run: Callable[[str], object], file: Path | None, store: SeenStore) -> None:
    """Attach the users' database; set one aside that cannot be read."""
    if file is None:
        run(f"ATTACH ':memory:' AS {CATALOG}")
        return
    attach = "ATTACH '{}' AS {}".format(str(file).replace("'", "''"), CATALOG)
    try:
        run(attach)
        close_to_others(file)  # the engine makes it as the umask says
        store.health.ok("workspace")
        return
    except duckdb.Error as error:
        aside = file.with_name(f"{file.name}.damaged-{time.time_ns() // 1_000_000}")
        text = str(error).splitlines()[0].replace(f"{store.root}/", "")
    for path in (file, file.with_name(f"{file.name}.wal")):
        if path.exists():
            path.rename(aside.with_name(aside.name + path.name.removeprefix(file.name)))
    run(attach)
    close_to_others(file)
    LOG.error("workspace.set_aside", error=text, kept_as=aside.name)
    store.health.report(
        "workspace",
        "degraded",
        f"the users' tables could not be read and were set aside: {text}",
        f"Schema workspace is empty; what was in it is in _tickflight/{aside.name}.",
    )


def _make_views(database: duckdb.DuckDBPyConnection, store: SeenStore, settings: QuerySettings) -> set[tuple[str, str]]:
    """Make the server's own schemas anew, in a transaction that is still open; return the views' names."""
    run = database.execute
    run("BEGIN TRANSACTION")
    for schema in ("market", "system", "workspace"):
        run(f'CREATE SCHEMA IF NOT EXISTS {CATALOG}."{schema}"')
    for name, kind in MACROS.items():
        run(f"CREATE OR REPLACE MACRO {CATALOG}.market.{name}() AS getvariable('__now')::{kind}")
    for create in caps.macros(settings):
        run(create)
    for name, query in TABLE_MACROS.items():
        run(f"CREATE OR REPLACE MACRO {CATALOG}.market.{name}() AS TABLE {query}")
    tables = [(t.schema, t.name, t.arrow(store.numeric)) for t in store.schemas.values()]
    tables += [("system", name, SYSTEM_TABLES[name][0]) for name in system_tables(store.sight)]
    for schema, name, arrow in tables:
        database.register(view_name(schema, name), arrow.empty_table())
        # named in full, or a macro's parameter of the same name is in the way
        columns = ", ".join(f'v."{n}"' for n in arrow.names)
        view = f'{CATALOG}."{schema}"."{name}"'
        run(f"CREATE OR REPLACE VIEW {view} AS SELECT {columns} FROM temp.main.{view_name(schema, name)} AS v")
    # they are bound when they are called, by the views' names
    for macro in MARKET_MACROS.values():
        if store.schemas.keys() >= set(macro.reads):
            run(macro.create)
    return {(schema, name) for schema, name, _ in tables}


def _drop_left(run: Callable[[str], Any], views: Set[tuple[str, str]]) -> None:
    """Drop what an older version of the server made in its schemas and this one does not."""
    known_macros = MACROS.keys() | caps.CAPPED.keys() | TABLE_MACROS.keys() | MARKET_MACROS.keys()
    left = run(
        f"""SELECT schema_name, view_name FROM duckdb_views()
        WHERE database_name = '{CATALOG}' AND schema_name IN ('market', 'system')"""
    )
    for schema, name in left.fetchall():
        if (schema, name) not in views:
            run(f'DROP VIEW {CATALOG}."{schema}"."{name}"')
    macros = run(
        f"""SELECT DISTINCT function_name, function_type FROM duckdb_functions()
        WHERE database_name = '{CATALOG}' AND schema_name = 'market'"""
    )
    for name, kind in macros.fetchall():
        if name not in known_macros:
            table = " TABLE" if kind == "table_macro" else ""
            run(f'DROP MACRO{table} {CATALOG}.market."{name}"')


def _allow_spilling(run: Callable[[str], object], place: Path, spill_mb: int) -> None:
    """Let queries put up to ``spill_mb`` aside in ``place``, or nothing; what was left there goes."""
    shutil.rmtree(place, ignore_errors=True)
    folder = str(place).replace("'", "''") if spill_mb else ""
    run(f"SET GLOBAL temp_directory = '{folder}'")
    if spill_mb:
        place.parent.mkdir(0o700, exist_ok=True)
        run(f"SET GLOBAL max_temp_directory_size = '{spill_mb}MiB'")


def set_now(connection: duckdb.DuckDBPyConnection, now_us: int) -> None:
    """Let ``now()`` say ``now_us``, microseconds since 1970 UTC, on this connection."""
    connection.execute("SET VARIABLE __now = ?", [_EPOCH + timedelta(microseconds=now_us)])


def run(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Parameters, batch_rows: int
) -> pa.RecordBatchReader:
    """Run ``sql``; return a reader that streams its result. The connection is busy until the reader is closed."""
    return stream(connection, sql, engine_parameters(parameters), batch_rows)


def relation(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Parameters) -> Any:
    """Return ``sql`` bound as a relation, which streams its result without copying it once more."""
    return connection.sql(sql, params=engine_parameters(parameters))


def engine_parameters(parameters: Parameters) -> Any:
    """Return the values as the engine takes them, None for none."""
    if not parameters:
        return None
    # the engine knows ? and $1 by the names "1", "2", …
    if isinstance(parameters, Mapping):
        return {name: engine_value(value) for name, value in parameters.items()}
    return [engine_value(value) for value in parameters]


def find_place(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Parameters, error: Exception) -> Exception:
    """Return ``error`` with the engine's marker under the place: a relation leaves it out, ``execute`` has it."""
    if not isinstance(error, duckdb.Error) or "\nLINE " in str(error):
        return error
    try:
        # only on a probing connection, whose tables are empty; it fails while it binds
        connection.execute(sql, engine_parameters(parameters))
        connection.abort()
    except duckdb.Error as placed:
        return placed if type(placed) is type(error) else error
    return error
