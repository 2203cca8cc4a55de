"""A replay: the stored rows of several tables as one stream in order of time, for backtests.

The rule of this file: all of a replay is of one snapshot, so that two give the same; of each table one batch is held,
however long the range.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from tickflight.connection import Connection
from tickflight.digest import Digest
from tickflight.errors import QueryError, TickflightError
from tickflight.events import event_class, events
from tickflight.merging import KEYS, ReplayChunk, merge
from tickflight.result import Result
from tickflight.snapshot import Snapshot, header
from tickflight.wire import streams
from tickflight.wire.streams import Selection

Time = datetime | date | str | int
Columns = Sequence[str] | Mapping[str, Sequence[str]]
Where = str | Mapping[str, str]
PIN_S = 3600  # what a replay holds by itself ends so long after it was read from last
_SLEEP_MAX_S = 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Asked:
    """What is asked of a table: the request, and the columns that are handed on, all of them if empty."""

    request: streams.Replay
    columns: tuple[str, ...] = ()


class Replay:
    """One pass over stored events in order of timestamp, receipt_timestamp, seq, and the tables as they were named.

    Iterate over it for chunks, or over ``batches()`` or ``events()``; one of them, once. Use it as a context manager,
    or ``close`` it, to end early.

    Args:
        connection: where to.
        asked: what is asked of each table, by the name that the caller has for it.
        snapshot: what is seen; without one it takes one of its own, holds it while it is read, and lets it go.
        speed: seconds of the market a second, None for all at once.
        digest: whether ``digest`` is to be known at the end.
        clock: seconds that only rise.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        connection: Connection,
        asked: Mapping[str, Asked],
        *,
        snapshot: Snapshot | str | None = None,
        speed: float | None = None,
        digest: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise QueryError(f"speed is {speed}: give seconds of the market a second, or None for all at once.")
        self._own = Snapshot.create(connection.action, PIN_S) if snapshot is None else None
        self._clock, self._sleep = clock, sleep
        self._renewed = clock()
        self._speed = speed
        self._began = False
        self._results: dict[str, Result] = {}
        self.rows = 0
        """How many events it has handed out."""
        self.late_s = 0.0
        """How long ago the last chunk's first event was due."""
        self.late_max_s = 0.0
        """The longest of these."""
        self.snapshot = self._own or snapshot
        """What it sees."""
        try:
            for table, one in asked.items():
                self._results[table] = connection.get(
                    one.request.serialize(), headers=header(self.snapshot), progress=False
                )
        except BaseException:
            self.close()
            raise
        self.schemas: Mapping[str, pa.Schema] = {
            table: _only(result.schema, asked[table].columns) for table, result in self._results.items()
        }
        """Names and types of each table's columns."""
        self._classes: dict[str, type[Any]] = {}
        self._digest = Digest(self.schemas) if digest else None
        self._hex: str | None = None

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the streams, and let go of a snapshot of its own."""
        for result in self._results.values():
            result.close()
        own, self._own = self._own, None
        if own is not None:
            with suppress(TickflightError):  # it ends by itself
                own.release()

    # --- reading

    def __iter__(self) -> Iterator[ReplayChunk]:
        """Yield events in chunks, at the replay's speed."""
        if self._began:
            raise TickflightError("this replay was read already: make another with client.replay().")
        self._began = True
        return self._chunks()

    def batches(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield table and rows in strict order: as many rows at once as no other table's come between."""
        for chunk in self:
            yield from chunk.runs()

    def events(self) -> Iterator[Any]:
        """Yield single events as instances of ``types``: fields by name, times as datetimes in UTC without zone.

        Raises:
            QueryError: a column's name cannot be a field's.
        """
        classes = list(self.types.values())
        for chunk in self:
            yield from events(chunk, classes)

    @property
    def types(self) -> Mapping[str, type[Any]]:
        """The class of each table's events, for telling them apart."""
        if not self._classes:
            self._classes = {table: event_class(table, schema) for table, schema in self.schemas.items()}
        return self._classes

    @property
    def digest(self) -> str:
        """What was read as 64 hexadecimal digits, after its end: the same for the same rows and columns.

        Raises:
            TickflightError: it has not ended, or was made without ``digest=True``.
        """
        if self._hex is None:
            raise TickflightError("the digest is known at the end of a replay that was made with digest=True.")
        return self._hex

    def hash(self) -> str:
        """Read everything, hand out nothing, and return the ``digest``."""
        self._digest = self._digest or Digest(self.schemas)
        for _ in self:
            pass
        return self.digest

    def _chunks(self) -> Iterator[ReplayChunk]:
        try:
            merged = merge({table: iter(result) for table, result in self._results.items()}, self.schemas)
            for chunk in merged if self._speed is None else self._paced(merged, self._speed):
                self._renew()
                self.rows += len(chunk)
                if self._digest is not None:
                    self._digest.add(chunk.batches, chunk.order)
                yield chunk
            if self._digest is not None:
                self._hex = self._digest.hexdigest()
        finally:
            self.close()

    # --- the market's clock

    def _paced(self, chunks: Iterator[ReplayChunk], speed: float) -> Iterator[ReplayChunk]:
        """Yield of ``chunks`` what is due, when it is due; the first event is at once."""
        first_us, began = None, 0.0
        for chunk in chunks:
            rest = chunk
            while len(rest):
                if first_us is None:
                    first_us, began = int(rest.times[0]), self._clock()
                passed = self._clock() - began
                due = int(np.searchsorted(rest.times, first_us + passed * speed * 1e6, side="right"))
                wait = (int(rest.times[0]) - first_us) / 1e6 / speed - passed
                if not due:
                    self._renew()
                    self._sleep(min(max(wait, 1e-6), _SLEEP_MAX_S))
                    continue
                part, rest = rest.head(due)
                self.late_s = max(0.0, -wait)
                self.late_max_s = max(self.late_max_s, self.late_s)
                yield ReplayChunk(part.tables, part.batches, part.order, part.times, self.late_s)

    def _renew(self) -> None:
        """Let a snapshot of its own hold on, if it was not told so for long."""
        now = self._clock()
        if self._own is not None and now - self._renewed > PIN_S / 4:
            self._own.renew()
            self._renewed = now


def make_requests(
    tables: Sequence[str] | str,
    start: Time | None,
    end: Time | None,
    *,
    symbols: Sequence[str] | str | None = None,
    exchanges: Sequence[str] | str | None = None,
    columns: Columns | None = None,
    where: Where | None = None,
) -> dict[str, Asked]:
    """Return what to ask of each table.

    Raises:
        QueryError: an argument cannot be used.
    """
    names = (tables,) if isinstance(tables, str) else tuple(tables)
    if not names or len(set(names)) < len(names) or len(names) > 255:
        raise QueryError("tables are up to 255 names of tables, each once.")
    for what in (columns, where):
        unknown = [name for name in what if name not in names] if isinstance(what, Mapping) else []
        if unknown:
            raise QueryError(f"{unknown[0]!r} is not among the tables of the replay.")
    found = {}
    for name in names:
        chosen = columns.get(name, ()) if isinstance(columns, Mapping) else columns or ()
        condition = where.get(name, "") if isinstance(where, Mapping) else where or ""
        # the order is needed here, whether or not the caller wants to see what it goes by
        wanted = (*chosen, *(key for key in KEYS if key not in chosen)) if chosen else ()
        selection = Selection(name, _texts(exchanges), _texts(symbols), wanted, condition)
        found[name] = Asked(streams.Replay(selection, microseconds(start), microseconds(end)), tuple(chosen))
    return found


def _only(schema: pa.Schema, columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns]) if columns else schema


def _texts(values: Sequence[str] | str | None) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values or ())


def microseconds(when: Time | None) -> int | None:
    """Return a time as microseconds since 1970 UTC; without a zone it is UTC.

    Raises:
        QueryError: it is none.
    """
    if when is None or (isinstance(when, int) and not isinstance(when, bool)):
        return when
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            raise QueryError(f"{str(when)[:100]!r} is no time: write it like 2026-01-31T12:30:00.") from None
    elif isinstance(when, date) and not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day, tzinfo=UTC)
    if not isinstance(when, datetime):
        raise QueryError(f"a time is a datetime, a text or whole microseconds, and not {type(when).__name__}.")
    return ((when.replace(tzinfo=UTC) if when.tzinfo is None else when) - _EPOCH) // timedelta(microseconds=1)
