"""The doors beside the roads: what tells of tables, what writes, what acts, and what others hold.

The rule of this file: a door is a row of ``DOORS``; what one opens must be shut again, so that users meet in any order.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from pyarrow import flight
from rights_cases import CASES, MARKET_TABLES, SYSTEM_TABLES
from rights_market import TABLES
from rights_visitor import REFUSED, Visitor, hidden_columns, hidden_tables

from tickflight.errors import PermissionDeniedError, TickflightError, translate
from tickflight.wire import commands as c
from tickflight.wire.actions import (
    ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult,
    CancelFlightInfoRequest,
    FeedReport,
    Flush,
    Health,
    HealthResult,
    RenewPin,
    SetSessionOptionsRequest,
)
from tickflight.wire.append import AppendBatch, AppendResult
from tickflight.wire.enums import TableExistsOption, TableNotExistOption
from tickflight.wire.flight import FlightEndpoint, FlightInfo, FlightTicket
from tickflight.wire.tickets import Query, TicketStatementQuery
from tickflight_server.schemas import STORED

_DENIED = (PermissionDeniedError,)


def metadata(v: Visitor) -> None:
    """What Flight SQL's own commands list."""
    listed = v.get(c.CommandGetTables(include_schema=True)).to_pylist()
    found = {r["table_name"]: pa.ipc.read_schema(pa.py_buffer(r["table_schema"])).names for r in listed
             if r["db_schema_name"] in ("market", "system") and r["table_name"] in STORED}  # fmt: skip
    for table in STORED:
        there = v.case.columns(table)
        v.check(found.get(table, []) == there, f"GetTables has {table} with {found.get(table)}, wanted {there}")
    for table in v.some(STORED, 2):
        one = v.get(c.CommandGetTables(table_name_filter_pattern=table.replace("_", "\\_"))).num_rows
        v.check(one == (table in v.case.sees), f"GetTables of {table} alone has {one}")
    made = {r["table_name"] for r in listed if r["db_schema_name"] == "system"} - set(STORED)
    v.check(made <= v.case.system or v.case.all_rows, f"GetTables has {sorted(made - v.case.system)}")
    v.check(v.case.system <= made, f"GetTables lacks {sorted(v.case.system - made)}")
    commands = (
        c.CommandGetCatalogs(),
        c.CommandGetTableTypes(),
        c.CommandGetPrimaryKeys(table="trades"),
        c.CommandGetExportedKeys(table="trades"),
        c.CommandGetImportedKeys(table="trades"),
        c.CommandGetXdbcTypeInfo(),
        c.CommandGetSqlInfo(),
        c.CommandGetDbSchemas(),
    )
    for command in v.some(commands, 2):
        v.clean(str(v.get(command).to_pylist()), type(command).__name__)


_CATALOGS = (
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM information_schema.schemata",
    "FROM duckdb_tables()",
    "FROM duckdb_views()",
    "FROM duckdb_columns()",
    "FROM duckdb_constraints()",
    "FROM duckdb_schemas()",
    "FROM duckdb_databases()",
    "FROM pg_catalog.pg_class",
    "FROM pg_catalog.pg_attribute",
    "FROM pg_catalog.pg_namespace",
    "FROM pg_catalog.pg_tables",
    "FROM pg_catalog.pg_views",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "FROM sqlite_master",
    "FROM sql_auto_complete('SELECT * FROM ')",
    "FROM sql_auto_complete('SELECT pri')",
)
# what says by a table's or a column's name that it is one
_NAMES = ("table_name", "view_name", "relname", "tablename", "viewname", "name", "suggestion")
_ANYWHERE = {"type", "timestamp", "seq"}  # names of columns of the engine's own views, too
OURS = ("market", "system", "workspace")
_COLUMNS = ("column_name", "attname")


