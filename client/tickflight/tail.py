"""A tail: the rows of a table as they become durable, history first if wanted, until it is closed.

The rule of this file: where the reader is, is what the last mark said; after whatever goes wrong the stream is opened
again there, and so each row comes once. Only a reader that is too slow, or wrong, ends.
"""

from __future__ import annotations

import base64
import binascii
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from tickflight.background import interruptible
from tickflight.connection import Connection
from tickflight.errors import (
    TRANSLATED,
    AuthenticationError,
    CancelledError,
    LagError,
    QueryError,
    ServerError,
    TickflightError,
    UnavailableError,
    translate,
)
from tickflight.silence import Guard
from tickflight.wire import streams
from tickflight.wire.streams import Selection, TailMark

Since = datetime | date | timedelta | str | int
BACKOFF_S = (0.05, 5.0)
SILENCE_S = 20.0  # a stream that says nothing for so long, heartbeats included, is opened again
TOKEN = b"tickflight.resume"
_TRANSIENT = (UnavailableError, ServerError, CancelledError, AuthenticationError)
_RAISED: tuple[type[BaseException], ...] = (TickflightError, *TRANSLATED)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TODAY = ("today", "start of today")
_SEQ_MAX = 2**63 - 1


@dataclass(frozen=True)
class Skipped:
    """Rows with ``seq`` from ``first`` to ``last`` that were not sent: the reader fell behind, or they had expired."""

    first: int
    last: int
    why: Literal["lag", "expired"]


