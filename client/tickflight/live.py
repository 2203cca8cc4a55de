"""Live queries: a result that the server keeps fresh, each update one Arrow table.

The rule of this file: only whole updates are shown, and always the newest; a stream that is lost or silent is asked for
anew, and begins with the whole result, so that nothing is missed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tickflight.errors import TRANSLATED, QueryError, TickflightError, UnavailableError, translate
from tickflight.wire.streams import Live as LiveRequest
from tickflight.wire.streams import LiveMark

if TYPE_CHECKING:
    import pandas
    import polars

SILENCE_S = 15.0
"""Three heartbeats of a server: after so long without a word the stream is taken for lost."""
_BACKOFF_S = (0.1, 2.0)  # first pause before another try, and the longest
_JOIN_S = 5.0  # a thread that waits for a server to answer is not waited for much longer
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Open = Callable[[bytes, bool], Any]
"""Makes a DoGet of a ticket, over another channel if the second argument says so: returns pyarrow's stream reader."""


class Live:
    """A query's result, kept fresh. Iterate over it, or look at ``latest``; use it as a context manager, or ``close``.

    Iteration yields each update that is newer than the one before; a slow reader gets the newest and fewer of them.
    One thread of its own reads the stream. Threads may share it: each update goes to one of those that iterate.

    Args:
        open_stream: makes the call.
        request: what is asked.
        silence_s: after so many seconds without a word the stream is asked for anew; it is to be three times the
            server's ``query.heartbeat_s``.

    Raises:
        QueryError: the statement or a parameter is wrong; the message shows the place.
        UnavailableError: the server cannot be reached, or has as many streams open as it may.
    """

    def __init__(self, open_stream: Open, request: LiveRequest, *, silence_s: float = SILENCE_S) -> None:
        self._open = open_stream
        self._ticket = request.serialize()
        self._silence_s = silence_s
        self._condition = threading.Condition()
        self._closed = False
        self._failure: TickflightError | None = None
        self._table: pa.Table | None = None
        self._mark = LiveMark()
        self._count = 0  # updates that came, over all streams
        self._shown = 0
        self._dropped = False  # by us, for its silence
        self._anew = False  # the next stream is to come over another channel
        self.reconnects = 0
        self._stream = open_stream(self._ticket, False)
        self._schema: pa.Schema = self._stream.schema
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="tickflight-live", daemon=True)
        self._thread.start()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        rows = "no update yet" if self._table is None else f"{self._table.num_rows} rows"
        return f"<tickflight.Live {self.mode or 'waiting'}: {rows}{', closed' if self._closed else ''}>"

    # --- what is known of it

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns of every update."""
        return self._schema

    @property
    def mode(self) -> str:
        """How updates are made: "incremental" or "asked again"; "" before the first."""
        return self._mark.mode

    @property
    def reason(self) -> str:
        """Why updates are not incremental; "" if they are."""
        return self._mark.reason

    @property
    def update(self) -> int:
        """Number of the latest update: how many came so far, over all streams."""
        return self._count

    @property
    def asked(self) -> datetime | None:
        """When the server looked at its tables for the latest update, UTC; None before the first."""
        return _EPOCH + timedelta(microseconds=self._mark.asked_us) if self._mark.asked_us else None

    @property
    def latest(self) -> pa.Table:
        """The latest update; waits for the first one.

        Raises:
            TickflightError: the live query failed before it gave one, or was closed.
        """
        with self._condition:
            self._wait(lambda: self._table is not None, None)
            if self._table is None:
                raise self._failure or TickflightError("this live query was closed before its first update.")
            self._look()
            return self._table

    def polars(self) -> polars.DataFrame:
        """Return the latest update as a polars DataFrame."""
        import polars

        frame = polars.from_arrow(self.latest)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def pandas(self, **options: Any) -> pandas.DataFrame:
        """Return the latest update as a pandas DataFrame; ``options`` are those of ``pyarrow.Table.to_pandas``."""
        return self.latest.to_pandas(**options)

    # --- updates as they come

    def __iter__(self) -> Iterator[pa.Table]:
        return self

    def __next__(self) -> pa.Table:
        """Wait for an update that was not yielded yet, the newest one; end when it is closed.

        Raises:
            TickflightError: the server refused to go on.
        """
        table = self.next()
        if table is None:
            raise StopIteration
        return table

    def next(self, timeout_s: float | None = None) -> pa.Table | None:
        """Return the newest update that was not yielded yet; None if none came in time, or it was closed.

        Raises:
            TickflightError: the server refused to go on.
        """
        with self._condition:
            self._wait(lambda: self._count > self._shown, timeout_s)
            if self._count > self._shown and not self._closed:
                self._shown = self._count
                return self._table
            if self._failure is not None and not self._closed:
                raise self._failure
            return None

    def _wait(self, there: Callable[[], bool], timeout_s: float | None) -> None:
        """Wait until it is ``there``, or nothing more can come; the caller holds the condition."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not there() and not self._closed and self._failure is None:
            now = time.monotonic()
            if end is not None and now >= end:
                return
            silent = self._look()
            self._condition.wait(silent if end is None else min(silent, end - now))

    def _look(self) -> float:
        """Let a stream that is silent for too long end, so that another is made; the caller holds the condition.

        Return in how many seconds to look again.
        """
        now = time.monotonic()
        left = self._heard + self._silence_s - now
        if left > 0:
            return left
        self._heard = now
        if self._stream is not None:
            self._dropped = True
            self._stream.cancel()
        return self._silence_s

    def close(self) -> None:
        """End the live query; who waits for an update gets none. A second call does nothing."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            if self._stream is not None:
                self._stream.cancel()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    # --- the thread that reads

    def _run(self) -> None:
        tries = 0
        while not self._closed:
            before = self._count
            try:
                self._read()
                failure: TickflightError = UnavailableError("the server ended the stream.")
            except TRANSLATED as error:
                failure = translate(error)
            except TickflightError as error:
                failure = error
            if not self._goes_on(failure):
                return
            tries = 0 if self._count > before else tries + 1
            self._pause(tries)

    def _read(self) -> None:
        """Read the stream to its end, and make a new one first if there is none."""
        if self._stream is None:
            anew, self._anew = self._anew, False
            stream = self._open(self._ticket, anew)
            with self._condition:
                self._stream = stream
                self._heard = time.monotonic()
                if self._closed:
                    stream.cancel()
            if stream.schema != self._schema:
                stream.cancel()
                raise QueryError("the columns of the result have changed: ask for it anew.")
            self.reconnects += 1
        batches: list[pa.RecordBatch] = []
        try:
            while True:
                try:
                    chunk = self._stream.read_chunk()
                except StopIteration:
                    return
                mark = LiveMark.parse(chunk.app_metadata.to_pybytes() if chunk.app_metadata else b"")
                self._heard = time.monotonic()
                if mark.update:
                    batches.append(chunk.data)
                    if mark.last:
                        self._show(pa.Table.from_batches(batches, self._schema), mark)
                        batches = []
        finally:
            with self._condition:
                self._stream = None

    def _show(self, table: pa.Table, mark: LiveMark) -> None:
        with self._condition:
            self._table, self._mark = table, mark
            self._count += 1
            self._condition.notify_all()

    def _goes_on(self, failure: TickflightError) -> bool:
        """Return whether the stream is to be asked for anew; whoever waits is told if not."""
        with self._condition:
            if self._closed:
                return False
            dropped, self._dropped = self._dropped, False
            self._anew = self._anew or dropped
            if isinstance(failure, UnavailableError) or dropped:
                return True
            self._failure = failure
            self._condition.notify_all()
            return False

    def _pause(self, tries: int) -> None:
        """Wait a little before the next try, longer each time, and not as long as all others do."""
        first, longest = _BACKOFF_S
        seconds = min(longest, first * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        with self._condition:
            self._condition.wait_for(lambda: self._closed, seconds)
