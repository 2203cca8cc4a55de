"""What is told of who did what: logins, statements, rows that came in, changes, and acts of admins.

The rule of this file: a verb here makes one line and returns at once; who may have to wait for room asks ``admit``
before it begins, and rows that come in never do.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tickflight_server
from tickflight_server.audit.chain import Chain
from tickflight_server.audit.folder import recent_lines
from tickflight_server.audit.line import Line
from tickflight_server.audit.streams import ERROR_CHARS_MAX, Stream
from tickflight_server.audit.writer import Told, Writer
from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import AuditSettings
from tickflight_server.errors import BusyError
from tickflight_server.metrics import Metrics
from tickflight_server.redact import hide, hide_in_error, hide_in_sql

_NAME_CHARS_MAX = 200
_WRITES = frozenset({"write", "ingest"})


class Caller(Protocol):
    """Whose a statement is."""

    @property
    def user(self) -> str:
        """Its name."""


class Statement(Protocol):
    """A statement of somebody's, as it ended or goes on."""

    @property
    def caller(self) -> Caller:
        """Whose it is."""

    @property
    def peer(self) -> str:
        """Where it came from."""

    @property
    def kind(self) -> str:
        """What it is, such as query, write or tail."""

    @property
    def whole(self) -> str:
        """The caller's words."""

    @property
    def state(self) -> str:
        """How it ended."""

    @property
    def tables(self) -> Sequence[str]:
        """What it names."""

    @property
    def rows(self) -> int | None:
        """Rows of its result, None where nobody counted."""

    @property
    def size(self) -> int | None:
        """Bytes of it."""

    @property
    def duration_s(self) -> float:
        """How long it took, or takes until now."""

    @property
    def error(self) -> str | None:
        """What went wrong."""


