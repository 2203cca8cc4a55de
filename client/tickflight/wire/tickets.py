"""The tickets that this server reads in DoGet.

The rule of this file: a ticket says all that its DoGet needs, so that it can be redeemed over another connection. A
catalog command is its own ticket; a query's is a handle of the server's, or, in one round trip, the query itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tickflight.wire.codec import FLIGHT_SQL, TICKFLIGHT, Wrapped, parse_wrapped
from tickflight.wire.commands import (
    CommandGetCatalogs,
    CommandGetCrossReference,
    CommandGetDbSchemas,
    CommandGetExportedKeys,
    CommandGetImportedKeys,
    CommandGetPrimaryKeys,
    CommandGetSqlInfo,
    CommandGetTables,
    CommandGetTableTypes,
    CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery,
)
from tickflight.wire.streams import Live, Replay, Tail


@dataclass(frozen=True)
class TicketStatementQuery(Wrapped, package=FLIGHT_SQL):
    """The result of a statement, by a handle that only the server can read."""

    statement_handle: bytes = b""


@dataclass(frozen=True)
class Query(Wrapped, package=TICKFLIGHT):
    """A query in one round trip. ``params``: an Arrow IPC stream of one batch with one row, b"" = none.

    ``id``: made up by the client, for CancelFlightInfo, b"" = none.
    """

    sql: str = ""
    params: bytes = b""
    id: bytes = b""


Ticket = (
    TicketStatementQuery
    | Query
    | Tail
    | Replay
    | Live
    | CommandPreparedStatementQuery
    | CommandGetSqlInfo
    | CommandGetXdbcTypeInfo
    | CommandGetCatalogs
    | CommandGetDbSchemas
    | CommandGetTables
    | CommandGetTableTypes
    | CommandGetPrimaryKeys
    | CommandGetExportedKeys
    | CommandGetImportedKeys
    | CommandGetCrossReference
)

TICKETS: Final[Mapping[str, type[Ticket]]] = {
    "type.googleapis.com/arrow.flight.protocol.sql.TicketStatementQuery": TicketStatementQuery,
    "type.googleapis.com/tickflight.v1.Query": Query,
    "type.googleapis.com/tickflight.v1.Tail": Tail,
    "type.googleapis.com/tickflight.v1.Replay": Replay,
    "type.googleapis.com/tickflight.v1.Live": Live,
    "type.googleapis.com/arrow.flight.protocol.sql.CommandPreparedStatementQuery": CommandPreparedStatementQuery,
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
}


def parse_ticket(data: bytes) -> Ticket:
    """Return what the ticket of a DoGet says.

    Raises:
        WireError: the bytes are no ticket of this server.
    """
    return parse_wrapped(data, TICKETS, "a ticket")
