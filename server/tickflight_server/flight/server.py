"""The Flight SQL server: decode, call a service, map errors once.

The rule of this file: a handler is a row of a literal table from command, ticket or action to a method; no handler
does work of its own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import structlog
from pyarrow import flight

import tickflight_server
from tickflight.wire import commands as c
from tickflight.wire.actions import ACTIONS, parse_action_request
from tickflight.wire.append import DoPutPreparedStatementResult, DoPutUpdateResult
from tickflight.wire.codec import Message
from tickflight.wire.streams import Live, Replay, Tail
from tickflight.wire.tickets import Query, Ticket, TicketStatementQuery, parse_ticket
from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import Settings
from tickflight_server.errors import ConfigError, UnsupportedError
from tickflight_server.flight import status
from tickflight_server.flight.actions import ActionService
from tickflight_server.flight.admin import AdminService
from tickflight_server.flight.auth import MIDDLEWARE, Authenticator, Call, CallFactory, Handshake
from tickflight_server.flight.catalogs import catalog_table
from tickflight_server.flight.incoming import checked
from tickflight_server.flight.ingest import IngestService
from tickflight_server.flight.kept import Found
from tickflight_server.flight.lives import LiveService
from tickflight_server.flight.open_streams import OpenStreams
from tickflight_server.flight.queries import QueryService
from tickflight_server.flight.replays import ReplayService
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS, CatalogCommand, result_schema
from tickflight_server.flight.sessions import Sessions
from tickflight_server.flight.sqlinfo import SqlInfoFacts
from tickflight_server.flight.tables import Tables
from tickflight_server.flight.tails import TailService
from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

LOG = structlog.get_logger(__name__)
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
        self._clock = clock
        self._message_bytes_max = settings.flight.message_bytes_max
        self._handle_idle_s = settings.query.handle_idle_s
        authenticator = Authenticator(settings.auth, clock)
        self._sessions = Sessions(engine, store.pins, settings.query, clock)
        self._streams = OpenStreams(settings.query.streams_max, store.metrics)
        self._tails = TailService(store, engine, settings.query, clock, self._streams)
        self._queries = QueryService(engine, self._sessions, self._tails, settings.query, clock)
        self._replays = ReplayService(engine, self._sessions, self._streams, settings.query)
        self._ingest = IngestService(store, engine, self._sessions, settings.flight.message_bytes_max)
        self._tables = Tables(engine)
        self._facts = SqlInfoFacts(
            duckdb_version=f"v{engine.engine_version}",
            tickflight_version=tickflight_server.__version__,
            arrow_version=pa.__version__,
            statement_timeout_ms=_milliseconds(settings.query.handle_idle_s),
            # an idle session takes its transactions with it
            transaction_timeout_ms=_milliseconds(min(settings.query.transaction_idle_s, settings.query.session_idle_s)),
            statement_length_max=settings.query.sql_bytes_max,
            statements_max=settings.query.handles_max,
            connections_max=settings.query.sessions_max,
        )
        queries, actions = (
            self._queries,
            ActionService(self._queries, self._sessions, authenticator, clock, self._handle_idle_s),
        )
        admin = AdminService(store, engine.feeds)
        lives = LiveService(store, engine, self._sessions, self._streams, settings.query, clock)
        self._infos: Mapping[type[c.Command], Callable[[Call, Any], Found]] = {
            c.CommandStatementQuery: lambda call, m: queries.info(call, m.query, m.transaction_id),
            c.CommandPreparedStatementQuery: lambda call, m: queries.prepared_info(call, m.prepared_statement_handle),
            Replay: self._replays.info,
            Live: lives.info,
            Tail: self._tails.info,
            **dict.fromkeys(RESULT_SCHEMAS, lambda _, m: Found(result_schema(m), (m.serialize(),))),
        }
        self._schemas: Mapping[type[c.Command], Callable[[Call, Any], pa.Schema]] = {
            c.CommandStatementQuery: lambda call, m: queries.schema(call, m.query, m.transaction_id),
            c.CommandPreparedStatementQuery: lambda call, m: queries.prepared_schema(call, m.prepared_statement_handle),
            Replay: self._replays.schema,
            Live: lives.schema,
            Tail: self._tails.schema,
            **dict.fromkeys(RESULT_SCHEMAS, lambda _, m: result_schema(m)),
        }
        self._gets: Mapping[type[Ticket], Callable[[Call, Any], flight.FlightDataStream]] = {
            TicketStatementQuery: queries.fetch,
            Query: queries.fetch,
            Live: lives.fetch,
            c.CommandPreparedStatementQuery: queries.fetch,
            Replay: self._replays.fetch,
            Tail: self._tails.fetch,
            **dict.fromkeys(RESULT_SCHEMAS, lambda _, m: flight.RecordBatchStream(self._catalog(m))),
        }
        self._puts: Mapping[type[c.Command], Callable[[Call, Any, Any, Any], None]] = {
            c.AppendStream: lambda _, m, reader, writer: self._ingest.append_stream(m, reader, writer),
            c.CommandStatementIngest: self._ingest.ingest,
            c.CommandStatementUpdate: self._update,
            c.CommandPreparedStatementQuery: self._bind,
            c.CommandPreparedStatementUpdate: self._prepared_update,
        }
        self._actions: Mapping[str, Callable[[Call, Any], Message | None]] = {
            "CreatePreparedStatement": actions.create_prepared,
            "ClosePreparedStatement": actions.close_prepared,
            "BeginTransaction": actions.begin_transaction,
            "EndTransaction": actions.end_transaction,
            "CancelQuery": actions.cancel_query,
            "CancelFlightInfo": actions.cancel_flight_info,
            "RenewFlightEndpoint": actions.renew_endpoint,
            "SetSessionOptions": actions.set_options,
            "GetSessionOptions": actions.options,
            "CloseSession": actions.close_session,
            "tickflight.FeedReport": admin.feed_report,
            "tickflight.Flush": admin.flush,
            "tickflight.pin": admin.pin,
            "tickflight.renew_pin": admin.renew_pin,
            "tickflight.release_pin": admin.release_pin,
            "tickflight.health": admin.health,
        }
        host, port = settings.flight.host, settings.flight.port
        try:
            _check_free(host, port)
            super().__init__(
                f"grpc://{host}:{port}",
                auth_handler=Handshake(),
                middleware={MIDDLEWARE: CallFactory(authenticator)},
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
        call.peer = context.peer()
        return call

    def shutdown(self) -> None:
        """End the server and all sessions."""
        self._tails.close()
        self._streams.close()  # gRPC waits for calls to end, and these would not
        super().shutdown()
        self._sessions.close()

    def get_flight_info(self, context: Any, descriptor: Any) -> flight.FlightInfo:
        """Answer GetFlightInfo: plan a query, or run what writes; give the tickets of the result."""
        with status.mapped_errors():
            found = self._handler(self._infos, descriptor)(self._call(context))
            until = None
            if found.expires:
                until = pa.scalar((self._clock.now_us() + int(self._handle_idle_s * 1e6)) * 1000, _EXPIRATION)
            endpoints = [flight.FlightEndpoint(ticket, [], until) for ticket in found.tickets]
            return flight.FlightInfo(found.schema, descriptor, endpoints, found.rows, -1)

    def get_schema(self, context: Any, descriptor: Any) -> flight.SchemaResult:
        """Answer GetSchema; nothing runs, and no handle is kept."""
        with status.mapped_to_arrow():
            return flight.SchemaResult(self._handler(self._schemas, descriptor)(self._call(context)))

    @staticmethod
    def _handler(table: Mapping[type[c.Command], Callable[[Call, Any], Any]], descriptor: Any) -> Callable[[Call], Any]:
        command = c.parse_command(_command_bytes(descriptor))
        handler = table.get(type(command))
        if handler is None:
            raise UnsupportedError(f"{type(command).__name__} is not offered here.", hint=_OFFERED)
        return lambda call: handler(call, command)

    def do_get(self, context: Any, ticket: Any) -> flight.FlightDataStream:
        """Answer DoGet: run the query of a ticket, or make a catalog's table."""
        with status.mapped_errors():
            parsed = parse_ticket(ticket.ticket)
            handler = self._gets.get(type(parsed))
            if handler is None:
                raise UnsupportedError(f"{type(parsed).__name__} is not offered here.", hint=_OFFERED)
            return handler(self._call(context), parsed)

    def _catalog(self, command: CatalogCommand) -> pa.Table:
        if isinstance(command, c.CommandGetSqlInfo | c.CommandGetXdbcTypeInfo | c.CommandGetTableTypes):
            return catalog_table(command, (), self._facts)
        tables = self._tables
        if isinstance(command, c.CommandGetTables):
            return catalog_table(command, tables.tables(), self._facts)
        if isinstance(command, c.CommandGetCatalogs | c.CommandGetDbSchemas):
            return catalog_table(command, (), self._facts, tables.schemas())
        return catalog_table(command, (), self._facts, keys=tables.keys())

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer DoPut: take rows, or values to bind."""
        with status.mapped_errors():
            command = c.parse_command(_command_bytes(descriptor))
            handler = self._puts.get(type(command))
            if handler is None:
                raise UnsupportedError(f"{type(command).__name__} is not offered here.", hint=_OFFERED)
            handler(self._call(context), command, reader, writer)

    def _bind(self, call: Call, command: c.CommandPreparedStatementQuery, reader: Any, writer: Any) -> None:
        self._queries.bind(call, command.prepared_statement_handle, self._batches(call, reader))
        answer = DoPutPreparedStatementResult(command.prepared_statement_handle)
        call.reply(writer, answer)

    def _update(self, call: Call, command: c.CommandStatementUpdate, _: Any, writer: Any) -> None:
        # its stream has no schema, and asking for one fails
        rows = self._queries.update(call, command.query, command.transaction_id)
        call.reply(writer, DoPutUpdateResult(rows))

    def _prepared_update(self, call: Call, command: c.CommandPreparedStatementUpdate, reader: Any, writer: Any) -> None:
        rows = self._queries.prepared_update(call, command.prepared_statement_handle, self._batches(call, reader))
        call.reply(writer, DoPutUpdateResult(rows))

    def _batches(self, call: Call, reader: Any) -> list[pa.RecordBatch]:
        return [checked(batch, self._message_bytes_max) for batch in call.received(reader)]

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


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**31 - 1)  # it travels as int32


def _check_free(host: str, port: int) -> None:
    """Raise OSError if the address is taken: gRPC shares a port with another gRPC server without a word."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


_EXPIRATION = pa.timestamp("ns", tz="UTC")
_OFFERED = "See ListActions and SqlInfo for what is."


def _command_bytes(descriptor: Any) -> bytes:
    if descriptor.descriptor_type != flight.DescriptorType.CMD:
        raise UnsupportedError("only descriptors with a Flight SQL command are taken.", hint="Use a Flight SQL client.")
    command: bytes = descriptor.command
    return command
