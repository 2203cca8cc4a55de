"""What the statements of one client share: options, an open transaction, temporary tables.

The rule of this file: a statement that needs none of these runs on a connection of its own and streams; one that does
runs on the session's, alone, and its result is fetched whole before the next one may run. An engine's transaction
begins with the first statement that writes: until then there is nothing that it could take back.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import duckdb

from tickflight_server.errors import BusyError, InputError, NotFoundError, PermissionDeniedError, TransactionError
from tickflight_server.query.board import Run
from tickflight_server.query.callers import THE_SERVER, Caller
from tickflight_server.query.stopping import interrupt
from tickflight_server.query.trees import CATALOG, quoted

_UNITS_MS: Mapping[str, float] = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_STOP_AGAIN_S = 0.01
_TIMEOUT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*")
PATH = ("workspace", "market", "system")
_SET = re.compile(
    r"SET\s+(?:(?:SESSION|LOCAL)\s+)?(?P<name>[\w.]+|TIME\s+ZONE)\s*(?:=|\bTO\b|(?<=ZONE)\s)\s*(?P<value>.+?)\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
_RESET = re.compile(r"RESET\s+(?:SESSION\s+)?(?P<name>[\w.]+)\s*;?\s*", re.IGNORECASE)
_USE = re.compile(r"USE\s+(?P<value>.+?)\s*;?\s*", re.IGNORECASE | re.DOTALL)
_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("timezone", "time_zone", "time zone"), "timezone"),
    **dict.fromkeys(("statement_timeout", "statement timeout"), "statement_timeout"),
    **dict.fromkeys(("schema", "search_path", "current_schema"), "schema"),
    **dict.fromkeys(("catalog", "current_catalog"), "catalog"),
    "snapshot": "snapshot",
}
OPTIONS = ("catalog", "schema", "timezone", "statement_timeout", "snapshot")


@dataclass(frozen=True)
class Options:
    """A session's options: the schema looked in first, the time zone, milliseconds, and the id of a pin.

    For a statement that runs there is also who asks, and its place on the board; options are the same without them.
    """

    schema: str = "workspace"
    timezone: str = "UTC"
    timeout_ms: float | None = None
    snapshot: str | None = None
    caller: Caller = field(default=THE_SERVER, compare=False)
    run: Run | None = field(default=None, compare=False, repr=False)

    @property
    def search_path(self) -> str:
        """The schemas that a name without one is looked up in, in order, to stand between quotes in a SET."""
        first = [self.schema, *(s for s in PATH if s != self.schema)]
        # a schema's name may have any characters
        return ",".join(quoted(CATALOG, name) for name in first).replace("'", "''")


DEFAULTS = Options()


class Known(Protocol):
    """What there is in the engine's database."""

    def schemas(self) -> set[str]:
        """Return the names of the schemas."""

    def zone(self, name: str) -> str | None:
        """Return a time zone's name as it is written, None if there is none."""


