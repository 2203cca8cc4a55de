"""The statements that run and those that ended lately: what ``system.queries`` shows, and how they are ended.

The rule of this file: a statement is on the board from before it waits for anything until its call has ended, and then
in the history for a time; what of it is kept in memory is bounded. Another's statement does not exist to a user.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import structlog

from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import NotFoundError
from tickflight_server.metrics import Metrics
from tickflight_server.query.callers import Caller
from tickflight_server.redact import hide_in_error, hide_in_sql

LOG = structlog.get_logger(__name__)
Kind = Literal["query", "write", "ingest", "tail", "live", "replay"]
State = Literal["planning", "queued", "running", "done", "failed", "cancelled"]
TEXT_CHARS_MAX = 2000
ERROR_CHARS_MAX = 500
_TABLES_MAX = 20


class Run:
    """One statement. ``rows`` and ``size`` in bytes are of its result, None where nobody counted them.

    ``asked_us`` is when it came, microseconds since 1970 UTC; ``waited_s`` how long it waited for a place.
    ``parts`` and ``segments`` are how many it opened, with ``rows_opened`` rows. ``end_us`` is None while it goes on.
    """

    __slots__ = (
        "_began",
        "_stop",
        "asked_us",
        "by",
        "caller",
        "end_us",
        "error",
        "exhausted",
        "id",
        "kind",
        "lock",
        "memory",
        "pages",
        "parts",
        "peer",
        "rows",
        "rows_opened",
        "segments",
        "size",
        "state",
        "tables",
        "text",
        "thread",
        "took_s",
        "waited_s",
        "whole",
    )

    def __init__(
        self, caller: Caller, text: str, kind: Kind, peer: str, asked_us: int, stop: Callable[[], None]
    ) -> None:
        self.id = secrets.token_hex(8)
        self.caller = caller
        self.whole = text
        self.text = text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]}…"
        self.kind: Kind = kind
        self.peer = peer
        self.state: State = "planning"
        self.asked_us = asked_us
        self.waited_s = 0.0
        self.took_s = 0.0
        self.end_us: int | None = None
        self.tables: tuple[str, ...] = ()
        self.rows: int | None = None
        self.size: int | None = None
        self.parts = self.segments = self.rows_opened = 0
        self.memory: Callable[[], int | None] = _untold
        self.error: str | None = None
        self.by: str | None = None  # who cancelled it
        self.exhausted: str | None = None  # the limit that it was ended for, when memory was short
        self.thread = self.pages = 0  # the thread that works for it, and the pages that had touched before
        self._stop: Callable[[], None] | None = stop
        self._began = time.monotonic()
        self.lock = threading.Lock()

    @property
    def duration_s(self) -> float:
        """How long it took, or takes until now."""
        return self.took_s if self.end_us is not None else time.monotonic() - self._began

    def reads(self, tables: Iterable[tuple[str, str]]) -> None:
        """Say which tables it names, as (schema or "", table)."""
        named = sorted(f"{schema}.{name}" if schema else name for schema, name in tables)
        self.tables = tuple(named[:_TABLES_MAX])

    def opened(self, parts: int, segments: int, rows: int) -> None:
        """Add what it opened."""
        self.parts += parts
        self.segments += segments
        self.rows_opened += rows

    def sent(self, rows: int, size: int) -> None:
        """Add rows of its result."""
        self.rows = (self.rows or 0) + rows
        self.size = (self.size or 0) + size

    def cancel(self, by: str) -> bool:
        """End it, whatever it does; return whether it had not ended."""
        with self.lock:
            stop = self._stop
            if stop is None:
                return False
            self.by = by
        stop()
        return True

    def ended(self, now_us: int, state: State, error: str | None) -> bool:
        """Note how it ended; return whether it had not before."""
        with self.lock:
            if self._stop is None:
                return False
            self._stop = None
            self.took_s = time.monotonic() - self._began
            self.end_us = now_us
            cancelled = self.by is not None and self.exhausted is None and state != "done"
            self.state = "cancelled" if cancelled else "failed" if self.exhausted else state
            self.error = error[:ERROR_CHARS_MAX] if error else None
            self.memory = _untold
            return True

    def row(self) -> dict[str, Any]:
        """Return it as a row of ``system.queries``."""
        return {
            "id": self.id,
            "user": self.caller.user,
            "peer": self.peer,
            "kind": self.kind,
            "state": self.state,
            "sql": hide_in_sql(self.text),
            "tables": list(self.tables),
            "started": self.asked_us,
            "ended": self.end_us,
            "waited_ms": self.waited_s * 1000,
            "duration_ms": self.duration_s * 1000,
            "parts": self.parts,
            "segments": self.segments,
            "rows_opened": self.rows_opened,
            "rows": self.rows,
            "bytes": self.size,
            "memory_bytes": self.memory(),
            "error": hide_in_error(self.error, self.text) if self.error else None,
            "cancelled_by": self.by,
        }


class Board:
    """The statements of one server, of all its engines.

    Args:
        settings: for how long, and how many, ended ones are kept.
        metrics: where cancelled ones are counted.
    """

    def __init__(self, settings: QuerySettings, metrics: Metrics, clock: Clock) -> None:
        self._history_us = int(settings.history_s * 1e6)
        self._history_max = settings.history_max
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._running: OrderedDict[str, Run] = OrderedDict()
        self._ended: deque[Run] = deque()
        self.told: list[Callable[[Run], None]] = []
        """Are given each statement that has ended, on the thread on which its call ends."""
        self.told_of_cancels: list[Callable[[Caller, Run], None]] = []
        """Are given who cancelled another's statement, and which."""

    def begin(
        self,
        caller: Caller,
        text: str,
        kind: Kind = "query",
        *,
        peer: str = "",
        stop: Callable[[], None] = lambda: None,
    ) -> Run:
        """Put a statement on the board; ``end`` takes it off. ``stop`` ends it, from any thread and more than once."""
        run = Run(caller, text, kind, peer, self._clock.now_us(), stop)
        with self._lock:
            self._running[run.id] = run
        return run

    def end(self, run: Run, state: State = "done", error: str | None = None) -> None:
        """Move a statement to the history; a second call does nothing."""
        now_us = self._clock.now_us()
        if not run.ended(now_us, state, error):
            return
        with self._lock:
            self._running.pop(run.id, None)
            if self._history_max:
                self._ended.append(run)
            self._forget(now_us)
        for tell in self.told:
            _tell(tell, run)
        run.whole = run.text  # the history is bounded

    def drop(self, run: Run) -> None:
        """Take a statement off the board without a trace: it was only planned."""
        if run.ended(self._clock.now_us(), "done", None):
            with self._lock:
                self._running.pop(run.id, None)

    def seen_by(self, caller: Caller) -> Iterator[Run]:
        """Yield what ``caller`` may see: their own statements, or all of them to an admin; the newest first."""
        with self._lock:
            self._forget(self._clock.now_us())
            runs = [*self._running.values(), *self._ended]
        for run in sorted(runs, key=lambda r: r.asked_us, reverse=True):
            if caller.admin or run.caller.user == caller.user:
                yield run

    def cancel(self, caller: Caller, id_: str) -> bool:
        """End a statement; return whether it had not ended yet.

        Raises:
            NotFoundError: there is none with this id, or it is another's.
        """
        with self._lock:
            run = self._running.get(id_) or next((r for r in self._ended if r.id == id_), None)
        if run is None or not (caller.admin or run.caller.user == caller.user):
            raise NotFoundError(
                f"there is no statement {id_[:100]!r}.", hint="Its id is in system.queries, while it runs."
            )
        cancelled = run.cancel(caller.user or "the server")
        if cancelled:
            self._metrics.add("queries_cancelled")
            if run.caller.user != caller.user:
                for tell in self.told_of_cancels:
                    _tell(tell, caller, run)
        return cancelled

    def running(self) -> list[Run]:
        """Return what has not ended."""
        with self._lock:
            return list(self._running.values())

    def _forget(self, now_us: int) -> None:
        """Let go of what ended too long ago, and of what is too many."""
        ended = self._ended
        while ended and (len(ended) > self._history_max or (ended[0].end_us or 0) < now_us - self._history_us):
            ended.popleft()


def _untold() -> int | None:
    return None


def _tell(tell: Callable[..., None], *about: object) -> None:
    """Tell whoever listens, who must not spoil a call."""
    try:
        tell(*about)
    except Exception as failure:
        LOG.error("queries.told_failed", error=repr(failure))
