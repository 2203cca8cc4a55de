"""Logins that are alive: found by their token, ended when unused, too old, too many, or taken back.

The rule of this file: what has ended stays ended, and says so to the calls that are under way with it.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tickflight_server.clock import Clock
from tickflight_server.config import AuthSettings
from tickflight_server.identity.rights import Rights


@dataclass(eq=False)
class Session:
    """A login: its token, its user, and when it was last used (monotonic seconds).

    ``shared``: the token is not of one login, and any number of clients may have it. ``rights``: what its user may see
    and do. ``how`` it was proved: password, token, API token, JWT, certificate, anonymous. ``address`` is where its
    first call came from, "" before it. ``until`` is when it ends at the latest (monotonic seconds), ``ended`` whether
    it was ended before. ``proof`` are the records that it stands on.
    """

    token: str
    user: str
    used: float
    rights: Rights
    shared: bool = False
    how: str = "anonymous"
    address: str = ""
    until: float = math.inf
    ended: bool = False
    proof: tuple[object, ...] = ()

    def over(self, now: float) -> bool:
        """Return whether it has ended, at a time."""
        return self.ended or now > self.until


class Logins:
    """The logins of a server: those that a password made, by their tokens, and those of tokens that others made."""

    def __init__(self, settings: AuthSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # longest unused first
        self._users: Counter[str] = Counter()
        self._by_basic: dict[str, str] = {}  # user → token, for clients that send Basic with every call
        self._shared: OrderedDict[bytes, Session] = OrderedDict()  # by the hash of what is sent; longest unused first

    def __len__(self) -> int:
        return len(self._sessions)

    def made(self, session: Session, *, login: bool) -> Session:
        """Keep a login under a new token; without ``login`` return the one that its user has, if there is one."""
        with self._lock:
            known = self._sessions.get(self._by_basic.get(session.user, ""))
            if known is not None and not login and self._alive(known):
                return self._touch(known)
            session.token = secrets.token_urlsafe(32)
            session.until = self._clock.monotonic() + self._settings.session_max_s
            self._sessions[session.token] = session
            self._by_basic[session.user] = session.token
            self._users[session.user] += 1
            while len(self._sessions) > self._settings.sessions_max:
                self._evict()
            return session

    def find(self, token: str) -> Session | None:
        """Return the login of a token, None if there is none or it has ended."""
        with self._lock:
            session = self._sessions.get(token)
            if session is None:
                return None
            if self._alive(session):
                return self._touch(session)
            self._forget(token)
            return None

    def of_user(self, user: str) -> Session | None:
        """Return the newest login of a user who sends a password with each call, None without one."""
        return self.find(self._by_basic.get(user, ""))

    def share(self, kind: str, text: str, session: Session) -> Session:
        """Keep a login by what its clients send: a token that others made, or something else of a kind."""
        with self._lock:
            self._shared[_key(kind, text)] = session
            while len(self._shared) > self._settings.sessions_max:
                # its calls go on: the token is checked again when it comes again
                self._shared.popitem(last=False)
        return session

    def shared(self, kind: str, text: str) -> Session | None:
        """Return the login that was kept by it, None if there is none (any more)."""
        key = _key(kind, text)
        with self._lock:
            session = self._shared.get(key)
            if session is None:
                return None
            if session.over(self._clock.monotonic()):
                del self._shared[key]
                return None
            self._shared.move_to_end(key)
            return session

    def forget_shared(self, how: str) -> None:
        """Check tokens of a kind anew when they come again."""
        with self._lock:
            for key in [key for key, session in self._shared.items() if session.how == how]:
                del self._shared[key]

    def end(self, session: Session) -> bool:
        """End a login; return whether there was one."""
        with self._lock:
            return self._forget(session.token)

    def end_where(self, over: Callable[[Session], bool]) -> int:
        """End the logins that ``over`` says are; return how many."""
        with self._lock:
            ended = [session for session in self._sessions.values() if over(session)]
            for session in ended:
                self._forget(session.token)
            for key, session in list(self._shared.items()):
                if over(session):
                    session.ended = True
                    del self._shared[key]
                    ended.append(session)
        return len(ended)

    def _alive(self, session: Session) -> bool:
        now = self._clock.monotonic()
        return now - session.used <= self._settings.session_idle_s and not session.over(now)

    def _touch(self, session: Session) -> Session:
        session.used = self._clock.monotonic()
        self._sessions.move_to_end(session.token)
        return session

    def _evict(self) -> None:
        """End the longest unused login of whoever has most: one that logs in without end ends only its own."""
        user, most = self._users.most_common(1)[0]
        first = next(token for token, session in self._sessions.items() if most == 1 or session.user == user)
        self._forget(first)

    def _forget(self, token: str) -> bool:
        session = self._sessions.pop(token, None)
        if session is None:
            return False
        session.ended = True
        self._users[session.user] -= 1
        if not self._users[session.user]:
            del self._users[session.user]
        if self._by_basic.get(session.user) == token:
            del self._by_basic[session.user]
        return True


def _key(kind: str, text: str) -> bytes:
    # what is sent as one kind is never found as another
    return hashlib.sha256(f"{kind}\0{text}".encode()).digest()
