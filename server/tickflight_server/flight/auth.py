"""Who calls, by the headers of any call or its certificate; and what a call holds until it has ended.

The rule of this file: a call without an identity ends here, before any service; one whose login ends, ends with it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.codec import Message
from tickflight_server.errors import (
    AuthenticationError,
    CancelledError,
    ResourceExhaustedError,
    TimedOutError,
)
from tickflight_server.flight.incoming import chunks
from tickflight_server.flight.open_calls import OpenCalls
from tickflight_server.flight.peers import Callers, peer_address
from tickflight_server.flight.status import to_flight
from tickflight_server.identity.authenticator import Authenticator
from tickflight_server.identity.rights import Rights
from tickflight_server.identity.sessions import Session
from tickflight_server.query.board import Run
from tickflight_server.query.callers import Caller

MIDDLEWARE = "call"
SNAPSHOT_HEADER = "x-tickflight-snapshot"
LABELS_HEADER = "x-tickflight-labels"
UNKNOWN = Session("", "", 0.0, Rights((), frozenset()), ended=True)
"""Whose a call is until its certificate was looked at: nobody's."""
COOKIE = "arrow_flight_session_id"
WATCH_INTERVAL_S = 0.01
_WATCH_CALL_S = 0.001  # for each call that is looked after; a hundred are looked at ten times a second
_STALLED_S = 2.0  # a cancelled call that has not ended after it has a caller who does not read
_WATCH_IDLE_S = 1.0  # without calls the thread ends
# what else helps against a limit of time
_RAISE = {
    "statement_timeout": ", or raise the session's statement_timeout",
    "query.statement_timeout_s": ", or raise the session's statement_timeout",
}


class Watcher:
    """Looks after all calls that something can be cancelled for, from one thread."""

    def __init__(self, refresh: Callable[[], object] = lambda: None) -> None:
        self.refresh = refresh  # finds out which logins have ended
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        """Look after ``call`` until it has ended."""
        with self._lock:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="call-watch", daemon=True)
                self._thread.start()
        self._some.set()

    def remove(self, call: Call) -> None:
        """Forget ``call``."""
        with self._lock:
            self._calls.discard(call)
            if not self._calls:
                self._some.clear()

    def _run(self) -> None:
        while True:
            if not self._some.wait(_WATCH_IDLE_S):
                with self._lock:
                    if not self._calls:
                        self._thread = None
                        return
            time.sleep(max(WATCH_INTERVAL_S, self._look() * _WATCH_CALL_S))

    def _look(self) -> int:
        # in a method of its own: what an ended call holds is not held here while the thread waits
        with self._lock:
            calls = list(self._calls)
        self.refresh()
        for call in calls:
            call.look()
        return len(calls)