def catalogs(v: Visitor) -> None:
    """What the engine's own catalogs list, before and after the tables were used."""
    tables, columns = hidden_tables(v.case), hidden_columns(v.case)
    functions = {f for f in SYSTEM_TABLES if f not in v.case.system}
    for sql in v.some(_CATALOGS, 2):
        try:
            rows = v.table(sql).to_pylist()
        except TickflightError as error:
            v.clean(str(error), sql)
            v.proposes(str(error))
            continue
        # the engine's own views are called as some of the server's are
        ours = [r for r in rows if r.get("table_schema", r.get("schema_name", r.get("schemaname"))) in (None, *OURS)]
        names = {str(r.get(n, "")).strip() for r in ours for n in _NAMES} - {"tables"}
        v.check(not names & tables, f"{sql} lists {sorted(names & tables)}")
        v.check(not names & functions or v.case.all_rows, f"{sql} lists {sorted(names & functions)}")
        names = {str(r.get(n, "")) for r in ours for n in _COLUMNS} - _ANYWHERE
        v.check(not names & columns, f"{sql} lists columns {sorted(names & columns)}")
        v.clean(str(rows), sql)
        # views are told with the columns that they have
        texts = " ".join(str(r.get("sql") or r.get("view_definition") or r.get("definition") or "") for r in ours)
        told = {n for n in columns | tables if f'"{n}"' in texts}
        v.check(not told, f"{sql} tells {sorted(told)} in a definition")
    for table in v.some(v.case.sees, 1):
        # while a table is read, what it is made of is in the catalog, too
        sql = f"SELECT DISTINCT column_name FROM duckdb_columns(), (SELECT count(*) FROM {table}) WHERE NOT internal"
        told = set(v.table(sql)["column_name"].to_pylist()) & columns
        v.check(not told, f"{sql} tells {sorted(told)}")
    macros = v.table("SELECT function_name, macro_definition FROM duckdb_functions() WHERE schema_name = 'market'")
    read = {t for m in macros["macro_definition"].to_pylist() for t in MARKET_TABLES if f"market.{t} " in f"{m} "}
    v.check(read <= set(v.case.sees), f"duckdb_functions() has macros over {sorted(read - set(v.case.sees))}")
    for table in v.some(v.case.sees, 1):
        described = v.table(f"SHOW {table}")["column_name"].to_pylist()
        v.check(described == v.case.columns(table), f"SHOW {table} names {described}")


def system(v: Visitor) -> None:
    """The system's own tables: which there are, and what they count."""
    for table in v.some(sorted(SYSTEM_TABLES), 4):
        if table in v.case.system:
            shown = v.table(f"FROM system.{table}")
            if table == "queries":
                users = set(shown["user"].to_pylist())
                v.check(v.case.admin or users <= {v.case.name}, f"system.queries has statements of {users}")
            else:
                v.clean_table(shown, f"system.{table}")
        elif v.case.all_rows:
            # theirs is the engine of those who may: it is there, and refused
            v.fails(f"FROM system.{table}", _DENIED)
            v.fails(f"SELECT (SELECT count(*) FROM (SUMMARIZE system.{table}))", _DENIED)
        else:
            v.missing(f"FROM system.{table}", table)
            v.missing(f"SELECT count(*) FROM (SELECT 1 FROM system.{table})", table)
    if not v.case.sees or "tables" not in v.case.system:
        return
    for row in v.table("FROM system.tables").to_pylist():
        table, rows = row["table"], v.case.whole_rows(row["table"], v.market)
        v.check(table in v.case.sees, f"system.tables has {table}")
        # of a part that has older rows, too, none is counted
        counted = row["rows"] == len(rows) or (v.case.ages and row["rows"] < len(rows))
        v.check(counted, f"system.tables counts {row['rows']} in {table}, there are {len(rows)}")
        newest = max((r["seq"] for r in rows), default=0)
        v.check(
            v.case.all_rows or (row["last_seq"] or 0) <= newest, f"system.tables tells seq {row['last_seq']} of {table}"
        )
        v.check(
            (row["rows_on_disk"] or 0) + (row["rows_not_flushed"] or 0) <= max(len(rows), 0) or v.case.all_rows,
            f"system.tables counts {row}",
        )
    kept = {t: {(r["exchange"], r["symbol"]) for r in v.case.whole_rows(t, v.market)} for t in TABLES}
    for row in v.table("FROM system.parts").to_pylist():
        pair = (row["exchange"], row["symbol"])
        v.check(pair in kept[row["table"]], f"system.parts has a part of {row['table']} {pair}")
        seqs = [r["seq"] for r in v.case.whole_rows(row["table"], v.market) if (r["exchange"], r["symbol"]) == pair]
        v.check(
            row["min_seq"] is None or row["min_seq"] in seqs,
            f"system.parts tells seq {row['min_seq']} of {row['table']}",
        )
    for row in v.table("FROM system.segments").to_pylist():
        exchanges = {e for e, _ in kept[row["table"]]}
        v.check(set(row["exchanges"] or ()) <= exchanges, f"system.segments has {row['exchanges']} of {row['table']}")


