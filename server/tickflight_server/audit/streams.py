"""Rows that come in by a stream: one line of totals when it ends, and from time to time while it goes on.

The rule of this file: a batch costs a few additions, and nobody waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tickflight_server.clock import Clock
from tickflight_server.redact import hide

ERROR_CHARS_MAX = 500


class Answer(Protocol):
    """What became of a batch."""

    @property
    def rows(self) -> int:
        """Rows that are stored."""

    @property
    def rejected(self) -> int:
        """Rows that do not fit the table."""

    @property
    def repeated(self) -> int:
        """Rows whose keys are stored already."""

    @property
    def duplicate(self) -> bool:
        """Whether the batch was taken before."""


class Stream:
    """What came in by one stream; ``end`` makes its last line. For one thread at a time."""

    def __init__(
        self, user: str | None, address: str, table: str, producer: str, clock: Clock, ended: Callable[[Stream], None]
    ) -> None:
        self._about = {"user": user, "address": address or None, "tables": [table], "producer": producer or None}
        self._clock = clock
        self._ended = ended
        self._began = self._told = clock.monotonic()
        self._first = True
        self._over = False
        self._error: str | None = None
        self.batches = self.rows = self.rejected = self.repeated = self.duplicates = self.failed = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            self.fail(error)
        self.end()

    def took(self, answer: Answer) -> int:
        """Count a batch that was answered; return its rows that are stored."""
        self.batches += 1
        self.rows += 0 if answer.duplicate else answer.rows
        self.rejected += answer.rejected
        self.repeated += answer.repeated
        self.duplicates += answer.duplicate
        return answer.rows

    def refused(self) -> None:
        """Count a batch that was answered with an error."""
        self.batches += 1
        self.failed += 1

    def fail(self, error: BaseException) -> None:
        """Say what ends the stream; the first counts."""
        self._error = self._error or hide(str(error) or type(error).__name__)[:ERROR_CHARS_MAX]

    def end(self) -> None:
        """Make the last line; a second call does nothing."""
        if not self._over:
            self._over = True
            self._ended(self)

    def is_due(self, now: float, first_s: float, next_s: float) -> bool:
        """Return whether a line of what it did so far is to be made."""
        return not self._over and now - self._told > (first_s if self._first else next_s)

    def line(self, now: float, *, goes_on: bool = False) -> Mapping[str, Any]:
        """Return what a line says: the totals since the stream began."""
        self._told, self._first = now, False
        return {
            "kind": "ingest",
            **self._about,
            "batches": self.batches,
            "rows": self.rows,
            "rejected": self.rejected,
            "repeated": self.repeated,
            "duplicates": self.duplicates,
            "failed": self.failed,
            "ms": round((now - self._began) * 1000, 3),
            "outcome": "running" if goes_on else "failed" if self._error else "done",
            "error": self._error,
        }
