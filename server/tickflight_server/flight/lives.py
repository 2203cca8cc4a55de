"""Live queries over Flight: a stream of updates, each the whole result, with a mark beside every batch.

The rule of this file: an update is made when the reader has taken the one before, never ahead and never queued; a
stream is never silent for longer than ``query.heartbeat_s``, whatever the engine does meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.streams import Live, LiveMark
from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import BusyError, CancelledError, InputError, StatementError
from tickflight_server.flight.auth import Call
from tickflight_server.flight.kept import Found, by_name
from tickflight_server.flight.open_streams import OpenStreams
from tickflight_server.flight.parameters import read_batches, rows_of
from tickflight_server.flight.running import begin, options_of, reads
from tickflight_server.flight.sessions import Sessions
from tickflight_server.flight.status import mapped_errors
from tickflight_server.metrics import Metrics
from tickflight_server.query.engine import Engine
from tickflight_server.query.execution import cut_by_bytes
from tickflight_server.query.limited import result_limit
from tickflight_server.query.live import LiveQuery, Update
from tickflight_server.query.stability import Stability

EVERY_MS = 1000
"""Least time between two updates where the caller says nothing."""
_NARROW = "Ask for fewer groups, or for less time at once."
_AGAIN_S = 0.01  # between two tries to stop one whose call has ended
_LOOK_S = 0.1  # between two looks at an update that is being made


class LiveService:
    """Live queries of one server, in the options of their callers' sessions."""

    def __init__(
        self,
        engine: Engine,
        sessions: Sessions,
        streams: OpenStreams,
        settings: QuerySettings,
        clock: Clock,
    ) -> None:
        self._metrics = engine.store.metrics
        self._engine = engine
        self._sessions = sessions
        self._streams = streams
        self._settings = settings
        self._clock = clock
        self._stability = Stability(engine.connections)

    def info(self, call: Call, asked: Live) -> Found:
        """Plan the query; its ticket is the command itself."""
        return Found(self.schema(call, asked), (asked.serialize(),))

    def schema(self, call: Call, asked: Live) -> pa.Schema:
        """Return the schema of all updates; nothing runs."""
        return self._query(call, asked, call.watch)[0].schema

    def fetch(self, call: Call, asked: Live) -> flight.FlightDataStream:
        """Return the stream of updates.

        Raises:
            BusyError: as many streams are open as may be.
        """
        run = begin(self._engine.shared.board, call, asked.sql, "live")
        running = _Running()
        self._streams.enter(call, running.stop)
        query, limit_s = self._query(call, asked, running.started)
        running.wake = query.wake
        call.restart(0)  # it has no end; each update has the limit
        run.kind, run.state = "live", "running"
        reads(call, query.statement)
        every_s = max(asked.every_ms or EVERY_MS, self._settings.live_every_min_ms) / 1000
        worker = ThreadPoolExecutor(1, "live-query")
        stream = _Stream(call, query, running, worker, self._settings, self._clock, self._metrics, every_s, limit_s)
        call.hold(stream.close)
        return flight.GeneratorStream(query.schema, stream.marked())

    def _query(self, call: Call, asked: Live, started: Callable[[Callable[[], None]], None]) -> tuple[LiveQuery, float]:
        """Return the query, and how long an update of it may take, 0 for ever."""
        found = self._sessions.asked(call)
        if found.pin is not None:
            raise StatementError("under a snapshot nothing changes.", hint="Run the query by itself.")
        if asked.every_ms < 0:
            raise InputError(f"every_ms is {asked.every_ms}.", hint="Give a number of milliseconds, or 0.")
        names = self._engine.parameter_names(asked.sql)
        rows = list(rows_of(read_batches(asked.params), names)) if asked.params else [()]
        if len(rows) != 1 or (names and not asked.params):
            raise StatementError(f"a live query takes one row of {len(names)} values.", hint="Bind them in params.")
        with call.limits():
            query = LiveQuery(
                self._engine,
                self._clock,
                self._stability,
                asked.sql,
                by_name(names, rows[0]),
                options=options_of(call, found.session.options),
                result_mb=self._settings.live_result_mb,
                started=started,
            )
        return query, call.limit_s