def functions(v: Visitor) -> None:
    """The macros, each by its example: without an error they tell of no more than their tables do."""
    if "functions" not in v.case.system:
        return
    for row in v.some(v.table("FROM system.functions").to_pylist(), 5):
        example = row["example"].replace("'BINANCE'", "'ALPHA'").replace("BTC-USDT", "XBT-USDT").replace("HOUR", "DAY")
        if "tail(" in example:
            continue
        try:
            v.clean_table(v.table(example), example)
        except TickflightError as error:
            v.clean(str(error), example, example)
            v.proposes(str(error))
            v.check(not v.case.all_rows, f"{example}: {error}")
    if "trades" in v.case.sees and v.case.columns("trades") == v.market.columns("trades"):
        recent = [r for r in v.case.rows("trades", v.market) if (v.market.now - r["timestamp"]).days < 1]
        newest = {(r["exchange"], r["symbol"]): r for r in sorted(recent, key=lambda r: r["timestamp"])}
        v.same("FROM latest_trades()", list(newest.values()))
        bars = v.table("FROM ohlcv('XBT-USDT', INTERVAL 1 DAY)")
        wanted = [r for r in v.case.rows("trades", v.market) if r["symbol"] == "XBT-USDT"]
        v.check(sum(bars["trades"].to_pylist()) == len(wanted), "ohlcv counts others")


# --- what writes


def writes(v: Visitor) -> None:
    """Append streams and bulk ingest: only to the tables that may be written, and none of it is kept."""
    for table in v.some(STORED, 3):
        allowed = table in v.case.writes
        for way in (_append_stream, _ingest):
            if allowed:
                # a batch of nothing: it is answered, and the market stays as it is
                with noting(v, f"{way.__name__} to {table}"):
                    way(v, table)
            elif table in v.case.sees:
                v.fails(lambda w=way, t=table: w(v, t), _DENIED)
            else:
                v.missing(table, table, lambda name, w=way, s=STORED[table].schema: w(v, name, s))


@contextmanager
def noting(v: Visitor, what: str) -> Iterator[None]:
    """Count what is in the block as a check, and note what fails in it."""
    v.counts[v.road] += 1
    try:
        yield
    except TickflightError as error:
        v.note(f"{what}: {type(error).__name__}: {error}")


def _batch(table: str) -> pa.RecordBatch:
    schema = STORED[table].arrow_input("float64") if table in STORED else STORED["trades"].arrow_input("float64")
    return pa.RecordBatch.from_pylist([], schema=schema)


def _put(v: Visitor, command: Any, batch: pa.RecordBatch, data: bytes | None) -> bytes:
    descriptor = flight.FlightDescriptor.for_command(command.serialize())
    try:
        writer, reader = v.flight.do_put(descriptor, batch.schema, v.options())
        with suppress(pa.ArrowException, flight.FlightError):  # the reason comes by close
            if data is None:
                writer.write_batch(batch)
            else:
                writer.write_with_metadata(batch, data)
        writer.done_writing()
        answer = reader.read()
        writer.close()
    except (flight.FlightError, pa.ArrowException, OSError) as error:
        raise translate(error) from None
    return b"" if answer is None else answer.to_pybytes()


def _append_stream(v: Visitor, table: str, schema: str = "") -> None:
    """an append stream"""
    command = c.AppendStream(schema=schema or STORED[table].schema, table=table, producer=secrets.token_bytes(8))
    answer = AppendResult.parse(_put(v, command, _batch(table), AppendBatch(1).serialize()))
    if answer.error is not None:
        raise translate(pa.ArrowInvalid(answer.error.message))


def _ingest(v: Visitor, table: str, schema: str = "market") -> None:
    """a bulk ingest"""
    options = c.TableDefinitionOptions(
        TableNotExistOption.TABLE_NOT_EXIST_OPTION_FAIL, TableExistsOption.TABLE_EXISTS_OPTION_APPEND
    )
    _put(v, c.CommandStatementIngest(options, table=table, schema=schema), _batch(table), None)


def workspace(v: Visitor) -> None:
    """Tables, views and macros of one's own; without the right none, and not one's neighbours'."""
    name = f"w_{v.case.name}"
    statements = (
        f"CREATE OR REPLACE TABLE {name} AS SELECT 1 AS a",
        f"CREATE OR REPLACE VIEW v_{name} AS SELECT 1 AS a",
        f"CREATE OR REPLACE MACRO m_{name}() AS 1",
        f"CREATE TEMP TABLE t_{name} AS SELECT 1 AS a",
        f"CREATE SCHEMA IF NOT EXISTS s_{name}",
        f"INSERT INTO {name} VALUES (2)",
    )
    if not v.case.workspace:
        for sql in statements:
            v.fails(sql, REFUSED)
        for other in ("ada", "maker"):
            v.check(
                f"w_{other}" not in str(v.table("SHOW ALL TABLES").to_pylist()) or v.case.all_rows, f"sees w_{other}"
            )
        return
    for sql in statements:
        with noting(v, sql):
            v.table(sql)
    v.same(f"FROM workspace.{name}", [{"a": 1}, {"a": 2}])
    for table in v.some(v.case.sees, 1):
        rows = v.case.rows(table, v.market)
        copies = (
            f"CREATE OR REPLACE TABLE c_{name} AS FROM {table}",
            f"CREATE OR REPLACE VIEW c2_{name} AS FROM {table}",
            f"CREATE OR REPLACE MACRO c3_{name}() AS TABLE FROM {STORED[table].schema}.{table}",
        )
        for sql in copies:
            with noting(v, sql):
                v.table(sql)
        for source in (f"c_{name}", f"c2_{name}", f"c3_{name}()"):
            v.same(f"FROM {source}", rows)
    for table in v.some((t for t in STORED if t not in v.case.sees), 1):
        v.missing(f"CREATE OR REPLACE TABLE x_{name} AS FROM {table}", table)
        v.missing(f"CREATE OR REPLACE VIEW x_{name} AS FROM {table}", table)
        with suppress(TickflightError):  # a macro is bound when it is called
            v.table(f"CREATE OR REPLACE MACRO x_{name}() AS TABLE FROM market.{table}")
            v.fails(f"FROM x_{name}()")
    for case in CASES.values():
        if case.workspace and case.name != v.case.name and not (case.all_rows and v.case.all_rows):
            v.missing(f"FROM workspace.w_{case.name}", f"w_{case.name}")