class Audit:
    """The record of one server; without a ``folder`` nothing is recorded.

    Args:
        folder: where the files are; it is there.
        chains: hash lines: the first one new ones, the others those that earlier keys sealed.
        told: is told what is wrong with the audit and what to do, or that nothing is any more.

    Raises:
        OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        settings: AuditSettings,
        clock: Clock,
        metrics: Metrics,
        folder: Path | None = None,
        chains: Sequence[Chain] = (Chain(),),
        told: Told = lambda *_: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._folder = folder
        self._lock = threading.Lock()
        self._streams: set[Stream] = set()
        self._refusals, self._refusals_from, self._summed = 0, 0.0, 0
        self._dropped = 0
        self.running: Callable[[], Iterable[Statement]] = lambda: ()
        """Gives the statements that go on."""
        self._told_running: frozenset[int] = frozenset()
        self._writer: Writer | None = None
        if folder is not None:
            self._writer = Writer(folder, chains, settings, clock, metrics, self._turn, told)

    @property
    def on(self) -> bool:
        """Whether anything is recorded."""
        return self._writer is not None

    def admit(self) -> None:
        """Let somebody begin what will be recorded.

        Raises:
            BusyError: too much waits to be written, and nothing is to be lost.
        """
        writer, settings = self._writer, self._settings
        if writer is None or writer.waiting < settings.queue_max or settings.when_full == "drop":
            return
        if not writer.wait_for_room(settings.queue_max, settings.wait_s):
            self._metrics.add("audit_refusals")
            raise BusyError(
                f"{settings.queue_max} lines wait to be written to the audit (audit.queue_max).",
                hint="Try again later; the operator finds the cause in system.health and in the server's log.",
            )

    # --- verbs

    def login(self, user: str, how: str, address: str = "", *, refused: str | None = None) -> None:
        """Record that somebody came, or was ``refused`` and why."""
        if self._writer is None:
            return
        if refused is not None:
            with self._lock:
                if not self._counts(self._clock.monotonic()):
                    return
        outcome = "ok" if refused is None else "refused"
        self._put(kind="login", user=_name(user), how=how, address=address or None, outcome=outcome, why=refused)

    def statement(self, statement: Statement) -> None:
        """Record a statement that has ended."""
        if self._writer is not None:
            text = statement.whole
            self._take(lambda: self._of_statement(statement, text))

    def stream(self, user: str, address: str, table: str, producer: bytes = b"") -> Stream:
        """Return what counts the rows of a stream that begins; ``end`` it."""
        stream = Stream(_name(user), address, table, producer.hex(), self._clock, self._end_stream)
        with self._lock:
            self._streams.add(stream)
        return stream

    def act(self, user: str, act: str, address: str = "", *, failed: str | None = None, **about: object) -> None:
        """Record what an admin did, or tried to, and ``about`` it."""
        outcome = "ok" if failed is None else "failed"
        said = {name: hide(value) if isinstance(value, str) else value for name, value in about.items()}
        why = None if failed is None else _cut(hide(failed))
        self._put(kind="admin", user=_name(user), address=address or None, act=act, outcome=outcome, error=why, **said)

    def cancel(self, by: Caller, statement: Statement) -> None:
        """Record that ``by`` ended a statement of another's."""
        self.act(by.user, "cancel", of=_name(statement.caller.user), text=_cut(hide_in_sql(statement.whole)))

    def server(self, act: str, **about: object) -> None:
        """Record that the server starts or stops."""
        self._put(kind="server", act=act, pid=os.getpid(), version=tickflight_server.__version__, **about)

    # --- reading

    def recent(self) -> list[Line]:
        """Return the newest lines, the newest first, what was told before this call among them."""
        if self._writer is None or self._folder is None:
            return []
        self._writer.drain()
        return recent_lines(self._folder, self._settings.recent_lines)

    def close(self) -> None:
        """Record what still goes on, write everything, and end."""
        if self._writer is None:
            return
        with self._lock:
            left = list(self._streams)
        for stream in left:
            stream.fail(RuntimeError("the server stops"))
            stream.end()
        self._turn()
        self._writer.close()

    # --- making lines

    def _put(self, **fields: object) -> None:
        self._take(fields)

    def _take(self, said: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        writer = self._writer
        if writer is None:
            return
        if self._settings.when_full == "drop" and writer.waiting >= self._settings.queue_max:
            self._metrics.add("audit_dropped")
            with self._lock:
                self._dropped += 1
            return
        writer.put(said)

    def _of_statement(self, statement: Statement, text: str, *, goes_on: bool = False) -> Mapping[str, Any]:
        limit = self._settings.text_bytes_max
        shown = hide_in_sql(text)
        data = text.encode(errors="replace")
        long = len(data) > limit
        error = statement.error
        return {
            "kind": "change" if statement.kind in _WRITES else "query",
            "user": _name(statement.caller.user),
            "address": statement.peer or None,
            "way": statement.kind,
            "text": shown.encode(errors="replace")[:limit].decode(errors="ignore") if long else shown,
            # of secrets not even a hash is kept
            "text_bytes": len(data) if long else None,
            "text_sha256": hashlib.sha256(data).hexdigest() if long and shown == text else None,
            "tables": sorted(statement.tables),
            "rows": statement.rows,
            "bytes": statement.size,
            "ms": round(statement.duration_s * 1000, 3),
            "outcome": "running" if goes_on else statement.state,
            "error": _cut(hide_in_error(error, text)) if error else None,
        }

    def _end_stream(self, stream: Stream) -> None:
        with self._lock:
            self._streams.discard(stream)
        self._put(**stream.line(self._clock.monotonic()))

    def _counts(self, now: float) -> bool:
        """Return whether a refused login has a line of its own; what has none is summed up."""
        if now - self._refusals_from >= 1.0:
            self._refusals, self._refusals_from = 0, now
        self._refusals += 1
        if self._refusals <= self._settings.refused_per_s:
            return True
        self._summed += 1
        return False

    def _turn(self) -> None:
        """Make the lines that come by time; called by the writer's thread, about once a second."""
        now = self._clock.monotonic()
        with self._lock:
            summed, self._summed = self._summed, 0
            dropped, self._dropped = self._dropped, 0
            streams = list(self._streams)
        if summed:
            self._put(kind="login", outcome="refused", count=summed, why="more of them in this second")
        if dropped:
            self._put(kind="dropped", lines=dropped)
        for stream in streams:
            if stream.is_due(now, self._settings.running_after_s, self._settings.totals_interval_s):
                self._put(**stream.line(now, goes_on=True))
        long = [one for one in self.running() if one.duration_s > self._settings.running_after_s]
        for statement in long:
            if id(statement) not in self._told_running:
                self._put(**self._of_statement(statement, statement.whole, goes_on=True))
        self._told_running = frozenset(map(id, long))


def _name(text: str) -> str | None:
    """Return the name of a user as it is recorded, which may be anything if it was refused; None for nobody's."""
    return hide(text[:_NAME_CHARS_MAX]) or None


def _cut(text: str) -> str:
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[:ERROR_CHARS_MAX]}…"


NO_AUDIT = Audit(AuditSettings(), SystemClock(), Metrics())
"""Records nothing."""
