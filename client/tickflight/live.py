"""Live queries: a result that the server keeps fresh, each update one Arrow table.

The rule of this file: only whole updates are shown, and always the newest; a stream that is lost or silent is asked for
anew, and begins with the whole result, so that nothing is missed.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tickflight.errors import QueryError, TickflightError, UnavailableError, translate
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


class _Reader:
    """The thread that reads the stream, and the newest whole update; it knows nothing of who looks at it."""

    def __init__(self, open_stream: Open, ticket: bytes, silence_s: float) -> None:
        self._open = open_stream
        self._ticket = ticket
        self._silence_s = silence_s
        self.condition = threading.Condition()
        self.closed = False
        self.failure: TickflightError | None = None
        self.table: pa.Table | None = None
        self.mark = LiveMark()
        self.count = 0  # updates that came, over all streams
        self.reconnects = 0
        self._dropped = False  # by us, for its silence
        self._anew = False  # the next stream is to come over another channel
        self.stream = open_stream(ticket, False)
        self.schema: pa.Schema = self.stream.schema
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="tickflight-live", daemon=True)
        self._thread.start()

    def wait(self, there: Callable[[], bool], timeout_s: float | None) -> None:
        """Wait until it is ``there``, or nothing more can come; the caller holds the condition."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not there() and not self.closed and self.failure is None:
            now = time.monotonic()
            if end is not None and now >= end:
                return
            silent = self.look()
            self.condition.wait(silent if end is None else min(silent, end - now))

    def look(self) -> float:
        """Let a stream that is silent for too long end, so that another is made; the caller holds the condition.

        Return in how many seconds to look again.
        """
        now = time.monotonic()
        left = self._heard + self._silence_s - now
        if left > 0:
            return left
        self._heard = now
        if self.stream is not None:
            self._dropped = True
            self.stream.cancel()
        return self._silence_s

    def stop(self) -> None:
        """Let the stream and the thread end."""
        with self.condition:
            self.closed = True
            self.condition.notify_all()
            if self.stream is not None:
                self.stream.cancel()

    def join(self) -> None:
        """Wait for the thread, but not for a server that does not answer."""
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        tries = 0
        while not self.closed:
            before = self.count
            try:
                self._read()
                failure: TickflightError = UnavailableError("the server ended the stream.")
            except Exception as error:  # whatever it is, who waits is to know
                failure = translate(error)
            if not self._goes_on(failure):
                return
            tries = 0 if self.count > before else tries + 1
            self._pause(tries)

    def _read(self) -> None:
        """Read the stream to its end, and make a new one first if there is none."""
        if self.stream is None:
            self._reopen()
        batches: list[pa.RecordBatch] = []
        try:
            while True:
                try:
                    chunk = self.stream.read_chunk()
                except StopIteration:
                    return
                mark = LiveMark.parse(chunk.app_metadata.to_pybytes() if chunk.app_metadata else b"")
                self._heard = time.monotonic()
                if mark.update:
                    batches.append(chunk.data)
                    if mark.last:
                        self._show(pa.Table.from_batches(batches, self.schema), mark)
                        batches = []
        finally:
            with self.condition:
                self.stream = None

    def _reopen(self) -> None:
        anew, self._anew = self._anew, False
        stream = self._open(self._ticket, anew)
        with self.condition:
            self.stream = stream
            self._heard = time.monotonic()
            if self.closed:
                stream.cancel()
        if stream.schema != self.schema:
            stream.cancel()
            raise QueryError("the columns of the result have changed: ask for it anew.")
        self.reconnects += 1

    def _show(self, table: pa.Table, mark: LiveMark) -> None:
        with self.condition:
            self.table, self.mark = table, mark
            self.count += 1
            self.condition.notify_all()

    def _goes_on(self, failure: TickflightError) -> bool:
        """Return whether the stream is to be asked for anew; whoever waits is told if not."""
        with self.condition:
            if self.closed:
                return False
            dropped, self._dropped = self._dropped, False
            self._anew = self._anew or dropped
            if isinstance(failure, UnavailableError) or dropped:
                return True
            self.failure = failure
            self.condition.notify_all()
            return False

    def _pause(self, tries: int) -> None:
        """Wait a little before the next try, longer each time, and not as long as all others do."""
        first, longest = _BACKOFF_S
        seconds = min(longest, first * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        with self.condition:
            self.condition.wait_for(lambda: self.closed, seconds)


class Live:
    """A query's result, kept fresh. Iterate over it, or look at ``latest``; use it as a context manager, or ``close``.

    Iteration yields each update that is newer than the one before; a slow reader gets the newest and fewer of them.
    One thread of its own reads the stream; it ends when nothing refers to this any more, too. Threads may share it:
    each update goes to one of those that iterate.

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
        self._reader = _Reader(open_stream, request.serialize(), silence_s)
        self._shown = 0
        self._stop = weakref.finalize(self, self._reader.stop)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        table = self._reader.table
        rows = "no update yet" if table is None else f"{table.num_rows} rows"
        return f"<tickflight.Live {self.mode or 'waiting'}: {rows}{', closed' if self._reader.closed else ''}>"

    # --- what is known of it

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns of every update."""
        return self._reader.schema

    @property
    def mode(self) -> str:
        """How updates are made: "incremental" or "asked again"; "" before the first."""
        return self._reader.mark.mode

    @property
    def reason(self) -> str:
        """Why updates are not incremental; "" if they are."""
        return self._reader.mark.reason

    @property
    def update(self) -> int:
        """Number of the latest update: how many came so far, over all streams."""
        return self._reader.count

    @property
    def reconnects(self) -> int:
        """How often the stream was asked for anew."""
        return self._reader.reconnects

    @property
    def asked(self) -> datetime | None:
        """When the server looked at its tables for the latest update, UTC; None before the first."""
        asked_us = self._reader.mark.asked_us
        return _EPOCH + timedelta(microseconds=asked_us) if asked_us else None

    @property
    def latest(self) -> pa.Table:
        """The latest update; waits for the first one.

        Raises:
            TickflightError: the live query failed before it gave one, or was closed.
        """
        reader = self._reader
        with reader.condition:
            reader.wait(lambda: reader.table is not None, None)
            if reader.table is None:
                raise reader.failure or TickflightError("this live query was closed before its first update.")
            reader.look()
            return reader.table

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
        reader = self._reader
        with reader.condition:
            reader.wait(lambda: reader.count > self._shown, timeout_s)
            if reader.closed:
                return None
            if reader.count > self._shown:
                self._shown = reader.count
                return reader.table
            if reader.failure is not None:
                raise reader.failure
            return None

    def close(self) -> None:
        """End the live query; who waits for an update gets none. A second call does nothing."""
        self._stop()
        self._reader.join()
