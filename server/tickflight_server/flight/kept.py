"""What the server keeps of statements between calls: prepared ones, and results that wait to be fetched.

The rule of this file: what runs for a ticket can be stopped by it, and nothing runs for one that was cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from tickflight_server.errors import CancelledError, StatementError
from tickflight_server.flight.auth import Call
from tickflight_server.flight.sessions import Asked
from tickflight_server.query.plan import Plan
from tickflight_server.query.shares import Share
from tickflight_server.query.statement import Statement
from tickflight_server.query.writing import Writing

Row = tuple[object, ...]


@dataclass
class Prepared:
    """A prepared statement and its text, its parameters and types, what it runs in, and the rows bound to it last."""

    statement: Statement | Writing
    parameters: tuple[str, ...]
    types: pa.Schema
    asked: Asked
    text: str = ""
    rows: list[Row] = field(default_factory=list)


@dataclass(eq=False)
class Planned:
    """A result that waits to be fetched: of a query to be run, or the ``result`` of what was run already.

    ``plan`` is used once, when it is fresh; after that it is made anew. ``share`` is the part of a scan that it is.
    """

    asked: Asked
    statement: Statement | None = None
    plan: Plan | None = None
    made: float = 0.0
    share: Share | None = None
    result: pa.Table | None = None
    text: str = ""
    cancelled: bool = False
    running: set[Call] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def runs(self, call: Call) -> None:
        """Note that ``call`` runs it, until the call has ended.

        Raises:
            CancelledError: nothing more is to run.
        """
        with self.lock:
            if self.cancelled:
                raise CancelledError("the query was cancelled.")
            self.running.add(call)
        call.hold(lambda: self.ran(call))

    def ran(self, call: Call) -> None:
        """Forget ``call``."""
        with self.lock:
            self.running.discard(call)

    def cancel(self) -> None:
        """Stop what runs, and let nothing more run."""
        with self.lock:
            self.cancelled = True
            running = list(self.running)
        for call in running:
            call.stop()


@dataclass(frozen=True)
class Found:
    """The answer to GetFlightInfo: the result's schema, a ticket for each endpoint, and its rows, -1 = unknown."""

    schema: pa.Schema
    tickets: tuple[bytes, ...]
    rows: int = -1
    expires: bool = False


def rows_bound(prepared: Prepared) -> Sequence[Row]:
    """Return the rows of values to run a statement with, one without values if it has no parameters.

    Raises:
        StatementError: nothing is bound.
    """
    if not prepared.parameters:
        return [()]
    if not prepared.rows:
        raise StatementError(
            f"no values are bound to {', '.join('$' + n for n in prepared.parameters)}.", hint="Bind a row first."
        )
    return prepared.rows


def in_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return ``batch`` in the types of ``schema``.

    Raises:
        StatementError: it has others.
    """
    try:
        return batch.cast(schema)
    except (pa.ArrowException, ValueError):
        raise StatementError(
            "the rows of values give results of different types.", hint="Cast the parameters, such as ?::DOUBLE."
        ) from None


def by_name(names: tuple[str, ...], row: Row) -> dict[str, object]:
    """Return a row's values by their parameters' names."""
    return dict(zip(names, row, strict=True))
