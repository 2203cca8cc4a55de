"""The connection: one gRPC channel, who the user is, and the calls that the rest of the package makes over it.

The rule of this file: credentials go in headers and nowhere else; a login that the server forgot (it was restarted) is
made again once, by itself.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import flight

from tickflight.background import STOPPER, interruptible
from tickflight.errors import (
    TRANSLATED,
    AuthenticationError,
    CancelledError,
    QueryError,
    TickflightError,
    UnavailableError,
    translate,
)
from tickflight.result import Result, Shown
from tickflight.wire.actions import CancelFlightInfoRequest, parse_action_result
from tickflight.wire.codec import Message
from tickflight.wire.flight import FlightEndpoint, FlightInfo, FlightTicket

DEFAULT_ADDRESS = "grpc://127.0.0.1:8815"
T = TypeVar("T")
Pem = bytes | str | os.PathLike[str]
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Credentials:
    """User and password, or a bearer token, or nothing for a server that asks for nothing."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @classmethod
    def told(cls, username: str | None, password: str | None, token: str | None) -> Credentials:
        """Return credentials; what is left out comes from the environment, where nothing contradicts it.

        Raises:
            AuthenticationError: they do not go together.
        """
        if username is None and password is None and token is None:
            token = os.environ.get("TICKFLIGHT_TOKEN") or None
            username = None if token else os.environ.get("TICKFLIGHT_USER") or None
        if username is not None and password is None:
            password = os.environ.get("TICKFLIGHT_PASSWORD") or None
        return cls(username, password, token)

    def __post_init__(self) -> None:
        if self.token is not None and self.username is not None:
            raise AuthenticationError("give either a token or a user and password, not both.")
        if (self.username is None) != (self.password is None):
            raise AuthenticationError("a user needs a password, and a password a user.")


@dataclass(frozen=True)
class Tls:
    """Certificates to trust instead of the system's, and a client's own with its key; all PEM."""

    roots: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def told(cls, roots: Pem | None, cert: Pem | None, key: Pem | None) -> Tls:
        """Return what is given, as PEM or as a file's name; what is left out is in the files of the environment.

        Raises:
            AuthenticationError: a certificate is without its key, or a file cannot be read.
        """
        if cert is None and key is None:
            cert, key = os.environ.get("TICKFLIGHT_TLS_CERT"), os.environ.get("TICKFLIGHT_TLS_KEY")
        if (cert is None) != (key is None):
            raise AuthenticationError("a client's certificate needs its key, and a key its certificate.")
        return cls(_pem(roots or os.environ.get("TICKFLIGHT_TLS_ROOTS")), _pem(cert), _pem(key))

    def options(self) -> dict[str, Any]:
        """Return how pyarrow's client is told."""
        named = {"tls_root_certs": self.roots, "cert_chain": self.cert, "private_key": self.key}
        return {name: value for name, value in named.items() if value is not None}


def _pem(value: Pem | None) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise AuthenticationError(f"cannot read {value}: {error.strerror}.") from None


def normalise_address(address: str) -> str:
    """Return ``address`` as pyarrow wants it: ``host:port`` means ``grpc://host:port``, grpcs means TLS."""
    scheme, _, rest = address.rpartition("://")
    known = {"": "grpc", "grpc": "grpc", "grpc+tcp": "grpc", "tcp": "grpc"}
    known |= {"grpc+tls": "grpc+tls", "grpcs": "grpc+tls", "grpc+unix": "grpc+unix"}
    if scheme not in known or not rest:
        raise QueryError(f"{address!r} is no address: write grpc://host:port or grpc+tls://host:port.")
    return f"{known[scheme]}://{rest.rstrip('/')}"


_RECONNECT_MS = {
    "grpc.initial_reconnect_backoff_ms": 100,
    # also the time that a try to connect may take, which on a busy machine is more than a moment
    "grpc.min_reconnect_backoff_ms": 10_000,
    "grpc.max_reconnect_backoff_ms": 2_000,
}


