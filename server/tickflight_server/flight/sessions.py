"""The sessions of a server's callers, and the transactions in them.

The rule of this file: a session is found by the bearer token, else by the cookie, else by the connection that the call
came over. What nobody uses any more ends by itself, rolled back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf

import structlog

from tickflight.wire.actions import (
    GetSessionOptionsResult,
    SetSessionOptionsRequest,
    SetSessionOptionsResult,
)
from tickflight.wire.enums import ErrorValue
from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import CrowdedError, InputError, NotFoundError, PermissionDeniedError, ServerError
from tickflight_server.flight.auth import Call, caller_of
from tickflight_server.flight.handles import Handles
from tickflight_server.query.engine import Engine
from tickflight_server.query.limited import statement_limit
from tickflight_server.query.session import SqlSession, Transaction
from tickflight_server.store import PinBoard

LOG = structlog.get_logger(__name__)
_SWEEP_S = 1.0


@dataclass(eq=False)
class _Kept:
    session: SqlSession
    used: float
    user: str = ""
    idle_s: float = inf


@dataclass(frozen=True)
class Asked:
    """What a call's statements run in: a session, a transaction of it, and the cut that a pin holds.

    ``cuts`` are the last ``seq`` by table that the pin ``pin`` holds, None without one. ``dictionaries``: the
    caller takes names as such.
    """

    session: SqlSession
    transaction: Transaction | None
    pin: str | None
    cuts: Mapping[str, int] | None
    dictionaries: bool = False


@dataclass(eq=False)
class _Open:
    session: SqlSession
    transaction: Transaction
    key: str
    used: float


class Sessions:
    """Finds the session of a call, and ends those that are idle.

    Args:
        engine: makes them.
        pins: the snapshots that clients hold.
        settings: limits.
    """

    def __init__(self, engine: Engine, pins: PinBoard, settings: QuerySettings, clock: Clock) -> None:
        self._engine = engine
        self._pins = pins
        self._settings = settings
        self._metrics = engine.store.metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # longest unused first
        self._transactions: Handles[_Open] = Handles(
            "transaction", clock, most=settings.sessions_max, idle_s=settings.session_idle_s, ended=_roll_back
        )
        self._swept: list[Callable[[], None]] = [self._transactions.sweep]
        self._stop = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="session-sweep", daemon=True)
        self._sweeper.start()

    def close(self) -> None:
        """End all sessions."""
        self._stop.set()
        self._sweeper.join()
        with self._lock:
            kept, self._kept = list(self._kept.values()), OrderedDict()
        for one in kept:
            one.session.close()

    def also_sweep(self, sweep: Callable[[], None]) -> None:
        """Call ``sweep`` whenever sessions are looked through."""
        self._swept.append(sweep)

    def of(self, call: Call) -> SqlSession:
        """Return the session of ``call``, a new one if it has none.

        Raises:
            CrowdedError: its user has as many with something in them as may be (``limits.sessions_max``).
        """
        now = self._clock.monotonic()
        ended: list[SqlSession] = []
        with self._lock:
            key = call.session_key
            kept = self._kept.get(key)
            if kept is None and call.cookie:
                # the first calls of a client that keeps cookies came without one
                kept = self._kept.pop(call.peer_key, None)
            if kept is None:
                limits = call.session.rights.limits
                ended += self._make_room(call.session.user, limits.sessions_max)
                kept = _Kept(self._engine.session(), now, call.session.user, limits.session_idle_s or inf)
            kept.used = now
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > self._settings.sessions_max:
                ended.append(self._kept.popitem(last=False)[1].session)
        for session in ended:
            session.close()
        return kept.session

    def _make_room(self, user: str, most: int | None) -> list[SqlSession]:
        """Take out sessions of ``user`` that hold nothing until there is room for one more; under the lock.

        Raises:
            CrowdedError: there is none.
        """
        if most is None:
            return []
        theirs = [key for key, kept in self._kept.items() if kept.user == user]
        left = len(theirs) - most + 1
        idle = [key for key in theirs if not self._kept[key].session.kept and not self._kept[key].session.busy]
        if left > len(idle):
            self._metrics.add("sessions_refused")
            raise CrowdedError(
                f"{len(theirs)} sessions of yours are open, which is what your roles let you have.",
                hint="Close a connection; a session that is unused for long ends by itself.",
                limit="limits.sessions_max",
            )
        return [self._kept.pop(key).session for key in idle[: max(0, left)]]

    def asked(self, call: Call, transaction_id: bytes | None = None) -> Asked:
        """Return what a statement of ``call`` runs in.

        Raises:
            NotFoundError: there is no such transaction or pin, or it has ended.
        """
        session, transaction = self.of(call), None
        if transaction_id:
            opened = self._transactions.get(call.session.user, transaction_id)
            opened.used = self._clock.monotonic()
            session, transaction = opened.session, opened.transaction
            if transaction.ended:
                raise NotFoundError("the transaction has ended.", hint="Begin a new one.")
        pin = call.snapshot or session.options.snapshot
        cuts = None if pin is None else self._pins.get(pin).cuts
        asked = Asked(session, transaction, pin, cuts, call.dictionaries)
        self.limit(call, asked)
        return asked

    def limit(self, call: Call, asked: Asked) -> None:
        """Give ``call`` the time limit of the session that its statement runs in."""
        timeout_ms = asked.session.options.timeout_ms
        call.limit_s, call.limit_name = statement_limit(caller_of(call), timeout_ms, self._settings.statement_timeout_s)

    def cuts(self, asked: Asked) -> Mapping[str, int] | None:
        """Return the cut to run under now: its pin may have ended since.

        Raises:
            NotFoundError: it has.
        """
        return None if asked.pin is None else self._pins.get(asked.pin).cuts

    # --- transactions

    def begin(self, call: Call) -> bytes:
        """Begin a transaction; return its id."""
        session = self.of(call)
        opened = _Open(session, session.begin(), call.session_key, self._clock.monotonic())
        return self._transactions.add(call.session.user, opened)

    def end(self, call: Call, transaction_id: bytes, *, commit: bool) -> None:
        """Commit or roll back a transaction.

        Raises:
            NotFoundError: there is no such transaction, or it has ended.
            TransactionError: it cannot be committed; it is rolled back.
        """
        opened = self._transactions.get(call.session.user, transaction_id)
        if opened.transaction.ended:
            raise NotFoundError("the transaction has ended, and was rolled back.", hint="Begin a new one.")
        try:
            opened.session.end(opened.transaction, commit=commit)
        finally:
            if not opened.session.holds(opened.transaction):
                self._transactions.remove(call.session.user, transaction_id)

    # --- options

    def set_options(self, call: Call, request: SetSessionOptionsRequest) -> SetSessionOptionsResult:
        """Set options; the answer names those that could not be."""
        session = self.of(call)
        errors: dict[str, ErrorValue] = {}
        for name, value in request.session_options.items():
            try:
                if name.lower() == "snapshot" and value:
                    self._pins.get(str(value))
                session.set_option(name, value, self._engine.workspace)
            except PermissionDeniedError:
                errors[name] = ErrorValue.INVALID_NAME
            except (InputError, NotFoundError):
                errors[name] = ErrorValue.INVALID_VALUE
        return SetSessionOptionsResult(errors)

    def options(self, call: Call) -> GetSessionOptionsResult:
        """Return the options that have a value."""
        return GetSessionOptionsResult(self.of(call).told())

    def end_session(self, call: Call) -> None:
        """End the session of ``call``: what is open in it is rolled back."""
        with self._lock:
            kept = self._kept.pop(call.session_key, None)
        if kept is not None:
            kept.session.close()

    # --- what nobody uses any more

    def _sweep(self) -> None:
        while not self._stop.wait(_SWEEP_S):
            try:
                self.sweep()
            except Exception as error:  # a dead sweeper would let sessions pile up
                LOG.error("sessions.sweep_failed", error=repr(error))

    def sweep(self) -> None:
        """End sessions and written transactions that are idle, and forget sessions that hold nothing."""
        for sweep in self._swept:
            sweep()
        now = self._clock.monotonic()
        ended: list[SqlSession] = []
        with self._lock:
            for key, kept in list(self._kept.items()):
                if kept.session.busy:
                    kept.used = now
                idle = now - kept.used
                if idle > min(self._settings.session_idle_s, kept.idle_s) or (
                    idle > _SWEEP_S and not kept.session.kept
                ):
                    del self._kept[key]
                    ended.append(kept.session)
        for session in ended:
            session.close()
        for opened in self._transactions.values():
            seat = opened.transaction.seat
            if seat.busy:
                opened.used = now
            if (
                seat.in_transaction
                and not opened.transaction.ended
                and now - opened.used > self._settings.transaction_idle_s
            ):
                LOG.warning("transaction.idle", seconds=round(now - opened.used))
                opened.session.end(opened.transaction, commit=False)
        self._transactions.sweep(lambda opened: opened.transaction.ended)


def _roll_back(opened: _Open) -> None:
    """End a transaction whose id is no longer known, so that nobody else can."""
    if not opened.transaction.ended:
        with suppress(ServerError):  # a statement of it still runs: it ends with the session
            opened.session.end(opened.transaction, commit=False)
