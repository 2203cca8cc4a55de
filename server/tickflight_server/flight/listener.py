"""What listens: thin objects over the server's handlers, which other ones take the place of when certificates change.

pyarrow's servers keep the certificates that they were made with. One that is shut down stops listening at once, and
ends when the calls under way have; meanwhile the next one listens on the same port already.

The rule of this file: a listener does nothing by itself, so that two of them are no more than one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import structlog
from pyarrow import flight

from tickflight_server.config import FlightSettings
from tickflight_server.errors import ConfigError
from tickflight_server.flight.auth import MIDDLEWARE, CallFactory, Handshake
from tickflight_server.flight.open_calls import OpenCalls
from tickflight_server.flight.peers import Callers
from tickflight_server.flight.tls import Certificates, read_certificates, stamps
from tickflight_server.identity.authenticator import Authenticator
from tickflight_server.metrics import Metrics

LOG = structlog.get_logger(__name__)
_RETRY_S = 0.005  # between two tries to listen where another listener just did
_RETRY_MAX_S = 1.0


class Handlers(Protocol):
    """Who answers the calls: Flight's methods, as ``FlightServerBase`` has them."""

    def get_flight_info(self, context: Any, descriptor: Any) -> flight.FlightInfo: ...  # noqa: D102
    def get_schema(self, context: Any, descriptor: Any) -> flight.SchemaResult: ...  # noqa: D102
    def do_get(self, context: Any, ticket: Any) -> flight.FlightDataStream: ...  # noqa: D102
    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None: ...  # noqa: D102
    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None: ...  # noqa: D102
    def do_action(self, context: Any, action: Any) -> Iterator[flight.Result]: ...  # noqa: D102
    def list_actions(self, context: Any) -> list[tuple[str, str]]: ...  # noqa: D102
    def list_flights(self, context: Any, criteria: Any) -> Iterator[flight.FlightInfo]: ...  # noqa: D102


class Listener(flight.FlightServerBase):  # type: ignore[misc]
    """Hands every call on."""

    def __init__(self, handlers: Handlers, location: str, **options: Any) -> None:
        # what it has is there before a call can come
        self.get_flight_info = handlers.get_flight_info
        self.get_schema = handlers.get_schema
        self.do_get = handlers.do_get
        self.do_put = handlers.do_put
        self.do_exchange = handlers.do_exchange
        self.do_action = handlers.do_action
        self.list_actions = handlers.list_actions
        self.list_flights = handlers.list_flights
        super().__init__(location, **options)


@dataclass(eq=False)
class _Place:
    """Somewhere to listen, and what listens there; ``host`` may be a socket's file, and has no port then.

    ``encrypted``: by the certificates of the settings. ``asks``: clients must have one. ``by_certificate``: it says who
    they are.
    """

    host: str | Path
    port: int
    factory: CallFactory
    callers: Callers
    encrypted: bool
    asks: bool
    by_certificate: bool
    listener: Listener | None = None

    def listen(self, handlers: Handlers, certificates: Certificates | None) -> None:
        """Make a listener.

        Raises:
            OSError, ArrowException: the port is not to be had.
        """
        options: dict[str, Any] = {"middleware": {MIDDLEWARE: self.factory}}
        if not self.by_certificate:
            # with it, a call's peer is who the handshake says, and never who the certificate says
            options["auth_handler"] = Handshake()
        scheme = "grpc"
        if self.encrypted and certificates is not None:
            scheme = "grpc+tls"
            options |= certificates.options(ask_clients=self.asks)
        if isinstance(self.host, Path):
            self.listener = Listener(handlers, f"grpc+unix://{self.host}", **options)
            return
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.listener = Listener(handlers, f"{scheme}://{host}:{self.port}", **options)
        self.port = self.callers.port = self.listener.port