class Connection:
    """A channel to one server. Threads may share it.

    Raises:
        UnavailableError: the server cannot be reached.
        AuthenticationError: it does not accept the credentials.
    """

    def __init__(
        self, address: str, credentials: Credentials, *, timeout_s: float | None, tls: Tls | None = None
    ) -> None:
        self.address = normalise_address(address)
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._shown = Shown()
        self._tls = tls or Tls()
        self.client = self._connect()
        self._header: tuple[bytes, bytes] | None = None
        if credentials.token is not None:
            self._header = (b"authorization", f"Bearer {credentials.token}".encode())
        try:
            self.login()
        except BaseException:
            self.client.close()
            raise

    def _connect(self, *more: tuple[str, int]) -> flight.FlightClient:
        options = self._tls.options()
        # gRPC would wait longer and longer, up to two minutes, for a server that is back long since
        options["generic_options"] = [*_RECONNECT_MS.items(), *more]
        return flight.FlightClient(self.address, **options)

    def renew(self) -> None:
        """Use another channel from now on: a network that swallows what is sent tells nobody that a channel is dead.

        Calls that are under way go on where they are.
        """
        # without a pool of its own it would be the same connection again
        self.client = self._connect(("grpc.use_local_subchannel_pool", 1))

    def login(self) -> None:
        """Exchange user and password for a bearer token; nothing to do with a token or without a user."""
        if self._credentials.username is None:
            return
        try:
            options = flight.FlightCallOptions(timeout=self._timeout_s)
            header = self.client.authenticate_basic_token(
                self._credentials.username, self._credentials.password, options
            )
        except pa.ArrowNotImplementedError:
            # where certificates say who calls, there is no handshake: the password goes with each call
            user = f"{self._credentials.username}:{self._credentials.password}"
            header = (b"authorization", b"Basic " + base64.b64encode(user.encode()))
        except TRANSLATED as error:
            if "Could not finish writing" in str(error):  # all that pyarrow has to say when nobody answers
                raise UnavailableError(f"cannot log in at {self.address}: nobody answers there.") from None
            raise translate(error) from None
        with self._lock:
            self._header = header

    def options(self, *, timed: bool = True, headers: Headers = ()) -> flight.FlightCallOptions:
        """Return the options of a call: the authorization and other headers and, with ``timed``, the time limit."""
        with self._lock:
            headers = [*headers, self._header] if self._header else [*headers]
        return flight.FlightCallOptions(timeout=self._timeout_s if timed else None, headers=headers)

    def call(self, run: Callable[[flight.FlightCallOptions], T], *, timed: bool = True, headers: Headers = ()) -> T:
        """Return what ``run`` returns; log in again and repeat once if the server forgot the login.

        Raises:
            TickflightError: whatever pyarrow raised, translated.
        """
        try:
            try:
                return run(self.options(timed=timed, headers=headers))
            except flight.FlightUnauthenticatedError:
                if self._credentials.username is None:
                    raise
                self.login()
                return run(self.options(timed=timed, headers=headers))
        except TRANSLATED as error:
            raise translate(error) from None

    def get(self, ticket: bytes, *, timed: bool = False, headers: Headers = (), progress: bool | None = None) -> Result:
        """Return the stream of a ticket; its schema is here when this returns.

        ``timed`` limits the time of the whole result, which a query may take long to send; ``progress`` is the
        result's. Control-C in the main thread stops what runs for the ticket, and so does this thread's ``STOPPER``.

        Raises:
            CancelledError: it was stopped.
        """
        got: list[Result] = []

        def stop() -> None:
            if got:
                got[0].close()
            else:
                self.stop(ticket)

        def run(options: flight.FlightCallOptions) -> Result:
            stream = interruptible(
                lambda: self.client.do_get(flight.Ticket(ticket), options), flight.FlightStreamReader.cancel
            )
            try:
                return Result(stream.to_reader(), stream.cancel, self._shown, progress=progress)
            except BaseException:
                stream.cancel()
                raise

        stopper = STOPPER.get()
        if stopper is not None:
            stopper.add(stop)
        try:
            got.append(self.call(run, timed=timed, headers=headers))
            return got[0]
        except KeyboardInterrupt:
            stop()
            raise

    def stop(self, ticket: bytes) -> None:
        """Stop what runs for a ticket, or will, if the ticket is a statement's; a server that is gone runs nothing."""
        info = FlightInfo(endpoint=(FlightEndpoint(FlightTicket(ticket)),))
        with suppress(TickflightError):
            self.action("CancelFlightInfo", CancelFlightInfoRequest(info))

    def open(self, ticket: bytes, *, headers: Headers = (), anew: bool = False) -> flight.FlightStreamReader:
        """Return the stream of a ticket, batch by batch with what travels beside them; its schema is here by then.

        With ``anew`` it comes over another channel, and the server is asked first whether it answers at all: the
        ticket is then a command, too.

        Raises:
            UnavailableError: it does not answer in time.
        """

        def run(options: flight.FlightCallOptions) -> flight.FlightStreamReader:
            stream = self.client.do_get(flight.Ticket(ticket), options)
            _ = stream.schema
            return stream

        if anew:
            self.renew()
            command = flight.FlightDescriptor.for_command(ticket)
            try:
                self.call(lambda options: self.client.get_schema(command, options), headers=headers)
            except CancelledError as error:
                raise UnavailableError(f"the server does not answer: {error}") from None
        return self.call(run, timed=False, headers=headers)

    def action(self, kind: str, request: Message) -> Message | None:
        """Run an action; return its result, None for one that has none."""

        def run(options: flight.FlightCallOptions) -> Message | None:
            results: Iterator[flight.Result] = self.client.do_action(flight.Action(kind, request.serialize()), options)
            bodies = [result.body.to_pybytes() for result in results]
            return parse_action_result(kind, bodies[0]) if bodies else None

        return self.call(run)

    def close(self) -> None:
        """Close the channel."""
        self.client.close()