class Call(flight.ServerMiddleware):  # type: ignore[misc]
    """One call: whose it is, what is to be freed when its last byte is sent, and what to stop if the caller goes.

    ``snapshot`` is the id of the pin that its queries are to see, None for the newest rows. ``gone`` says whether the
    caller has gone, and ``peer`` where it called from; the handler sets both. ``limit_s`` is how long its statement may
    run, 0 for ever. ``dictionaries``: the caller takes names as such. ``run`` is its statement on the board, if it has
    one; once it has ended ``error`` is how, and ``left`` whether its caller had gone.
    """

    def __init__(
        self,
        session: Session,
        answer: Mapping[str, str],
        snapshot: str | None = None,
        cookie: str = "",
        watcher: Watcher | None = None,
        callers: Callers | None = None,
        *,
        dictionaries: bool = False,
    ) -> None:
        self.session = session
        self.callers = callers
        self.dictionaries = dictionaries
        self.snapshot = snapshot
        self.cookie = cookie
        self.peer = ""
        self.limit_s = 0.0
        self.limit_name = ""
        self.timed_out = False
        self.logged_out = False
        self.run: Run | None = None
        self.error: BaseException | None = None
        self.left = False
        self.gone: Callable[[], bool] = lambda: False
        self._answer = answer
        self._watcher = watcher or Watcher()
        self._held: list[Callable[[], object]] = []
        self._cancel: Callable[[], None] | None = None
        self._cancelled = 0.0
        self._give_up: Callable[[], object] | None = None
        self._began = time.monotonic()
        self._ended = False
        self._stopped = False
        self._lock = threading.Lock()  # the call does not end while somebody asks whether its caller is gone

    @property
    def session_key(self) -> str:
        """What its session is found by: the token of its login, else its cookie, else where it came from."""
        if self.session.token and not self.session.shared:
            return self.session.token
        return f"{self.session.user} {self.cookie}" if self.cookie else self.peer_key

    @property
    def peer_key(self) -> str:
        """What the session of a client that keeps no cookies is found by."""
        return f"{self.session.user} {self.peer}"

    def hold(self, close: Callable[[], object]) -> None:
        """Run ``close`` when the call has ended, in whatever way."""
        self._held.append(close)

    def hold_while_read(self, close: Callable[[], object]) -> None:
        """Run ``close`` when the call has ended, or soon after it was cancelled and its caller reads nothing.

        It is run from another thread then, and once more at the end.
        """
        self._give_up = close
        self.hold(close)

    def watch(self, cancel: Callable[[], None]) -> None:
        """Run ``cancel`` if the caller goes away before the call has ended, or its time is over.

        It stands in place of an earlier one, and is run as often as it takes. gRPC tells of a caller that went only
        when there is something to send, which a query may take hours for.
        """
        first, self._cancel = self._cancel is None, cancel
        if first:
            self._watcher.add(self)

    def restart(self, limit_s: float) -> None:
        """Count the time limit from now on: of a stream without an end, each step has one of its own; 0 is none."""
        with self._lock:
            self._began, self.limit_s, self._cancelled = time.monotonic(), limit_s, 0.0

    def look(self) -> None:
        """Cancel what there is to cancel, if the caller is gone or time is over; for the watcher."""
        with self._lock:
            if self._ended or self._cancel is None:
                return
            over = 0 < self.limit_s < time.monotonic() - self._began
            self.timed_out = self.timed_out or over
            self.logged_out = self.session.over(time.monotonic())
            # more than once, since the engine may be between two steps the first time
            if over or self.logged_out or self._stopped or self.gone():
                self._cancel()
                self._cancelled = self._cancelled or time.monotonic()
                if time.monotonic() - self._cancelled > _STALLED_S and self._give_up is not None:
                    # its thread does not learn of it: the caller reads nothing, and gRPC waits for that
                    self._give_up()
                    self._give_up = None

    def stop(self) -> None:
        """Cancel what there is to cancel, now and whatever comes until the call has ended."""
        self._stopped = True
        self.look()

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Say of a statement that was cancelled in the block because its time was over that it was."""
        try:
            yield
        except CancelledError:
            self.check()
            exhausted = self.run.exhausted if self.run is not None else None
            if exhausted is not None:
                raise ResourceExhaustedError(
                    "the statement was ended, since memory was short and it had taken most.",
                    hint="Narrow it by symbol and timestamp, or ask for fewer rows, columns or groups.",
                    limit=exhausted,
                ) from None
            if not self.timed_out:
                raise
            raise TimedOutError(
                f"the statement was ended after its time limit of {self.limit_s:g} s ({self.limit_name}).",
                hint=f"Narrow it by symbol and timestamp{_RAISE.get(self.limit_name, '')}.",
            ) from None

    def check(self) -> None:
        """Go on only while the login is good.

        Raises:
            AuthenticationError: it has ended since the call began.
        """
        self._watcher.refresh()
        if self.session.over(time.monotonic()):
            raise AuthenticationError("the login has ended while the call was under way.", hint="Log in again.")

    def received(self, reader: Any) -> Iterator[pa.RecordBatch]:
        """Yield the batches that the caller sends until it ends its stream.

        Raises:
            CancelledError: it went away instead, which to the reader of a stream is an end like the other.
        """
        for chunk in chunks(reader):
            self.check()
            if chunk.data is not None:
                yield chunk.data
        if self.gone():
            raise CancelledError("the caller went away before it had sent all.")

    def reply(self, writer: Any, message: Message) -> None:
        """Send ``message`` on the way back of a stream.

        Raises:
            CancelledError: nobody is there to take it.
        """
        try:
            writer.write(pa.py_buffer(message.serialize()))
        except (OSError, pa.ArrowException):
            raise CancelledError("the caller went away before it was answered.") from None

    def sending_headers(self) -> Mapping[str, str]:
        """Return the headers of the answer."""
        return self._answer

    def call_completed(self, exception: BaseException | None) -> None:
        """Free what the call held."""
        with self._lock:
            self._ended = True
            self.error, self.left = exception, self.gone()
        self._watcher.remove(self)
        self._cancel = self._give_up = None
        while self._held:
            self._held.pop()()
        self.error = None  # its traceback leads to readers that lead here, over C++, where no collector sees the circle


def caller_of(call: Call) -> Caller:
    """Return who asks."""
    return Caller(call.session.user, call.session.rights)


class CallFactory(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Makes the ``Call`` of each call, or refuses it.

    Args:
        callers: say where the call that is beginning came from.
        open_calls: counts it.
        certificates: a call without credentials is its certificate's; ``arrived`` finds out whose that is.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        callers: Callers,
        open_calls: OpenCalls,
        *,
        certificates: bool = False,
    ) -> None:
        self._authenticator = authenticator
        self._callers = callers
        self._open_calls = open_calls
        self._certificates = certificates
        self._watcher = Watcher(authenticator.refresh)

    def start_call(self, info: Any, headers: Mapping[str, list[str]]) -> Call:
        """Identify the caller by the call's headers."""
        value = _first(headers, "authorization")
        try:
            if self._certificates and not value:
                session = None
            else:
                login = info.method == flight.FlightMethod.HANDSHAKE
                session = self._authenticator.identify(value, login=login, addresses=self._callers.addresses)
            caller = session.user if session else ""
            self._open_calls.enter(caller)
        except Exception as error:
            raise to_flight(error) from None
        basic = value.lower().startswith("basic ")
        answer = {"authorization": f"Bearer {session.token}"} if basic and session else {}
        cookie = _cookie(headers)
        if (session is None or session.shared or not session.token) and not cookie:
            # a client that keeps cookies is known again by it over any connection
            answer["set-cookie"] = f"{COOKIE}={secrets.token_urlsafe(24)}; HttpOnly"
        call = Call(
            session or UNKNOWN,
            answer,
            _first(headers, SNAPSHOT_HEADER).strip() or None,
            cookie,
            self._watcher,
            self._callers,
            dictionaries=_first(headers, LABELS_HEADER).strip().lower() == "dictionary",
        )
        call.hold(lambda: self._open_calls.leave(caller))
        return call


