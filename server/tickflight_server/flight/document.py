"""What each message of Flight SQL does here: the table that ``proto-notes/flight-sql.md`` is written from.

The rule of this file: one row for each command, ticket and action that is served, and one for each that is refused; a
test holds the rows against the server's tables, and the page against the rows. ``python -m
tickflight_server.flight.document PAGE`` writes the page's part anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Call = Literal["GetFlightInfo, GetSchema", "DoGet", "DoPut", "DoAction"]
CALLS: Final[tuple[Call, ...]] = ("GetFlightInfo, GetSchema", "DoGet", "DoPut", "DoAction")


@dataclass(frozen=True)
class Served:
    """A message that is answered: by which functions, for which calls of clients, and what of it is refused and why."""

    call: Call
    message: str
    done_by: tuple[str, ...]
    clients: str
    refused: str = ""


@dataclass(frozen=True)
class Refused:
    """A message or call that is refused with UNIMPLEMENTED."""

    message: str
    why: str


_CATALOG = ("result_schemas.result_schema",)
_MARKET = "market tables take rows in mode append alone (PERMISSION_DENIED), in no transaction (UNIMPLEMENTED)"

SERVED: Final = (
    Served(
        "GetFlightInfo, GetSchema",
        "CommandStatementQuery",
        ("QueryService.info", "QueryService.schema"),
        "ADBC ExecuteQuery, ExecutePartitions, ExecuteSchema; pyarrow, npm clients and flightsql-dbapi for everything",
        "GetSchema runs nothing; what is not for users is PERMISSION_DENIED with what to do instead",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandPreparedStatementQuery",
        ("QueryService.prepared_info", "QueryService.prepared_schema"),
        "DB-API execute, JDBC executeQuery, ODBC SQLExecute (also of what writes)",
        "without bound rows where there are parameters (INVALID_ARGUMENT)",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetCatalogs",
        _CATALOG,
        "ADBC GetObjects, JDBC getCatalogs, ODBC SQLTables",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetDbSchemas",
        _CATALOG,
        "ADBC GetObjects, JDBC getSchemas, ODBC SQLTables",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetTables",
        _CATALOG,
        "ADBC GetObjects, GetTableSchema; JDBC getTables, getColumns; ODBC SQLTables, SQLColumns; pandas read_sql",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetTableTypes",
        _CATALOG,
        "ADBC GetTableTypes, JDBC getTableTypes, ODBC SQLTables",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetPrimaryKeys",
        _CATALOG,
        "JDBC getPrimaryKeys",
        "market tables have none: their rule against repeats is no constraint",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetExportedKeys",
        _CATALOG,
        "JDBC getExportedKeys",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetImportedKeys",
        _CATALOG,
        "JDBC getImportedKeys",
    ),
    Served("GetFlightInfo, GetSchema", "CommandGetCrossReference", _CATALOG, "JDBC getCrossReference"),
    Served("GetFlightInfo, GetSchema", "CommandGetXdbcTypeInfo", _CATALOG, "ODBC when it connects, SQLGetTypeInfo"),
    Served(
        "GetFlightInfo, GetSchema",
        "CommandGetSqlInfo",
        _CATALOG,
        "ADBC when it connects (8) and GetInfo; JDBC getMetaData and ODBC (all codes, once); polars (0, 1, 2)",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "Tail",
        ("TailService.info", "TailService.schema"),
        "any client that follows a table; the ticket is the command",
        "as Replay; a resume token of another server or table, a seq that is still to come (INVALID_ARGUMENT)",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "Replay",
        ("ReplayService.info", "ReplayService.schema"),
        "any client, see [replay.md](replay.md); the ticket is the command",
        "a condition that is more than one, a column that is not there (INVALID_ARGUMENT)",
    ),
    Served(
        "GetFlightInfo, GetSchema",
        "Live",
        ("LiveService.info", "LiveService.schema"),
        "any Flight client; see [live.md](live.md)",
        "what is no query (UNIMPLEMENTED), or under a snapshot (INVALID_ARGUMENT)",
    ),
    Served(
        "DoGet",
        "TicketStatementQuery",
        ("QueryService.fetch",),
        "whoever asked GetFlightInfo for a statement; ADBC ReadPartition, from any connection of the same user",
        "a handle of another user, or unused for too long (NOT_FOUND); one that was cancelled (CANCELLED)",
    ),
    Served(
        "DoGet",
        "CommandPreparedStatementQuery",
        ("QueryService.fetch",),
        "whoever asked GetFlightInfo for a prepared query; altertable binds between the two",
        "of a statement that writes (INVALID_ARGUMENT): its flight information runs it",
    ),
    Served(
        "DoGet",
        "Query",
        ("QueryService.fetch",),
        "the client of this repository: a statement in one round trip",
        "more than one row of parameters (INVALID_ARGUMENT)",
    ),
    Served(
        "DoGet",
        "Tail",
        ("TailService.fetch",),
        "the client's tail; any Flight client, see [tail.md](tail.md)",
        "more than `query.streams_max` open (UNAVAILABLE); a reader that falls behind ends (UNAVAILABLE)",
    ),
    Served(
        "DoGet",
        "Replay",
        ("ReplayService.fetch",),
        "the client's replay, one call a table",
        "more than `query.streams_max` open (UNAVAILABLE); a snapshot that has ended, also on the way (NOT_FOUND)",
    ),
    Served(
        "DoGet",
        "Live",
        ("LiveService.fetch",),
        "the client's live; any Flight client that reads app_metadata",
        "more than `query.streams_max` open (UNAVAILABLE)",
    ),
    Served(
        "DoGet",
        "CommandGet…",
        ("catalogs.catalog_table", "sqlinfo.sql_info_table"),
        "whoever asked GetFlightInfo for it: a catalog command is its own ticket",
    ),
    Served(
        "DoPut",
        "CommandStatementUpdate",
        ("QueryService.update",),
        "ADBC ExecuteUpdate, flightsql-dbapi execute; JDBC and ODBC never",
        "a query (INVALID_ARGUMENT): run it as one",
    ),
    Served(
        "DoPut",
        "CommandPreparedStatementQuery",
        ("QueryService.bind",),
        "DB-API execute with parameters, JDBC set… of a PreparedStatement; ODBC has no parameters",
        "a row of the wrong width or of names that are not the statement's (INVALID_ARGUMENT)",
    ),
    Served(
        "DoPut",
        "CommandPreparedStatementUpdate",
        ("QueryService.prepared_update",),
        "DB-API execute of what writes, executemany; JDBC executeUpdate",
        "a query (INVALID_ARGUMENT); one row of values that fails takes back all",
    ),
    Served(
        "DoPut",
        "CommandStatementIngest",
        ("IngestService.ingest",),
        "ADBC adbc_ingest, pandas to_sql, polars write_database, dbt seeds; ADBC's driver never sends the transaction",
        f"{_MARKET}; a table that is there, or is not, against the mode (INVALID_ARGUMENT, NOT_FOUND)",
    ),
    Served(
        "DoPut",
        "AppendStream",
        ("IngestService.append_stream",),
        "the client's writer and feeds of this repository",
        "tables of the users (NOT_FOUND): they are ingested into",
    ),
    Served(
        "DoAction",
        "CreatePreparedStatement",
        ("ActionService.create_prepared",),
        "DB-API execute; every statement of JDBC and ODBC",
        "what does not parse or bind, and what is not for users: nothing runs",
    ),
    Served(
        "DoAction",
        "ClosePreparedStatement",
        ("ActionService.close_prepared",),
        "cursor.close, JDBC and ODBC after each statement",
        "nothing: one that is gone already is no error, since drivers close late",
    ),
    Served(
        "DoAction",
        "BeginTransaction",
        ("ActionService.begin_transaction",),
        "ADBC without autocommit, when it connects and after each commit; SQLAlchemy dialects; JDBC and ODBC never",
    ),
    Served(
        "DoAction",
        "EndTransaction",
        ("ActionService.end_transaction",),
        "commit, rollback",
        "one that has ended by itself (NOT_FOUND); a conflict with another (UNKNOWN, in the engine's words)",
    ),
    Served(
        "DoAction",
        "CancelQuery",
        ("ActionService.cancel_query",),
        "older clients; deprecated",
        "what has no handle or id to stop by (NOT_CANCELLABLE)",
    ),
    Served(
        "DoAction",
        "CancelFlightInfo",
        ("ActionService.cancel_flight_info",),
        "GizmoSQL's driver when a result is closed; ADBC and JDBC cancel the call itself",
        "as CancelQuery",
    ),
    Served(
        "DoAction",
        "RenewFlightEndpoint",
        ("ActionService.renew_endpoint",),
        "readers of partitions that start late",
        "endpoints that do not expire (INVALID_ARGUMENT): only tickets of statements do",
    ),
    Served(
        "DoAction",
        "SetSessionOptions",
        ("ActionService.set_options",),
        "ADBC adbc_current_catalog, adbc_current_db_schema, ….session.option.…; JDBC with catalog= in its URL",
        "an option that is not known (INVALID_NAME), a value that is none (INVALID_VALUE); the others are set",
    ),
    Served(
        "DoAction",
        "GetSessionOptions",
        ("ActionService.options",),
        "ADBC, one call for each option that is read",
    ),
    Served(
        "DoAction",
        "CloseSession",
        ("ActionService.close_session",),
        "ADBC connection.close; JDBC with catalog= in its URL",
        "nothing: what is open in the session is rolled back",
    ),
    Served("DoAction", "tickflight.FeedReport", ("AdminService.feed_report",), "feeds of this repository"),
    Served("DoAction", "tickflight.Flush", ("AdminService.flush",), "the client's flush"),
    Served("DoAction", "tickflight.pin", ("AdminService.pin",), "the client's snapshot"),
    Served("DoAction", "tickflight.renew_pin", ("AdminService.renew_pin",), "the client's snapshot"),
    Served("DoAction", "tickflight.release_pin", ("AdminService.release_pin",), "the client's snapshot"),
    Served(
        "DoAction",
        "tickflight.cancel",
        ("ActionService.cancel_statement",),
        "the client's cancel",
        "a statement is ended by its id in system.queries: one's own, by an admin anybody's",
    ),
    Served("DoAction", "tickflight.health", ("AdminService.health",), "the client's health"),
)

REFUSED: Final = (
    Refused("CommandStatementSubstraitPlan", "the engine comes without its extension for Substrait; SqlInfo 5 says so"),
    Refused("CreatePreparedSubstraitPlan", "as above"),
    Refused("BeginSavepoint", "DuckDB has no savepoints; SqlInfo 8 and 573 say so"),
    Refused("EndSavepoint", "as above"),
    Refused("ListFlights", "the tables are listed by CommandGetTables"),
    Refused("DoExchange", "Flight SQL has no use for it"),
    Refused("PollFlightInfo", "pyarrow has no hook for it; GetFlightInfo answers at once, since it only plans"),
)

_BEGIN, _END = "<!-- generated by tickflight_server.flight.document -->", "<!-- end of what is generated -->"


def document() -> str:
    """Return the page's part in Markdown."""
    lines = []
    for call in CALLS:
        lines += [f"### {call}", "", *_table(("message", "done by", "who sends it", "refused, and why"), _rows(call))]
    rows = [(f"`{one.message}`", one.why) for one in REFUSED]
    return "\n".join([*lines, "### Not offered", "", *_table(("message or call", "why"), rows)]).rstrip("\n")


def _rows(call: Call) -> list[tuple[str, ...]]:
    return [
        (f"`{one.message}`", ", ".join(f"`{name}`" for name in one.done_by), one.clients, one.refused)
        for one in SERVED
        if one.call == call
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruled = [head, ["---"] * len(head), *rows]
    return ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in ruled] + [""]


def generated_part(page: str) -> str:
    """Return what stands between the marks of a page."""
    return page.split(_BEGIN)[1].split(_END)[0].strip("\n")


def with_document(page: str) -> str:
    """Return a page with its part written anew."""
    part = f"{_BEGIN}\n\n{document()}\n\n{_END}"
    return re.sub(f"{_BEGIN}.*?{_END}", lambda _: part, page, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_document(path.read_text(encoding="utf-8")), encoding="utf-8")