class _Running:
    """What stops a live query: the engine's step, and the wait between two updates."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._cancel: Callable[[], None] = lambda: None
        self.wake: Callable[[], None] = lambda: None

    def started(self, cancel: Callable[[], None]) -> None:
        """Take what cancels the engine's step that comes next."""
        self._cancel = cancel
        if self._stopped.is_set():
            cancel()

    def stop(self) -> None:
        """Stop now, and whatever comes."""
        self._stopped.set()
        self._cancel()
        self.wake()

    def stopped(self) -> bool:
        """Return whether it was."""
        return self._stopped.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, or until it is stopped."""
        self._stopped.wait(seconds)


class _Stream:
    """The updates of one call."""

    def __init__(
        self,
        call: Call,
        query: LiveQuery,
        running: _Running,
        worker: ThreadPoolExecutor,
        settings: QuerySettings,
        clock: Clock,
        metrics: Metrics,
        every_s: float,
        limit_s: float,
    ) -> None:
        self._call = call
        self._query = query
        self._running = running
        self._worker = worker
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._every_s = every_s
        self._limit_s = limit_s
        self._done = threading.Event()  # no update is being made
        self._done.set()
        self._began = 0.0
        self._number = 0
        self._said = clock.monotonic()
        self._empty = pa.RecordBatch.from_pylist([], schema=query.schema)

    def marked(self) -> Iterator[tuple[pa.RecordBatch, pa.Buffer]]:
        """Yield batches with their marks until the stream is stopped."""
        with mapped_errors():
            try:
                while not self._running.stopped():
                    update = yield from self._made()
                    if update is not None:
                        yield from self._sent(update)
                    yield from self._pause(self._began + self._every_s)
            except CancelledError:
                if not self._running.stopped() or self._call.timed_out:
                    raise
            if self._call.run is not None and self._call.run.by is not None:
                raise CancelledError("the live query was cancelled.")
            # to a caller that went away it does not matter
            raise BusyError("the server shuts down.", hint="Ask again, and the first update is the whole result.")

    def close(self) -> None:
        """Stop what is under way, and let the thread go; the call has ended."""
        self._running.stop()
        while not self._done.wait(_AGAIN_S):
            self._running.stop()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _made(self) -> Any:
        """Return the next update, and yield heartbeats until it is there."""
        self._call.restart(self._limit_s)
        self._done.clear()
        future: Future[Update | None] = self._worker.submit(self._make)
        future.add_done_callback(lambda _: self._done.set())
        while not self._done.wait(min(self._quiet_s(), _LOOK_S)):
            if self._running.stopped():
                self._running.stop()  # once more: the engine may have been between two steps
            if self._quiet_s() <= 0:
                yield self._heartbeat()
        with self._call.limits():
            update = future.result()
        self._call.restart(0)
        return update

    def _make(self) -> Update | None:
        self._began = self._clock.monotonic()
        return self._query.update()

    def _sent(self, update: Update) -> Iterator[tuple[pa.RecordBatch, pa.Buffer]]:
        self._number += 1
        self._metrics.add("live_updates")
        run = self._call.run
        limited = None if run is None else result_limit(run.caller, self._metrics, lambda: _NARROW)
        given = update.table.to_batches()
        batches = [
            piece
            for batch in (given if limited is None else limited(iter(given)))
            for piece in cut_by_bytes(batch, self._settings.batch_bytes)
        ] or [self._empty]
        mode, reason = self._query.mode, self._query.reason
        if run is not None:
            run.sent(update.table.num_rows, update.table.nbytes)
        for place, batch in enumerate(batches, 1):
            yield self._with_mark(batch, LiveMark(self._number, place == len(batches), mode, reason, update.asked_us))

    def _pause(self, due: float) -> Iterator[tuple[pa.RecordBatch, pa.Buffer]]:
        """Wait until the next update is due, and there may be one; yield heartbeats meanwhile."""
        while not self._running.stopped():
            left = due - self._clock.monotonic()
            if left > 0:
                self._running.wait(min(left, self._quiet_s()))
            elif self._query.wait(self._quiet_s(), self._running.stopped):
                return
            if self._quiet_s() <= 0:
                yield self._heartbeat()

    def _quiet_s(self) -> float:
        """Return for how long nothing need be sent."""
        return max(0.0, self._said + self._settings.heartbeat_s - self._clock.monotonic())

    def _heartbeat(self) -> tuple[pa.RecordBatch, pa.Buffer]:
        return self._with_mark(self._empty, LiveMark(0, False, self._query.mode, self._query.reason, 0))

    def _with_mark(self, batch: pa.RecordBatch, mark: LiveMark) -> tuple[pa.RecordBatch, pa.Buffer]:
        self._said = self._clock.monotonic()
        return batch, pa.py_buffer(mark.serialize())
