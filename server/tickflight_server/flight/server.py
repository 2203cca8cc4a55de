"""The Flight SQL server: decode, call a service, map errors once.

The rule of this file: a handler is a row of a literal table from command, ticket or action to a method; no handler
does work of its own.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import structlog
from pyarrow import flight

import tickflight_server
from tickflight.wire import commands as c
from tickflight.wire.actions import (
    ACTIONS,
    ActionBeginTransactionRequest,
    ActionBeginTransactionResult,
    ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest,
    ActionEndTransactionRequest,
    CloseSessionRequest,
    CloseSessionResult,
    CreatePin,
    FeedReport,
    Flush,
    FlushResult,
    Health,
    HealthComponent,
    HealthResult,
    Pin,
    ReleasePin,
    RenewPin,
    parse_action_request,
)
from tickflight.wire.append import DoPutPreparedStatementResult
from tickflight.wire.codec import Message
from tickflight.wire.enums import CloseSessionStatus
from tickflight.wire.tickets import Query, TicketStatementQuery, parse_ticket
from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import Settings
from tickflight_server.errors import ConfigError, InputError, UnsupportedError
from tickflight_server.flight import status
from tickflight_server.flight.auth import MIDDLEWARE, Authenticator, Call, CallFactory, Handshake
from tickflight_server.flight.catalogs import SchemaInfo, TableInfo, catalog_table
from tickflight_server.flight.handles import Handles
from tickflight_server.flight.ingest import IngestService
from tickflight_server.flight.queries import QueryService
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS, CatalogCommand, result_schema
from tickflight_server.flight.sqlinfo import SqlInfoFacts
from tickflight_server.query.engine import Engine
from tickflight_server.query.statement import CATALOG
from tickflight_server.store import Pin as StoredPin
from tickflight_server.store import Store

LOG = structlog.get_logger(__name__)
Found = tuple[pa.Schema, bytes]
_CATALOG_COMMANDS = tuple(RESULT_SCHEMAS)


class FlightSqlServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves one store over Flight SQL from the moment it is made; ``shutdown`` ends it.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, store: Store, engine: Engine, settings: Settings, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        status.install()
        self._store = store
        self._engine = engine
        self._authenticator = Authenticator(settings.auth, clock)
        self._queries = QueryService(engine, store.pins, settings.query, clock)
        self._ingest = IngestService(store, settings.flight.message_bytes_max)
        self._transactions: Handles[bool] = Handles(
            "transaction", clock, most=settings.query.handles_max, idle_s=settings.auth.session_idle_s
        )
        self._tables = [TableInfo(CATALOG, s, n, "table", a, remark) for s, n, remark, a in engine.tables()]
        self._facts = SqlInfoFacts(
            duckdb_version=f"v{engine.engine_version}",
            tickflight_version=tickflight_server.__version__,
            arrow_version=pa.__version__,
            statement_timeout_ms=int(settings.query.handle_idle_s * 1000),
            transaction_timeout_ms=min(int(settings.auth.session_idle_s * 1000), 2**31 - 1),
            statement_length_max=settings.query.sql_bytes_max,
        )
        self._infos: Mapping[type[c.Command], Callable[[Call, Any], Found]] = {
            c.CommandStatementQuery: lambda call, m: self._queries.info(call, m.query),
            c.CommandPreparedStatementQuery: lambda call, m: self._queries.prepared_info(
                call, m.prepared_statement_handle
            ),
            **dict.fromkeys(_CATALOG_COMMANDS, lambda _, m: (result_schema(m), m.serialize())),
        }
        self._puts: Mapping[type[c.Command], Callable[[Call, Any, Any, Any], None]] = {
            c.AppendStream: lambda _, m, reader, writer: self._ingest.append_stream(m, reader, writer),
            c.CommandStatementIngest: lambda _, m, reader, writer: self._ingest.ingest(m, reader, writer),
            c.CommandPreparedStatementQuery: self._bind,
        }
        self._actions: Mapping[str, Callable[[Call, Any], Message | None]] = {
            "CreatePreparedStatement": self._create_prepared,
            "ClosePreparedStatement": self._close_prepared,
            "BeginTransaction": self._begin_transaction,
            "EndTransaction": self._end_transaction,
            "CloseSession": self._close_session,
            "tickflight.FeedReport": self._feed_report,
            "tickflight.Flush": self._flush,
            "tickflight.pin": self._pin,
            "tickflight.renew_pin": self._renew_pin,
            "tickflight.release_pin": self._release_pin,
            "tickflight.health": self._health,
        }
        host, port = settings.flight.host, settings.flight.port
        try:
            _check_free(host, port)
            super().__init__(
                f"grpc://{host}:{port}",
                auth_handler=Handshake(),
                middleware={MIDDLEWARE: CallFactory(self._authenticator)},
            )
        except (pa.ArrowException, OSError):
            raise ConfigError(
                f"cannot listen on {host}:{port}.",
                hint="Another program may use the port: set flight.port, or 0 for a free one.",
            ) from None

    @staticmethod
    def _call(context: Any) -> Call:
        call = context.get_middleware(MIDDLEWARE)
        assert isinstance(call, Call)
        call.gone = context.is_cancelled
        return call

    def get_flight_info(self, context: Any, descriptor: Any) -> flight.FlightInfo:
        """Answer GetFlightInfo: plan, and give one ticket."""
        with status.mapped_errors():
            schema, ticket = self._find(context, c.parse_command(_command_bytes(descriptor)))
            return flight.FlightInfo(schema, descriptor, [flight.FlightEndpoint(ticket, [])], -1, -1)

    def get_schema(self, context: Any, descriptor: Any) -> flight.SchemaResult:
        """Answer GetSchema."""
        with status.mapped_errors():
            command = c.parse_command(_command_bytes(descriptor))
            if isinstance(command, c.CommandStatementQuery):
                # nobody will fetch: no handle is kept
                return flight.SchemaResult(self._queries.schema(self._call(context), command.query))
            return flight.SchemaResult(self._find(context, command)[0])

    def _find(self, context: Any, command: c.Command) -> Found:
        handler = self._infos.get(type(command))
        if handler is None:
            raise UnsupportedError(f"{type(command).__name__} gives no rows.", hint=_READ_ONLY)
        return handler(self._call(context), command)

    def do_get(self, context: Any, ticket: Any) -> flight.FlightDataStream:
        """Answer DoGet: run the query of a ticket, or make a catalog's table."""
        with status.mapped_errors():
            parsed = parse_ticket(ticket.ticket)
            if isinstance(parsed, TicketStatementQuery | Query | c.CommandPreparedStatementQuery):
                return self._queries.fetch(self._call(context), parsed)
            return flight.RecordBatchStream(self._catalog(parsed))

    def _catalog(self, command: CatalogCommand) -> pa.Table:
        schemas = [SchemaInfo(CATALOG, name) for name in ("market", "system")]
        return catalog_table(command, self._tables, self._facts, schemas)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer DoPut: take rows, or values to bind."""
        with status.mapped_errors():
            command = c.parse_command(_command_bytes(descriptor))
            handler = self._puts.get(type(command))
            if handler is None:
                raise UnsupportedError(f"{type(command).__name__} is not offered here.", hint=_READ_ONLY)
            handler(self._call(context), command, reader, writer)

    def _bind(self, call: Call, command: c.CommandPreparedStatementQuery, reader: Any, writer: Any) -> None:
        batches = [chunk.data for chunk in reader if chunk.data is not None]
        self._queries.bind(call, command.prepared_statement_handle, batches)
        answer = DoPutPreparedStatementResult(command.prepared_statement_handle)
        writer.write(pa.py_buffer(answer.serialize()))

    def list_flights(self, context: Any, criteria: Any) -> Iterator[flight.FlightInfo]:
        """Refuse ListFlights: Flight SQL lists tables by CommandGetTables."""
        raise status.to_flight(UnsupportedError("ListFlights is not offered.", hint="Use CommandGetTables."))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Refuse DoExchange, which Flight SQL has no use for."""
        raise status.to_flight(UnsupportedError("DoExchange is not offered.", hint="Use DoPut and DoGet."))

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """Answer ListActions with what is offered."""
        return [(name, ACTIONS[name].description) for name in self._actions]

    def do_action(self, context: Any, action: Any) -> Iterator[flight.Result]:
        """Answer DoAction."""
        with status.mapped_errors():
            handler = self._actions.get(action.type)
            if handler is None:
                raise UnsupportedError(f"action {action.type[:100]!r} is not offered here.")
            request = parse_action_request(action.type, action.body.to_pybytes())
            result = handler(self._call(context), request)
        return iter(() if result is None else (flight.Result(pa.py_buffer(result.serialize())),))

    def _create_prepared(self, call: Call, request: ActionCreatePreparedStatementRequest) -> Message:
        return self._queries.prepare(call, request.query)

    def _close_prepared(self, call: Call, request: ActionClosePreparedStatementRequest) -> None:
        self._queries.close_prepared(call, request.prepared_statement_handle)

    def _begin_transaction(self, call: Call, request: ActionBeginTransactionRequest) -> Message:
        """Begin a transaction: there is nothing to write in it, and each statement reads the newest snapshot."""
        return ActionBeginTransactionResult(self._transactions.add(call.session.user, True))

    def _end_transaction(self, call: Call, request: ActionEndTransactionRequest) -> None:
        self._transactions.get(call.session.user, request.transaction_id)
        self._transactions.remove(call.session.user, request.transaction_id)

    def _close_session(self, call: Call, request: CloseSessionRequest) -> Message:
        self._authenticator.end(call.session)
        return CloseSessionResult(CloseSessionStatus.CLOSED)

    def _feed_report(self, call: Call, request: FeedReport) -> None:
        try:
            values = json.loads(request.json)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise InputError("a feed's report is a JSON object.")
        self._engine.feeds.report(request.feed, values)

    def _flush(self, call: Call, request: Flush) -> Message:
        return FlushResult(self._store.flush())

    def _pin(self, call: Call, request: CreatePin) -> Message:
        cuts = {name: table.state.last_seq for name, table in self._store.tables.items()}
        return _told(self._store.pins.create(cuts, request.seconds))

    def _renew_pin(self, call: Call, request: RenewPin) -> Message:
        return _told(self._store.pins.renew(request.id, request.seconds))

    def _release_pin(self, call: Call, request: ReleasePin) -> None:
        """Let a pin go; one that is gone already is no error."""
        self._store.pins.release(request.id)

    def _health(self, call: Call, request: Health) -> Message:
        health = self._store.health
        rows = health.conditions()
        components = tuple(HealthComponent(r.component, r.state, r.since_us, r.detail, r.hint) for r in rows)
        return HealthResult(health.state, components)


def _told(pin: StoredPin) -> Pin:
    return Pin(pin.id, pin.cuts, pin.created_us, pin.expires_us)


def _check_free(host: str, port: int) -> None:
    """Raise OSError if the address is taken: gRPC shares a port with another gRPC server without a word."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


_READ_ONLY = "Tables are read-only by SQL; rows come in over DoPut."


def _command_bytes(descriptor: Any) -> bytes:
    if descriptor.descriptor_type != flight.DescriptorType.CMD:
        raise UnsupportedError("only descriptors with a Flight SQL command are taken.", hint="Use a Flight SQL client.")
    command: bytes = descriptor.command
    return command