class Tail:
    """Yields record batches until it is closed. Use it as a context manager, or ``close`` it; one thread reads it.

    Each batch carries its resume token in the metadata of its schema, under ``tickflight.resume``; ``token`` is that of
    the batch that was yielded last.

    Args:
        connection: where to.
        request: what is asked for.
        reconnect_s: after so long without reaching the server it gives up; None is never, 0 at once.
        silence_s: longest silence of the server, whose heartbeats come every few seconds.
    """

    def __init__(
        self,
        connection: Connection,
        request: streams.Tail,
        *,
        reconnect_s: float | None = 600.0,
        silence_s: float = SILENCE_S,
        on_skip: Callable[[Skipped], None] | None = None,
    ) -> None:
        self._connection = connection
        self._request = request
        self._reconnect_s = reconnect_s
        self._on_skip = on_skip
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = None
        self._guard = Guard(silence_s)
        self._mark = TailMark(resume=request.resume)
        self.reconnects = 0
        """How often the stream was opened again."""
        self.skipped: list[Skipped] = []
        """What was not sent, the newest last; at most a thousand."""
        self._schema: pa.Schema = None
        self._pending: pa.RecordBatch | None = None
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, TRANSLATED):
                raise self._told(error) from None
            raise

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        table = self._request.selection.table if self._request.selection else ""
        state = "closed" if self._closed.is_set() else f"at seq {self.seq}, {self.lag} behind"
        return f"<tickflight.Tail of {table}, {state}>"

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._schema

    @property
    def token(self) -> str:
        """Where it is: ``client.tail(..., resume=token)`` goes on after the batch that was yielded last."""
        return _text(self._mark.resume)

    @property
    def seq(self) -> int:
        """All rows up to this one were looked at; those that match were yielded."""
        return self._mark.seq

    @property
    def newest_seq(self) -> int:
        """The table's newest row when the last batch was sent."""
        return self._mark.newest_seq

    @property
    def lag(self) -> int:
        """How many rows it was behind when the last batch was sent."""
        return max(0, self._mark.newest_seq - self._mark.seq)

    @property
    def durable_us(self) -> int:
        """When the first row of the last batch became durable, microseconds since 1970 UTC; 0 for history."""
        return self._mark.durable_us

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        """Return the next batch with rows; wait for it.

        Raises:
            StopIteration: it was closed.
            LagError: the reader was too slow; its token goes on.
            UnavailableError: the server could not be reached for ``reconnect_s``.
            TickflightError: the request is wrong, or refused.
        """
        before = self._mark
        try:
            return self._advance()
        except (StopIteration, TickflightError):
            raise
        except BaseException:  # an interrupt, or what on_skip raised: a batch that was not yielded comes again
            self._mark, self._pending = before, None
            self._drop()
            raise

    def _advance(self) -> pa.RecordBatch:
        """Return the next batch with rows, over as many streams as it takes."""
        failing_since, delay = None, BACKOFF_S[0]
        while not self._closed.is_set():
            try:
                if self._stream is None:
                    self._open()
                batch = self._read()
                failing_since, delay = None, BACKOFF_S[0]
                if batch is not None:
                    return batch
                continue
            except _RAISED as raised:
                if self._closed.is_set():
                    break
                error = self._told(raised)
                self._drop()
                failing_since = time.monotonic() if failing_since is None else failing_since
                waited = time.monotonic() - failing_since
                out_of_time = self._reconnect_s is not None and waited >= self._reconnect_s
                if isinstance(error, LagError) or not isinstance(error, _TRANSIENT) or out_of_time:
                    self.close()
                    raise error from None
            self.reconnects += 1
            self._closed.wait(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spreads retries, guards nothing
            delay = min(delay * 2, BACKOFF_S[1])
        raise StopIteration

    def close(self) -> None:
        """End it, also while another thread waits for a batch; a second call does nothing."""
        self._closed.set()
        self._drop()
        self._guard.close()

    def _open(self) -> None:
        """Open the stream where the reader is; its first message says where it begins."""
        request = self._request
        if self._mark.resume:
            request = replace(request, resume=self._mark.resume, after_seq=None, since_us=None)
        stream = self._guard.opened(partial(self._connection.open, request.serialize()))
        with self._lock:
            self._stream = stream
        self._schema = stream.schema
        self._guard.watch(stream)
        if self._closed.is_set():
            self._drop()
            return
        self._pending = self._read()

    def _read(self) -> pa.RecordBatch | None:
        """Return the next batch, None for a mark alone."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return pending
        stream = self._stream
        if stream is None:
            return None
        try:
            with self._guard:
                chunk = interruptible(stream.read_chunk)
        except StopIteration:
            raise UnavailableError("the server ended the stream.") from None
        self._mark = TailMark.parse(chunk.app_metadata.to_pybytes()) if chunk.app_metadata else self._mark
        if self._mark.skipped_last:
            self._skip(self._mark)
        batch = chunk.data
        if batch is None or batch.num_rows == 0:
            return None
        return batch.replace_schema_metadata({TOKEN: _text(self._mark.resume).encode()})

    def _told(self, error: BaseException) -> TickflightError:
        """Return what the caller is told of ``error``."""
        told = error if isinstance(error, TickflightError) else translate(error)
        return LagError(str(told), token=self.token, seq=self.seq) if self._mark.ended == "lag" else told

    def _skip(self, mark: TailMark) -> None:
        why: Literal["lag", "expired"] = "lag" if mark.skipped_why == "lag" else "expired"
        skipped = Skipped(mark.skipped_first, mark.skipped_last, why)
        self.skipped = [*self.skipped[-999:], skipped]
        if self._on_skip is not None:
            self._on_skip(skipped)

    def _drop(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, None
        self._guard.watch(None)
        if stream is not None:
            stream.cancel()


def make_request(
    table: str,
    *,
    symbols: Sequence[str] | str | None = None,
    exchanges: Sequence[str] | str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    since: Since | None = None,
    resume: str | bytes | None = None,
    on_lag: Literal["end", "skip"] = "end",
    lag_rows_max: int | None = None,
) -> streams.Tail:
    """Return what is asked of the server; the arguments are those of ``Client.tail``.

    Raises:
        QueryError: ``since`` or ``resume`` cannot be read, or both are given.
    """
    selection = Selection(table, names(exchanges), names(symbols), tuple(columns or ()), where or "")
    if since is not None and resume is not None:
        raise QueryError("give either since or resume: a token says where it goes on.")
    after_seq = since if isinstance(since, int) and not isinstance(since, bool) else None
    for name, number in (("since", after_seq), ("lag_rows_max", lag_rows_max)):
        if number is not None and not 0 <= number <= _SEQ_MAX:
            raise QueryError(f"{name} is {number}: a seq, or a number of rows, is from 0 to {_SEQ_MAX}.")
    return streams.Tail(
        selection,
        after_seq=after_seq,
        resume=b"" if resume is None else _token(resume),
        since_us=None if since is None or after_seq is not None else since_to_us(since),
        on_lag=on_lag,
        lag_rows_max=lag_rows_max or 0,
    )


def names(value: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return names as a tuple; a text is one name."""
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def since_to_us(since: Since) -> int:
    """Return a time as microseconds since 1970 UTC; see ``Client.tail``.

    Raises:
        QueryError: it is no time.
    """
    moment: datetime
    if isinstance(since, timedelta):
        try:
            moment = datetime.now(UTC) - since
        except OverflowError:
            raise QueryError(f"{since!r} before now is no time.") from None
    elif isinstance(since, datetime):
        moment = since
    elif isinstance(since, date):
        moment = datetime(since.year, since.month, since.day)
    elif isinstance(since, str) and since.strip().lower() in _TODAY:
        moment = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    else:
        try:
            moment = datetime.fromisoformat(since.strip())  # type: ignore[union-attr]
        except (AttributeError, ValueError):
            raise QueryError(
                f"{since!r} is no time: give a datetime, '2026-11-22 10:00', 'today', a timedelta, or a seq."
            ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _text(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).decode()


def _token(text: str | bytes) -> bytes:
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise QueryError("resume is no token: give the text of tail.token.") from None
