"""The Flight SQL server: decode, call a service, map errors once.

The rule of this file: a request goes to the services of those who see what its caller sees, and to no other's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog
from pyarrow import flight
from pydantic import SecretStr

from tickflight.wire import commands as c
from tickflight.wire.actions import ACTIONS, parse_action_request
from tickflight.wire.tickets import parse_ticket
from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import Settings
from tickflight_server.errors import UnsupportedError
from tickflight_server.flight import status
from tickflight_server.flight.auth import MIDDLEWARE, Call, arrived
from tickflight_server.flight.door import Door
from tickflight_server.flight.listener import Listeners
from tickflight_server.flight.open_calls import OpenCalls
from tickflight_server.flight.open_streams import OpenStreams
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS
from tickflight_server.flight.services import Services
from tickflight_server.identity.authenticator import Authenticator
from tickflight_server.identity.exposure import check_exposure
from tickflight_server.identity.rights import ALL, Roles
from tickflight_server.paths import Layout
from tickflight_server.query.engine import Engine
from tickflight_server.query.engines import Engines
from tickflight_server.store import Store

LOG = structlog.get_logger(__name__)
_NAMES_TOLD_MAX = 100
_CATALOG_COMMANDS = tuple(RESULT_SCHEMAS)


class FlightSqlServer:
    """Serves one store over Flight SQL from the moment it is made; ``shutdown`` ends it.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        settings: Settings,
        clock: Clock | None = None,
        *,
        engines: Engines | None = None,
        fixed: Mapping[str, SecretStr] | None = None,
        local: Path | None = None,
    ) -> None:
        clock = clock or SystemClock()
        status.install()
        self._audit = store.audit
        self._settings = settings
        self._clock = clock
        self._handle_idle_s = settings.query.handle_idle_s
        self.authenticator = Authenticator(
            settings.auth,
            Roles(settings.roles),
            clock,
            layout=Layout(store.root),
            metrics=store.metrics,
            fixed=fixed,
            tls=settings.flight.tls,
            on_login=self._record_login,
        )
        self.authenticator.on_change = self._record_change
        check_exposure(settings.flight, self.authenticator)
        self._engines = engines or Engines(engine, settings.query, None)
        self._streams = OpenStreams(settings.query.streams_max, store.metrics)
        self._lock = threading.Lock()
        self._services = {ALL: self._make_services(engine)}
        self._door = Door(settings.flight, store.metrics)
        calls = OpenCalls(settings.flight, store.metrics)
        self._listeners = Listeners(self, settings.flight, self.authenticator, store.metrics, calls, local)
        self._door.open({self.port, self.client_port or self.port})

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._listeners.port

    @property
    def client_port(self) -> int | None:
        """The port that asks clients for certificates, if that is another one."""
        return self._listeners.client_port

    def _call(self, context: Any) -> Call:
        call = context.get_middleware(MIDDLEWARE)
        assert isinstance(call, Call)
        arrived(call, context, self.authenticator)
        self._door.let_in(call.peer)
        return call

    def _make_services(self, engine: Engine) -> Services:
        return Services(engine, self._settings, self._clock, self.authenticator, self._streams)

    @property
    def main(self) -> Services:
        """What is served to those who see all rows."""
        return self._services[ALL]

    def _of(self, call: Call) -> Services:
        """Return what is served to the caller, and to all who see the same."""
        sight = call.session.rights.sight
        found = self._services.get(sight)
        if found is None:
            engine = self._engines.of(sight)
            with self._lock:
                found = self._services.get(sight)
                if found is None:
                    found = self._services[sight] = self._make_services(engine)
        return found

    def shutdown(self) -> None:
        """End the server and all sessions."""
        self._door.close()
        with self._lock:
            services = list(self._services.values())
        for one in services:
            one.stop()
        self._streams.close()  # gRPC waits for calls to end, and these would not
        self._listeners.shutdown()
        for one in services:
            one.close()
        self._engines.close()

    def _record_login(self, user: str, how: str, address: str, ok: bool, why: str) -> None:
        """Let the audit have a line of a login; it waits for room, so that none is missing.

        Raises:
            BusyError: there is none.
        """
        self._audit.admit()
        self._audit.login(user, how, address, refused=None if ok else why or "refused")

    def _record_change(self, what: str, names: Sequence[str]) -> None:
        """Let the audit have a line of users or tokens that somebody changed on the machine."""
        self._audit.act("", f"change of {what}", names=names[:_NAMES_TOLD_MAX], count=len(names))

    def get_flight_info(self, context: Any, descriptor: Any) -> flight.FlightInfo:
        """Answer GetFlightInfo: plan a query, or run what writes; give the tickets of the result."""
        with status.mapped_errors():
            self._audit.admit()
            call = self._call(context)
            found = _handler(self._of(call).infos, descriptor)(call)
            until = None
            if found.expires:
                until = pa.scalar((self._clock.now_us() + int(self._handle_idle_s * 1e6)) * 1000, _EXPIRATION)
            endpoints = [flight.FlightEndpoint(ticket, [], until) for ticket in found.tickets]
            return flight.FlightInfo(found.schema, descriptor, endpoints, found.rows, -1)

    def get_schema(self, context: Any, descriptor: Any) -> flight.SchemaResult:
        """Answer GetSchema; nothing runs, and no handle is kept."""
        with status.mapped_to_arrow():
            call = self._call(context)
            return flight.SchemaResult(_handler(self._of(call).schemas, descriptor)(call))

    def do_get(self, context: Any, ticket: Any) -> flight.FlightDataStream:
        """Answer DoGet: run the query of a ticket, or make a catalog's table."""
        with status.mapped_errors():
            parsed = parse_ticket(ticket.ticket)
            self._audit.admit()
            call = self._call(context)
            handler = self._of(call).gets.get(type(parsed))
            if handler is None:
                raise UnsupportedError(f"{type(parsed).__name__} is not offered here.", hint=_OFFERED)
            return handler(call, parsed)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer DoPut: take rows, or values to bind."""
        with status.mapped_errors():
            command = c.parse_command(_command_bytes(descriptor))
            call = self._call(context)
            handler = self._of(call).puts.get(type(command))
            if handler is None:
                raise UnsupportedError(f"{type(command).__name__} is not offered here.", hint=_OFFERED)
            handler(call, command, self._door.watched(reader, call.peer), writer)

    def list_flights(self, context: Any, criteria: Any) -> Iterator[flight.FlightInfo]:
        """Refuse ListFlights: Flight SQL lists tables by CommandGetTables."""
        raise status.to_flight(UnsupportedError("ListFlights is not offered.", hint="Use CommandGetTables."))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Refuse DoExchange, which Flight SQL has no use for."""
        raise status.to_flight(UnsupportedError("DoExchange is not offered.", hint="Use DoPut and DoGet."))

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """Answer ListActions with what is offered."""
        with status.mapped_errors():
            return [(name, ACTIONS[name].description) for name in self._of(self._call(context)).actions]

    def do_action(self, context: Any, action: Any) -> Iterator[flight.Result]:
        """Answer DoAction."""
        with status.mapped_errors():
            call = self._call(context)
            handler = self._of(call).actions.get(action.type)
            if handler is None:
                raise UnsupportedError(f"action {action.type[:100]!r} is not offered here.")
            request = parse_action_request(action.type, action.body.to_pybytes())
            result = handler(call, request)
        return iter(() if result is None else (flight.Result(pa.py_buffer(result.serialize())),))


def _handler(table: Mapping[type[c.Command], Callable[[Call, Any], Any]], descriptor: Any) -> Callable[[Call], Any]:
    command = c.parse_command(_command_bytes(descriptor))
    handler = table.get(type(command))
    if handler is None:
        raise UnsupportedError(f"{type(command).__name__} is not offered here.", hint=_OFFERED)
    return lambda call: handler(call, command)


_EXPIRATION = pa.timestamp("ns", tz="UTC")
_OFFERED = "See ListActions and SqlInfo for what is."


def _command_bytes(descriptor: Any) -> bytes:
    if descriptor.descriptor_type != flight.DescriptorType.CMD:
        raise UnsupportedError("only descriptors with a Flight SQL command are taken.", hint="Use a Flight SQL client.")
    command: bytes = descriptor.command
    return command
