"""The commands of Flight SQL: what a client puts into ``FlightDescriptor.cmd``.

The rule of this file: one dataclass for each command, its fields the message's fields by the same names, and the table
``COMMANDS`` that says all there are. Which RPC takes which is in proto-notes/flight-sql.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tickflight.wire.codec import FLIGHT_SQL, TICKFLIGHT, Message, Wrapped, parse_wrapped
from tickflight.wire.enums import TableExistsOption, TableNotExistOption
from tickflight.wire.streams import Live, Replay, Tail


@dataclass(frozen=True)
class CommandGetSqlInfo(Wrapped, package=FLIGHT_SQL):
    """Ask for facts about the server; no code at all asks for every code."""

    info: tuple[int, ...] = ()


@dataclass(frozen=True)
class CommandGetXdbcTypeInfo(Wrapped, package=FLIGHT_SQL):
    """Ask for the data types, or for those of one XdbcDataType."""

    data_type: int | None = None


@dataclass(frozen=True)
class CommandGetCatalogs(Wrapped, package=FLIGHT_SQL):
    """Ask for the catalogs."""


@dataclass(frozen=True)
class CommandGetDbSchemas(Wrapped, package=FLIGHT_SQL):
    """Ask for schemas. ``catalog``: exact, "" = those without a catalog, None = all; the pattern is LIKE's."""

    catalog: str | None = None
    db_schema_filter_pattern: str | None = None


@dataclass(frozen=True)
class CommandGetTables(Wrapped, package=FLIGHT_SQL):
    """Ask for tables, filtered as in CommandGetDbSchemas; no ``table_types`` = all types."""

    catalog: str | None = None
    db_schema_filter_pattern: str | None = None
    table_name_filter_pattern: str | None = None
    table_types: tuple[str, ...] = ()
    include_schema: bool = False


@dataclass(frozen=True)
class CommandGetTableTypes(Wrapped, package=FLIGHT_SQL):
    """Ask for the table types."""


@dataclass(frozen=True)
class CommandGetPrimaryKeys(Wrapped, package=FLIGHT_SQL):
    """Ask for a table's primary key."""

    catalog: str | None = None
    db_schema: str | None = None
    table: str = ""


@dataclass(frozen=True)
class CommandGetExportedKeys(Wrapped, package=FLIGHT_SQL):
    """Ask for the foreign keys that point at a table."""

    catalog: str | None = None
    db_schema: str | None = None
    table: str = ""


@dataclass(frozen=True)
class CommandGetImportedKeys(Wrapped, package=FLIGHT_SQL):
    """Ask for the foreign keys of a table."""

    catalog: str | None = None
    db_schema: str | None = None
    table: str = ""


@dataclass(frozen=True)
class CommandGetCrossReference(Wrapped, package=FLIGHT_SQL):
    """Ask for the foreign keys of one table that point at another."""

    pk_catalog: str | None = None
    pk_db_schema: str | None = None
    pk_table: str = ""
    fk_catalog: str | None = None
    fk_db_schema: str | None = None
    fk_table: str = ""


@dataclass(frozen=True)
class CommandStatementQuery(Wrapped, package=FLIGHT_SQL):
    """Run a SQL text that gives rows; without ``transaction_id`` it commits by itself."""

    query: str = ""
    transaction_id: bytes | None = None


@dataclass(frozen=True)
class SubstraitPlan(Message, package=FLIGHT_SQL):
    """A Substrait plan and the version it is written in; part of other messages."""

    plan: bytes = b""
    version: str = ""


@dataclass(frozen=True)
class CommandStatementSubstraitPlan(Wrapped, package=FLIGHT_SQL):
    """Run a Substrait plan."""

    plan: SubstraitPlan | None = None
    transaction_id: bytes | None = None


@dataclass(frozen=True)
class CommandPreparedStatementQuery(Wrapped, package=FLIGHT_SQL):
    """In DoPut: bind the rows that follow. In GetFlightInfo: run the prepared query."""

    prepared_statement_handle: bytes = b""