class Listeners:
    """All that listens for one server; ``shutdown`` ends it.

    Args:
        handlers: what answers.
        settings: where it listens, and with which certificates.
        authenticator: says who calls.
        metrics: counts what is reloaded.
        calls: counts the calls that are under way.
        local: a socket's file, for processes of the same user only; it needs no certificates.

    Raises:
        ConfigError: an address cannot be listened on, or the certificates cannot be used.
    """

    def __init__(
        self,
        handlers: Handlers,
        settings: FlightSettings,
        authenticator: Authenticator,
        metrics: Metrics,
        calls: OpenCalls,
        local: Path | None = None,
    ) -> None:
        self._handlers = handlers
        self._tls = tls = settings.tls
        self._metrics = metrics
        self._stop = threading.Event()
        self._ending: list[threading.Thread] = []
        self._watch: threading.Thread | None = None
        self._stamps = stamps(tls) if tls else ()
        certificates = read_certificates(tls) if tls else None
        asks = tls is not None and tls.client_ca_file is not None
        second = tls.client_port if tls else None
        named = bool(tls and tls.subjects)
        places = [(settings.port, asks and second is None)]
        if second is not None:
            places.append((second, True))
        self._places: list[_Place] = []
        for port, strict in places:
            callers = Callers()
            factory = CallFactory(authenticator, callers, calls, certificates=strict and named)
            self._places.append(
                _Place(settings.host, port, factory, callers, tls is not None, strict, strict and named)
            )
        try:
            for place in self._places:
                self._begin(place, certificates)
        except BaseException:
            self._end_all()
            raise
        if tls is not None:
            self._watch = threading.Thread(target=self._run, args=(tls.reload_s,), name="tls-reload", daemon=True)
            self._watch.start()

    @property
    def ports(self) -> list[int]:
        """All ports that are listened on."""
        return [place.port for place in self._places if not isinstance(place.host, Path)]

    @property
    def port(self) -> int:
        """The port that clients without certificates use, or all, if there is no other."""
        return self._places[0].port

    @property
    def client_port(self) -> int | None:
        """The port that asks for certificates, None if it is the first or there is none."""
        return self._places[1].port if self._tls is not None and self._tls.client_port is not None else None

    def _begin(self, place: _Place, certificates: Certificates | None) -> None:
        try:
            if isinstance(place.host, str):
                _check_free(place.host, place.port)
            place.listen(self._handlers, certificates)
        except (pa.ArrowException, OSError):
            raise ConfigError(
                f"cannot listen on {place.host}:{place.port}.",
                hint="Another program may use the port: set flight.port, or 0 for a free one.",
            ) from None

    def shutdown(self) -> None:
        """Listen no more, and wait for the calls that are under way."""
        self._stop.set()
        if self._watch is not None:
            self._watch.join()
        self._end_all()

    def _end_all(self) -> None:
        for place in self._places:
            if place.listener is not None:
                self._end(place.listener)
        for thread in self._ending:
            thread.join()

    def _end(self, listener: Listener) -> None:
        thread = threading.Thread(target=listener.shutdown, name="listener-end", daemon=True)
        thread.start()
        self._ending = [one for one in self._ending if one.is_alive()] + [thread]

    # --- certificates that change

    def _run(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                self.reload()
            except Exception as error:  # a dead watcher would keep a certificate until it has expired
                LOG.error("tls.reload_failed", error=repr(error))

    def reload(self) -> None:
        """Show other certificates from now on, if the files have changed; calls under way go on to their end."""
        assert self._tls is not None
        found = stamps(self._tls)
        if found == self._stamps:
            return
        try:
            certificates = read_certificates(self._tls)
        except ConfigError as error:
            # they may be half written: the old ones stay, and it looks again
            self._metrics.add("tls_reload_failures")
            LOG.error("tls.files_refused", error=str(error))
            return
        self._stamps = found
        for place in self._places:
            if not place.encrypted:
                continue
            if place.listener is not None:
                self._end(place.listener)
            self._again(place, certificates)
        self._metrics.add("tls_reloads")
        LOG.info("tls.reloaded", certificate=str(self._tls.cert_file))

    def _again(self, place: _Place, certificates: Certificates) -> None:
        """Listen where another listener is just ending, which takes milliseconds."""
        began = time.monotonic()
        while not self._stop.is_set():
            with suppress(pa.ArrowException, OSError):
                place.listen(self._handlers, certificates)
                return
            waited = time.monotonic() - began
            if waited > _RETRY_MAX_S:
                LOG.error("tls.port_lost", port=place.port, for_s=round(waited))
            self._stop.wait(min(max(_RETRY_S, waited / 10), _RETRY_MAX_S))


def _check_free(host: str, port: int) -> None:
    """Raise OSError if the address is taken: gRPC shares a port with another gRPC server without a word."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
