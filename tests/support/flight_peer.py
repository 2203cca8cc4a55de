"""A client that sends Flight SQL's messages as they are, and a server whose time a test moves."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from flight_here import FlightHere
from pyarrow import flight
from stopped_clock import StoppedClock

from tickflight.wire import actions as a
from tickflight.wire import commands as c
from tickflight.wire import enums as e
from tickflight.wire.tickets import Query
from tickflight_server.flight.server import FlightSqlServer
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

REFUSED = (pa.ArrowInvalid, pa.ArrowNotImplementedError, flight.FlightUnauthorizedError)


class Peer:
    """A client of a server, and what the server says of itself."""

    def __init__(self, here: FlightHere, **headers: str) -> None:
        self.here = here
        self.client = flight.FlightClient(here.address)
        self.options = flight.FlightCallOptions(headers=[(k.encode(), v.encode()) for k, v in headers.items()])
        command = c.CommandGetSqlInfo()
        table = self.client.do_get(self.client.get_flight_info(described(command), self.options).endpoints[0].ticket)
        self.info = {row["info_name"]: row["value"] for row in table.read_all().to_pylist()}

    def table(self, sql: str) -> pa.Table:
        """Run a statement in one round trip."""
        return self.client.do_get(flight.Ticket(Query(sql).serialize()), self.options).read_all()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        table = self.table(sql)
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def value(self, sql: str) -> Any:
        ((value,),) = self.rows(sql)
        return value

    def runs(self, *statements: str) -> bool:
        """Return whether every one of the statements runs; one that does not is refused, and nothing else."""
        try:
            for sql in statements:
                self.table(sql)
        except REFUSED:
            return False
        return True

    def action(self, kind: str, request: Any) -> Any:
        results = [r.body.to_pybytes() for r in self.client.do_action((kind, request.serialize()), self.options)]
        return a.parse_action_result(kind, results[0]) if results else None

    def begin(self) -> bytes:
        return self.action("BeginTransaction", a.ActionBeginTransactionRequest()).transaction_id

    def end(self, transaction: bytes, *, commit: bool) -> None:
        how = e.EndTransaction.END_TRANSACTION_COMMIT if commit else e.EndTransaction.END_TRANSACTION_ROLLBACK
        self.action("EndTransaction", a.ActionEndTransactionRequest(transaction, how))

    def run_in(self, transaction: bytes, sql: str) -> list[tuple[Any, ...]]:
        info = self.client.get_flight_info(described(c.CommandStatementQuery(sql, transaction)), self.options)
        table = self.client.do_get(info.endpoints[0].ticket, self.options).read_all()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def ingest(self, table: str, rows: pa.RecordBatch, **fields: Any) -> None:
        how = c.TableDefinitionOptions(
            e.TableNotExistOption.TABLE_NOT_EXIST_OPTION_CREATE, e.TableExistsOption.TABLE_EXISTS_OPTION_APPEND
        )
        writer, _ = self.client.do_put(described(c.CommandStatementIngest(how, table, **fields)), rows.schema)
        writer.write_batch(rows)
        writer.done_writing()
        writer.close()

    def prepare(self, sql: str) -> Any:
        return self.action("CreatePreparedStatement", a.ActionCreatePreparedStatementRequest(sql))

    def listed(self, **filters: Any) -> list[dict[str, Any]]:
        ticket = flight.Ticket(c.CommandGetTables(**filters).serialize())
        return self.client.do_get(ticket, self.options).read_all().to_pylist()


def described(command: c.Command) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_command(command.serialize())


class Clocked(FlightHere):
    """A server whose time a test moves."""

    def start(self) -> None:
        self.clock = StoppedClock()
        self.store = Store(self.settings.lakehouse)
        self.engine = Engine(self.store, self.settings.query)
        self.flight = FlightSqlServer(self.store, self.engine, self.settings, self.clock)
        self.port = self.flight.port
        self.running = True