# --- what acts, and what others hold


def actions(v: Visitor) -> None:
    """Actions on the server as a whole are an admin's, a feed's report one's who writes."""

    def flush() -> object:
        """a flush"""
        return v.action("tickflight.Flush", Flush())

    def report() -> object:
        """a feed's report"""
        return v.action("tickflight.FeedReport", FeedReport(f"feed-{v.case.name}", b'{"received": 1}'))

    if not v.case.admin:
        v.fails(flush, _DENIED)
    if v.case.writes:
        with noting(v, "a feed's report"):
            report()
    else:
        v.fails(report, _DENIED)
    health = v.action("tickflight.health", Health())
    assert isinstance(health, HealthResult)
    v.clean(str(health), "health")
    v.check(health.state in ("ok", "degraded", "failed"), f"health is {health.state!r}")


class Treasure:
    """What somebody who sees everything holds: handles, tickets, a pin, a tail's token."""

    def __init__(self, v: Visitor) -> None:
        self.v = v
        prepared = v.action("CreatePreparedStatement", ActionCreatePreparedStatementRequest("FROM trades"))
        assert isinstance(prepared, ActionCreatePreparedStatementResult)
        self.handle = prepared.prepared_statement_handle
        info, _ = v.by_endpoints(c.CommandStatementQuery("SELECT * FROM market.order_info"))
        self.tickets = [e.ticket.ticket for e in info.endpoints]
        self.query_id = secrets.token_bytes(16)
        self.pin = v.client.snapshot(600)


def guesses(v: Visitor, treasure: Treasure) -> None:
    """Others' handles, tickets and pins, even where they are known: they are as good as none."""
    if v.case is treasure.v.case:
        return
    prepared = c.CommandPreparedStatementQuery(treasure.handle)
    v.fails(lambda: v.by_endpoints(prepared))
    v.fails(lambda: v.redeem(prepared.serialize()))
    for ticket in treasure.tickets[:3]:
        v.fails(lambda t=ticket: v.redeem(t))
        stopped = v.action(
            "CancelFlightInfo", CancelFlightInfoRequest(FlightInfo(endpoint=(FlightEndpoint(FlightTicket(ticket)),)))
        )
        v.check("CANCELLED" not in str(stopped).replace("NOT_CANCELL", ""), f"cancels another's ticket: {stopped}")
    v.fails(lambda: v.redeem(TicketStatementQuery(secrets.token_bytes(16)).serialize()))
    # the id of a pin is the key to it; under it everybody sees what is theirs
    for table in v.some(v.case.sees, 2):
        with suppress(TickflightError):
            got = v.table(f"FROM {STORED[table].schema}.{table}", snapshot=treasure.pin.id)
            v.rows(f"{table} under another's snapshot", got, v.case.rows(table, v.market))
    with suppress(TickflightError):
        renewed = v.action("tickflight.renew_pin", RenewPin(treasure.pin.id, 600))
        v.check(not (set(renewed.cuts) - set(v.case.sees)), f"another's snapshot tells of {set(renewed.cuts)}")
    with suppress(TickflightError):
        v.action("SetSessionOptions", SetSessionOptionsRequest({"snapshot": treasure.pin.id}))
        v.action("SetSessionOptions", SetSessionOptionsRequest({"snapshot": ""}))
    # one may name one's own query as another did: what is run is one's own
    if "trades" not in v.case.sees:
        v.missing("FROM market.trades", "trades", lambda sql: v.redeem(Query(sql, b"", treasure.query_id).serialize()))


DOORS: Mapping[str, Callable[[Visitor], None]] = {
    "metadata": metadata,
    "catalogs": catalogs,
    "system": system,
    "functions": functions,
    "writing": writes,
    "workspace": workspace,
    "actions": actions,
}