class Seat:
    """A connection that keeps state between statements; one statement at a time.

    Args:
        connect: makes a connection.
        wait_s: longest wait for the statement before.
    """

    def __init__(self, connect: Callable[[], duckdb.DuckDBPyConnection], wait_s: float) -> None:
        self._connect = connect
        self._wait_s = wait_s
        self._lock = threading.RLock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._closed = False
        self.in_transaction = False
        self.has_temporary = False
        self.busy = False

    @contextmanager
    def taken(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hold the connection for one statement.

        Raises:
            BusyError: another statement holds it for too long.
            NotFoundError: the session has ended.
        """
        if not self._lock.acquire(timeout=self._wait_s):
            raise BusyError("another statement of this session is still running.", hint="Wait for it, or cancel it.")
        try:
            if self._closed:
                raise NotFoundError("the session or transaction has ended.", hint="Begin anew.")
            if self._connection is None:
                self._connection = self._connect()
            self.busy = True
            yield self._connection
        finally:
            self.busy = False
            self._lock.release()

    def begin(self) -> None:
        """Begin a transaction, if none is open."""
        with self.taken() as connection:
            if not self.in_transaction:
                connection.execute("BEGIN TRANSACTION")
                self.in_transaction = True

    def end(self, how: str) -> None:
        """End the open transaction by COMMIT or ROLLBACK.

        Raises:
            TransactionError: there is none, in the engine's words, or it cannot be committed.
        """
        with self.taken() as connection:
            self.in_transaction = False
            try:
                if how == "COMMIT":
                    # the engine commits an aborted transaction without a word, and rolls it back
                    connection.execute("SELECT 1").fetchall()
                connection.execute(how)
            except duckdb.Error as error:
                if how == "COMMIT":
                    with suppress(duckdb.Error):
                        connection.execute("ROLLBACK")
                raise TransactionError(str(error).strip()) from None

    def close(self) -> None:
        """Stop what runs, roll back what is open, and let go of the connection and its temporary tables."""
        self._closed = True
        while not self._lock.acquire(timeout=_STOP_AGAIN_S):
            interrupt(self._connection)  # again and again: it may have been between two steps
        try:
            self.in_transaction = False
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(duckdb.Error):  # closing rolls back
                    connection.close()
        finally:
            self._lock.release()


class Transaction:
    """A transaction of the protocol, on a seat of its session, or on one of its own while that is taken."""

    def __init__(self, seat: Seat, *, own: bool) -> None:
        self.seat = seat
        self._own = own
        self.ended = False

    def end(self, *, commit: bool) -> None:
        """Commit or roll back what was written in it.

        Raises:
            BusyError: a statement runs in it for too long; it goes on.
            TransactionError: it cannot be committed; it is rolled back.
        """
        with self.seat.taken():
            self.ended = True
            try:
                if self.seat.in_transaction:
                    self.seat.end("COMMIT" if commit else "ROLLBACK")
            finally:
                if self._own:
                    self.seat.close()


class SqlSession:
    """One client's session.

    Args:
        connect: makes an engine's connection.
        wait_s: longest wait for a statement of the same session.
    """

    def __init__(self, connect: Callable[[], duckdb.DuckDBPyConnection], wait_s: float) -> None:
        self._connect = connect
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self.options = DEFAULTS
        self.home = Seat(connect, wait_s)
        self.ended = False
        self.transaction: Transaction | None = None  # the newest one of the protocol
        self._open: list[Transaction] = []

    @property
    def kept(self) -> bool:
        """Whether anything would be lost if the session ended now."""
        return self.options != DEFAULTS or bool(self._open) or self.home.in_transaction or self.home.has_temporary

    @property
    def busy(self) -> bool:
        """Whether a statement runs on a connection of its own."""
        return self.home.busy or any(t.seat.busy for t in list(self._open))

    def begin(self) -> Transaction:
        """Begin a transaction; nothing is asked of the engine before something is written in it."""
        with self._lock:
            own = self.home.in_transaction or any(t.seat is self.home for t in self._open)
            made = Transaction(Seat(self._connect, self._wait_s) if own else self.home, own=own)
            self._open.append(made)
            self.transaction = made
            return made

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        """End ``transaction``.

        Raises:
            TransactionError: it cannot be committed.
        """
        try:
            transaction.end(commit=commit)
        finally:
            with self._lock:
                if transaction.ended and transaction in self._open:
                    self._open.remove(transaction)
                if transaction.ended and self.transaction is transaction:
                    self.transaction = None

    def holds(self, transaction: Transaction) -> bool:
        """Return whether ``transaction`` has not ended."""
        with self._lock:
            return transaction in self._open

    def seat(self, transaction: Transaction | None) -> Seat | None:
        """Return the seat that a statement has to run on, None if it may run anywhere."""
        if transaction is not None:
            seat = transaction.seat
            return seat if seat.in_transaction or seat.has_temporary else None
        by_text = self.home.in_transaction and not any(t.seat is self.home for t in self._open)
        return self.home if by_text or self.home.has_temporary else None

    def close(self) -> None:
        """End the session: what is open is rolled back, and temporary tables go."""
        with self._lock:
            self.ended = True
            opened, self._open, self.transaction = self._open, [], None
        for transaction in opened:
            transaction.ended = True
            transaction.seat.close()
        self.home.close()

    def set_option(self, name: str, value: object, known: Known) -> None:
        """Set an option; None puts its default back. ``known`` says what there is.

        Raises:
            PermissionDeniedError: there is no such option.
            InputError: it cannot have the value.
        """
        option = _NAMES.get(" ".join(name.lower().split()))
        if option is None:
            raise PermissionDeniedError(
                f"setting {name[:100]!r} is not for users.", hint=f"Those that are: {', '.join(OPTIONS)}."
            )
        if option == "catalog":
            if value not in (None, "", CATALOG):
                raise InputError(f"there is no catalog {str(value)[:100]!r}.", hint=f"It is {CATALOG}.")
            return
        with self._lock:
            self.options = _changed(self.options, option, value, known)

    def told(self) -> dict[str, str | float]:
        """Return the options that have a value."""
        now = self.options
        told: dict[str, str | float] = {"catalog": CATALOG, "schema": now.schema, "timezone": now.timezone}
        if now.timeout_ms is not None:
            told["statement_timeout"] = now.timeout_ms
        if now.snapshot is not None:
            told["snapshot"] = now.snapshot
        return told

    def run_setting(self, sql: str, known: Known) -> None:
        """Take a SET, RESET or USE.

        Raises:
            PermissionDeniedError: it is of a setting that is not for users.
            InputError: it cannot have the value.
        """
        text = re.sub(r"--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL).strip()
        if found := _USE.fullmatch(text):
            self._use(found["value"], known)
        elif found := _RESET.fullmatch(text):
            self.set_option(found["name"], None, known)
        elif found := _SET.fullmatch(text):
            name = " ".join(found["name"].split())
            value = _plain(found["value"])
            if name.lower() == "search_path":
                value = value.split(",")[0].strip()
            if _NAMES.get(name.lower()) == "schema":
                self._use(value, known)
            else:
                self.set_option(name, None if value.lower() == "default" else value, known)
        else:
            raise PermissionDeniedError(
                "this setting is not for users.", hint=f"SET name = 'value' of {', '.join(OPTIONS)}."
            )

    def _use(self, value: str, known: Known) -> None:
        names = [_plain(part) for part in value.split(".")]
        if names[0] == CATALOG and len(names) == 2:
            names = names[1:]
        if names == [CATALOG]:
            names = [DEFAULTS.schema]
        self.set_option("schema", ".".join(names), known)


def _plain(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _changed(now: Options, option: str, value: object, known: Known) -> Options:
    if value is None or value == "":
        field = "timeout_ms" if option == "statement_timeout" else option
        return replace(now, **{field: getattr(DEFAULTS, field)})
    if option == "statement_timeout":
        return replace(now, timeout_ms=_milliseconds(value))
    if not isinstance(value, str):
        raise InputError(f"option {option} is a text.")
    if option == "schema":
        if value not in known.schemas():
            raise InputError(
                f"there is no schema {value[:100]!r}.", hint=f"There are {', '.join(sorted(known.schemas()))}."
            )
        return replace(now, schema=value)
    if option == "timezone":
        zone = known.zone(value)
        if zone is None:
            raise InputError(f"there is no time zone {value[:100]!r}.", hint="Write one like 'Europe/Berlin' or 'UTC'.")
        return replace(now, timezone=zone)
    return replace(now, snapshot=value)


def _milliseconds(value: object) -> float | None:
    """Return a time limit, None for no limit: a number is milliseconds, a text may have a unit."""
    found = _TIMEOUT.fullmatch(str(value)) if not isinstance(value, bool) else None
    if found is None:
        raise InputError(
            f"{str(value)[:100]!r} is no time limit.", hint="Write milliseconds, or '500ms', '5s', '1min'."
        )
    return float(found[1]) * _UNITS_MS[found[2] or "ms"] or None
