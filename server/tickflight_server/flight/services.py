"""What is served to those who see the same: one engine's queries, tails, sessions and catalog, as tables of handlers.

The rule of this file: a handler is a row of a literal table from command, ticket or action to a method; nothing that is
kept here for one sight can be reached from another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import flight

import tickflight_server
from tickflight.wire import commands as c
from tickflight.wire.append import DoPutPreparedStatementResult, DoPutUpdateResult
from tickflight.wire.codec import Message
from tickflight.wire.streams import Live, Replay, Tail
from tickflight.wire.tickets import Query, Ticket, TicketStatementQuery
from tickflight_server.clock import Clock
from tickflight_server.config import Settings
from tickflight_server.flight.actions import ActionService
from tickflight_server.flight.admin import AdminService
from tickflight_server.flight.auth import Call
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
from tickflight_server.identity.authenticator import Authenticator
from tickflight_server.query.engine import Engine


class Services:
    """The handlers over one engine.

    Args:
        engine: sees what its callers may.
        authenticator: ends their logins.
        streams: all open streams of the server.

    ``infos``, ``schemas``, ``gets``, ``puts`` and ``actions`` have a handler for each kind of request.
    """

    def __init__(
        self, engine: Engine, settings: Settings, clock: Clock, authenticator: Authenticator, streams: OpenStreams
    ) -> None:
        query, store = settings.query, engine.store
        self._message_bytes_max = settings.flight.message_bytes_max
        self._sessions = Sessions(engine, store.whole.pins, query, clock)
        self._tails = TailService(engine, store.whole.writer, query, clock, streams)
        self._queries = QueryService(engine, self._sessions, self._tails, query, clock)
        self._replays = ReplayService(engine, self._sessions, streams, query)
        self._lives = LiveService(engine, self._sessions, streams, query, clock)
        self._ingest = IngestService(store.whole, engine, self._sessions, settings.flight.message_bytes_max)
        self._tables = Tables(engine)
        self._facts = _facts(engine, settings)
        self.infos: Mapping[type[c.Command], Callable[[Call, Any], Found]] = self._all_infos()
        self.schemas: Mapping[type[c.Command], Callable[[Call, Any], pa.Schema]] = self._all_schemas()
        self.gets: Mapping[type[Ticket], Callable[[Call, Any], flight.FlightDataStream]] = self._all_gets()
        self.puts: Mapping[type[c.Command], Callable[[Call, Any, Any, Any], None]] = {
            c.AppendStream: self._ingest.append_stream,
            c.CommandStatementIngest: self._ingest.ingest,
            c.CommandStatementUpdate: self._update,
            c.CommandPreparedStatementQuery: self._bind,
            c.CommandPreparedStatementUpdate: self._prepared_update,
        }
        actions = ActionService(self._queries, self._sessions, authenticator, clock, query.handle_idle_s)
        admin = AdminService(store, engine.feeds)
        self.actions: Mapping[str, Callable[[Call, Any], Message | None]] = {
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
            "tickflight.cancel": actions.cancel_statement,
            "tickflight.health": admin.health,
        }

    def _all_infos(self) -> Mapping[type[c.Command], Callable[[Call, Any], Found]]:
        queries = self._queries
        return {
            c.CommandStatementQuery: lambda call, m: queries.info(call, m.query, m.transaction_id),
            c.CommandPreparedStatementQuery: lambda call, m: queries.prepared_info(call, m.prepared_statement_handle),
            Replay: self._replays.info,
            Live: self._lives.info,
            Tail: self._tails.info,
            **dict.fromkeys(RESULT_SCHEMAS, lambda _, m: Found(result_schema(m), (m.serialize(),))),
        }

    def _all_schemas(self) -> Mapping[type[c.Command], Callable[[Call, Any], pa.Schema]]:
        queries = self._queries
        return {
            c.CommandStatementQuery: lambda call, m: queries.schema(call, m.query, m.transaction_id),
            c.CommandPreparedStatementQuery: lambda call, m: queries.prepared_schema(call, m.prepared_statement_handle),
            Replay: self._replays.schema,
            Live: self._lives.schema,
            Tail: self._tails.schema,
            **dict.fromkeys(RESULT_SCHEMAS, lambda _, m: result_schema(m)),
        }

    def _all_gets(self) -> Mapping[type[Ticket], Callable[[Call, Any], flight.FlightDataStream]]:
        return {
            TicketStatementQuery: self._queries.fetch,
            Query: self._queries.fetch,
            Live: self._lives.fetch,
            c.CommandPreparedStatementQuery: self._queries.fetch,
            Replay: self._replays.fetch,
            Tail: self._tails.fetch,
            **dict.fromkeys(RESULT_SCHEMAS, lambda _, m: flight.RecordBatchStream(self._catalog(m))),
        }

    def stop(self) -> None:
        """End what would never end by itself."""
        self._tails.close()

    def close(self) -> None:
        """End all sessions."""
        self._sessions.close()

    # --- what no service has

    def _catalog(self, command: CatalogCommand) -> pa.Table:
        if isinstance(command, c.CommandGetSqlInfo | c.CommandGetXdbcTypeInfo | c.CommandGetTableTypes):
            return catalog_table(command, (), self._facts)
        tables = self._tables
        if isinstance(command, c.CommandGetTables):
            return catalog_table(command, tables.tables(), self._facts)
        if isinstance(command, c.CommandGetCatalogs | c.CommandGetDbSchemas):
            return catalog_table(command, (), self._facts, tables.schemas())
        return catalog_table(command, (), self._facts, keys=tables.keys())

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
        return [
            checked(batch, self._message_bytes_max, call.session.rights.limits.request_mb)
            for batch in call.received(reader)
        ]


def _facts(engine: Engine, settings: Settings) -> SqlInfoFacts:
    query = settings.query
    return SqlInfoFacts(
        duckdb_version=f"v{engine.engine_version}",
        tickflight_version=tickflight_server.__version__,
        arrow_version=pa.__version__,
        statement_timeout_ms=_milliseconds(query.handle_idle_s),
        # an idle session takes its transactions with it
        transaction_timeout_ms=_milliseconds(min(query.transaction_idle_s, query.session_idle_s)),
        statement_length_max=query.sql_bytes_max,
        statements_max=query.handles_max,
        connections_max=query.sessions_max,
    )


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**31 - 1)  # it travels as int32
