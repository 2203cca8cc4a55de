"""Who calls: Basic or Bearer in the headers of any call, a login that gives a bearer token, and what a call holds.

The rule of this file: a password or token is compared in constant time and is never logged; a call without an identity
ends here, before any handler.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.codec import Message
from tickflight_server.clock import Clock
from tickflight_server.config import AuthSettings
from tickflight_server.errors import AuthenticationError, CancelledError, TimedOutError
from tickflight_server.flight.incoming import chunks
from tickflight_server.flight.status import to_flight

ANONYMOUS = "anonymous"
MIDDLEWARE = "call"
SNAPSHOT_HEADER = "x-tickflight-snapshot"
LABELS_HEADER = "x-tickflight-labels"
COOKIE = "arrow_flight_session_id"
WATCH_INTERVAL_S = 0.01
_WATCH_CALL_S = 0.001  # for each call that is looked after; a hundred are looked at ten times a second
_WATCH_IDLE_S = 1.0  # without calls the thread ends
_HINT = "Log in with user and password, or send 'authorization: Bearer <token>'."


@dataclass
class Session:
    """A login: its token, its user, and when it was last used (monotonic seconds).

    ``shared``: the token is of the configuration, and any number of clients have it.
    """

    token: str
    user: str
    used: float
    shared: bool = False


class Authenticator:
    """Checks credentials and keeps the sessions of those who logged in."""

    def __init__(self, settings: AuthSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # longest unused first
        self._by_basic: dict[str, str] = {}  # user → token, for clients that send Basic with every call

    def identify(self, authorization: str | None, *, login: bool) -> Session:
        """Return the session for an ``authorization`` header; ``login`` makes a new one even if the user has one.

        Raises:
            AuthenticationError: no credentials, or wrong ones.
        """
        if not authorization:
            if self._settings.anonymous:
                return Session("", ANONYMOUS, self._clock.monotonic())
            raise AuthenticationError("this server asks who you are.", hint=_HINT)
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":
            return self._basic(value.strip(), login=login)
        if scheme.lower() == "bearer":
            return self._bearer(value.strip())
        # what stands there is not repeated: it may be a token whose scheme was forgotten
        raise AuthenticationError("the scheme of the authorization header is not known.", hint=_HINT)

    def _basic(self, value: str, *, login: bool) -> Session:
        try:
            # some drivers leave out the padding
            user, colon, password = base64.b64decode(value + "=" * (-len(value) % 4)).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise AuthenticationError("the Basic credentials cannot be read.", hint=_HINT) from None
        if not colon or not self._password_holds(user, password):
            raise AuthenticationError("wrong user or password.", hint="Check both; they are case-sensitive.")
        with self._lock:
            known = self._sessions.get(self._by_basic.get(user, ""))
            if known is not None and not login:
                return self._touch(known)
            session = Session(secrets.token_urlsafe(32), user, self._clock.monotonic())
            self._sessions[session.token] = session
            self._by_basic[user] = session.token
            self._evict()
            return session

    def _password_holds(self, user: str, password: str) -> bool:
        if self._settings.anonymous:
            return True
        expected = self._settings.users.get(user)
        # an unknown user takes as long as a known one
        text = expected.get_secret_value() if expected else secrets.token_urlsafe(8)
        return hmac.compare_digest(text.encode(), password.encode()) and expected is not None

    def _bearer(self, token: str) -> Session:
        with self._lock:
            session = self._sessions.get(token)
            if session is not None:
                if self._clock.monotonic() - session.used <= self._settings.session_idle_s:
                    return self._touch(session)
                self._forget(token)
        for name, secret in self._settings.tokens.items():
            if hmac.compare_digest(secret.get_secret_value().encode(), token.encode()):
                return Session(token, name, self._clock.monotonic(), shared=True)
        if self._settings.anonymous:
            return Session("", ANONYMOUS, self._clock.monotonic())
        raise AuthenticationError("the bearer token is unknown or has ended.", hint="Log in again.")

    def _touch(self, session: Session) -> Session:
        session.used = self._clock.monotonic()
        self._sessions.move_to_end(session.token)
        return session

    def _evict(self) -> None:
        while len(self._sessions) > self._settings.sessions_max:
            self._forget(next(iter(self._sessions)))

    def _forget(self, token: str) -> bool:
        session = self._sessions.pop(token, None)
        if session is not None and self._by_basic.get(session.user) == token:
            del self._by_basic[session.user]
        return session is not None

    def end(self, session: Session) -> bool:
        """End a login; return whether there was one."""
        with self._lock:
            return self._forget(session.token)


class Watcher:
    """Looks after all calls that something can be cancelled for, from one thread."""

    def __init__(self) -> None:
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
        for call in calls:
            call.look()
        return len(calls)


class Call(flight.ServerMiddleware):  # type: ignore[misc]
    """One call: whose it is, what is to be freed when its last byte is sent, and what to stop if the caller goes.

    ``snapshot`` is the id of the pin that its queries are to see, None for the newest rows. ``gone`` says whether the
    caller has gone, and ``peer`` where it called from; the handler sets both. ``limit_s`` is how long its statement may
    run, 0 for ever. ``dictionaries``: the caller takes names as such.
    """

    def __init__(
        self,
        session: Session,
        answer: Mapping[str, str],
        snapshot: str | None = None,
        cookie: str = "",
        watcher: Watcher | None = None,
        *,
        dictionaries: bool = False,
    ) -> None:
        self.session = session
        self.dictionaries = dictionaries
        self.snapshot = snapshot
        self.cookie = cookie
        self.peer = ""
        self.limit_s = 0.0
        self.timed_out = False
        self.gone: Callable[[], bool] = lambda: False
        self._answer = answer
        self._watcher = watcher or Watcher()
        self._held: list[Callable[[], object]] = []
        self._cancel: Callable[[], None] | None = None
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
            self._began, self.limit_s = time.monotonic(), limit_s

    def look(self) -> None:
        """Cancel what there is to cancel, if the caller is gone or time is over; for the watcher."""
        with self._lock:
            if self._ended or self._cancel is None:
                return
            over = 0 < self.limit_s < time.monotonic() - self._began
            self.timed_out = self.timed_out or over
            # more than once, since the engine may be between two steps the first time
            if over or self._stopped or self.gone():
                self._cancel()

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
            if not self.timed_out:
                raise
            raise TimedOutError(
                f"the statement was ended after its time limit of {self.limit_s:g} s.",
                hint="Narrow it by symbol and timestamp, or raise the session's statement_timeout.",
            ) from None

    def received(self, reader: Any) -> Iterator[pa.RecordBatch]:
        """Yield the batches that the caller sends until it ends its stream.

        Raises:
            CancelledError: it went away instead, which to the reader of a stream is an end like the other.
        """
        yield from (chunk.data for chunk in chunks(reader) if chunk.data is not None)
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
        self._watcher.remove(self)
        self._cancel = None
        while self._held:
            self._held.pop()()


class CallFactory(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Makes the ``Call`` of each call, or refuses it."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._watcher = Watcher()

    def start_call(self, info: Any, headers: Mapping[str, list[str]]) -> Call:
        """Identify the caller by the call's headers."""
        value = _first(headers, "authorization")
        try:
            session = self._authenticator.identify(value, login=info.method == flight.FlightMethod.HANDSHAKE)
        except AuthenticationError as error:
            raise to_flight(error) from None
        basic = value.lower().startswith("basic ")
        answer = {"authorization": f"Bearer {session.token}"} if basic else {}
        cookie = _cookie(headers)
        if (session.shared or not session.token) and not cookie:
            # a client that keeps cookies is known again by it over any connection
            answer["set-cookie"] = f"{COOKIE}={secrets.token_urlsafe(24)}; HttpOnly"
        return Call(
            session,
            answer,
            _first(headers, SNAPSHOT_HEADER).strip() or None,
            cookie,
            self._watcher,
            dictionaries=_first(headers, LABELS_HEADER).strip().lower() == "dictionary",
        )


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