def arrived(call: Call, context: Any, authenticator: Authenticator) -> None:
    """Tell ``call`` what only its handler knows: where it came from, and whose certificate it shows.

    Raises:
        AuthenticationError: the certificate is of nobody who is known.
    """
    call.gone = context.is_cancelled
    call.peer = context.peer()
    session = call.session
    if session is UNKNOWN:
        name = context.peer_identity().decode(errors="replace")
        call.session = session = authenticator.by_certificate(name, peer_address(call.peer))
    if call.callers is not None:
        call.callers.let_in(call.peer)
    if not session.address:
        authenticator.arrived(session, peer_address(call.peer))


def _first(headers: Mapping[str, list[str]], name: str) -> str:
    """Return a header's first value, "" if there is none."""
    values = headers.get(name)
    return str(values[0]) if values else ""


def _cookie(headers: Mapping[str, list[str]]) -> str:
    """Return the session cookie of the headers, "" if there is none."""
    for header in headers.get("cookie", ()):
        for part in str(header).split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                return value.strip()[:200]
    return ""


class Handshake(flight.ServerAuthHandler):  # type: ignore[misc]
    """Answers a handshake with one message; the token goes in the headers, by ``Call``."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Answer; the credentials were checked already."""
        outgoing.write(b"")

    def is_valid(self, token: bytes) -> bytes:
        """Return no peer identity: the middleware knows who it is."""
        return b""