@dataclass(frozen=True)
class CommandStatementUpdate(Wrapped, package=FLIGHT_SQL):
    """Run a SQL text that gives a count of rows."""

    query: str = ""
    transaction_id: bytes | None = None


@dataclass(frozen=True)
class CommandPreparedStatementUpdate(Wrapped, package=FLIGHT_SQL):
    """Run a prepared update once for each row that follows, all of them or none."""

    prepared_statement_handle: bytes = b""


@dataclass(frozen=True)
class TableDefinitionOptions(Message, package=FLIGHT_SQL, name="CommandStatementIngest.TableDefinitionOptions"):
    """What an ingest does when its table is missing or there; UNSPECIFIED is to be refused."""

    if_not_exist: TableNotExistOption = TableNotExistOption.TABLE_NOT_EXIST_OPTION_UNSPECIFIED
    if_exists: TableExistsOption = TableExistsOption.TABLE_EXISTS_OPTION_UNSPECIFIED


@dataclass(frozen=True)
class CommandStatementIngest(Wrapped, package=FLIGHT_SQL):
    """Store the rows that follow in a table."""

    table_definition_options: TableDefinitionOptions | None = None
    table: str = ""
    schema: str | None = None
    catalog: str | None = None
    temporary: bool = False
    transaction_id: bytes | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AppendStream(Wrapped, package=TICKFLIGHT):
    """Open a long-lived DoPut whose every batch is appended to one table and acknowledged once it is durable.

    ``producer`` names the sender; with a batch's sequence it makes a batch that is sent twice recognisable.
    """

    table: str = ""
    schema: str = ""
    producer: bytes = b""


Command = (
    CommandGetSqlInfo
    | CommandGetXdbcTypeInfo
    | CommandGetCatalogs
    | CommandGetDbSchemas
    | CommandGetTables
    | CommandGetTableTypes
    | CommandGetPrimaryKeys
    | CommandGetExportedKeys
    | CommandGetImportedKeys
    | CommandGetCrossReference
    | CommandStatementQuery
    | CommandStatementSubstraitPlan
    | CommandPreparedStatementQuery
    | CommandStatementUpdate
    | CommandPreparedStatementUpdate
    | CommandStatementIngest
    | AppendStream
    | Tail
    | Replay
    | Live
)

COMMANDS: Final[Mapping[str, type[Command]]] = {
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetSqlInfo": CommandGetSqlInfo,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetXdbcTypeInfo": CommandGetXdbcTypeInfo,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetCatalogs": CommandGetCatalogs,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetDbSchemas": CommandGetDbSchemas,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetTables": CommandGetTables,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetTableTypes": CommandGetTableTypes,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetPrimaryKeys": CommandGetPrimaryKeys,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetExportedKeys": CommandGetExportedKeys,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetImportedKeys": CommandGetImportedKeys,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandGetCrossReference": CommandGetCrossReference,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery": CommandStatementQuery,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementSubstraitPlan": CommandStatementSubstraitPlan,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandPreparedStatementQuery": CommandPreparedStatementQuery,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementUpdate": CommandStatementUpdate,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandPreparedStatementUpdate": CommandPreparedStatementUpdate,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementIngest": CommandStatementIngest,
    "type.googleapis.com/tickflight.v1.AppendStream": AppendStream,
    "type.googleapis.com/tickflight.v1.Tail": Tail,
    "type.googleapis.com/tickflight.v1.Replay": Replay,
    "type.googleapis.com/tickflight.v1.Live": Live,
}


def parse_command(data: bytes) -> Command:
    """Return the command in the ``cmd`` of a FlightDescriptor.

    Raises:
        WireError: the bytes are no command; ``kind`` is "unknown" when they are a message of another sort.
    """
    return parse_wrapped(data, COMMANDS, "a Flight SQL command")
