"""One thread per process and server that takes what backends kept, converts it and hands it to the sink.

The rule of this file: the thread never dies of a row, a batch or a lost server. Every row it takes ends acknowledged,
in table ``rejected``, or counted as failed with a log line.

``acquire`` and ``release`` count who uses a collector; the last one out closes it.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

import structlog

from tickflight_server.errors import BusyError
from tickflight_server.feed.convert import Converted, Rejected, convert_each, reject_all, rejected_batch
from tickflight_server.feed.lane import Lane
from tickflight_server.feed.sinks import Sink
from tickflight_server.schemas import NumericType

LOG = structlog.get_logger(__name__)

CONNECT_WAIT_S = (0.1, 5.0)
"""First and longest wait between attempts to reach the sink."""

CLOSE_WAIT_S = 1.0

# Batches without an answer, in full batches: enough to fill a link while the server syncs its log, and a bound on what
# is held in memory beside the queues. More than it, and the queues fill, whose overflow setting then decides.
IN_FLIGHT_BATCHES = 8

GAPS_MAX = 100_000
"""Holes that wait for the server; a kilobyte each at most."""


@dataclasses.dataclass(frozen=True)
class CollectorOptions:
    """How a collector batches; of backends that share one, the first decides."""

    batch_interval_ms: float = 10.0
    batch_rows_max: int = 65_536
    drain_timeout_s: float = 30.0
    numeric: NumericType | None = None


class Collector:
    """Owns the thread and the sink. Made by ``acquire``."""

    def __init__(self, make_sink: Callable[[], Sink], options: CollectorOptions, key: Hashable = None) -> None:
        self.options = options
        self.key = key
        self.users = 0
        self.producer = f"{socket.gethostname()}:{os.getpid()}"
        self._make_sink = make_sink
        self._sink: Sink | None = None
        self._sink_lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._gaps = Lane("gaps", lambda items: [("gaps", items)], rows_max=GAPS_MAX, overflow="drop_oldest")
        self._seen: list[Lane] = [self._gaps]
        self._abandoned = False
        self._gave_up = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._full = threading.Event()
        self._ended = threading.Event()
        self._landed = threading.Condition()
        self._in_flight = 0
        self._outstanding: dict[int, _Flight] = {}
        self._batch_numbers = itertools.count()
        self._gaps.batch_rows_max = options.batch_rows_max
        self._thread = threading.Thread(target=self._run, name="tickflight-collector", daemon=True)
        self._thread.start()

    # Called by backends, from any thread.

    def add(self, lane: Lane) -> None:
        """Begin to empty ``lane``."""
        with self._lock:
            assert lane not in self._lanes, "a lane joined twice"
            self._lanes.append(lane)
            if lane not in self._seen:
                self._seen.append(lane)
        lane.batch_rows_max = self.options.batch_rows_max
        lane.closing = False
        lane.wake = self._nudge

    def remove(self, lane: Lane) -> None:
        """Stop emptying ``lane``; a later callback joins again."""
        lane.wake = None
        lane.attention = 0
        with self._lock:
            self._lanes.remove(lane)

    def drain(self, lane: Lane, timeout_s: float | None = None) -> int:
        """Wait until every row that ``lane`` has received is settled. Blocks; returns how many rows are not.

        After the time limit, what was not even sent is given up and counted as failed.
        """
        deadline = time.monotonic() + (self.options.drain_timeout_s if timeout_s is None else timeout_s)
        with lane.lock:
            target = lane.received
        self._nudge(True)
        if lane.wait_settled(target, deadline):
            return 0
        self._gave_up = True
        given_up = lane.give_up_queue()
        missing = given_up + lane.in_flight
        LOG.error(
            "rows not acknowledged in time",
            lane=lane.name,
            given_up=given_up,
            without_answer=lane.in_flight,
            last_error=lane.last_error,
        )
        return missing

    def tell_gaps(self, lane: Lane, *, stopped: bool = False) -> None:
        """Queue the holes that were found in what ``lane`` brought, those that end with the feed too if it has."""
        if lane.watch is None:
            return
        with _not_in_the_way(lane):
            if stopped:
                lane.watch.begin(lane.take_drops())
            found = lane.watch.take(stopped=stopped)
            now = time.time()
            self._gaps.kept.extend((dataclasses.replace(gap, producer=self.producer), now) for gap in found)
            if len(self._gaps.kept) > GAPS_MAX:
                self._gaps.drop_oldest()

    def drain_gaps(self) -> None:
        """Wait until the holes that were queued are durable; where the server has been waited for already, do not."""
        if self._gave_up and self.users > 1:
            return  # the others will wait again
        self.drain(self._gaps, 0.0 if self._gave_up else None)

    def sink(self, timeout_s: float = 30.0) -> Sink:
        """Return the sink, connected. Blocks."""
        deadline = time.monotonic() + timeout_s
        wait = CONNECT_WAIT_S[0]
        while True:
            try:
                return self._connected()
            except Exception:
                if time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)
            wait = min(wait * 2, CONNECT_WAIT_S[1])

    def close(self) -> None:
        """Drain what the lanes hold, end the thread and close the sink. Blocks.

        When this returns every row is settled: what has no answer by now is counted as failed.
        """
        with self._lock:
            lanes = list(self._lanes)
        for lane in lanes:
            lane.close_soon()
            self.drain(lane)
            self.tell_gaps(lane, stopped=True)
        self.drain(self._gaps, 0.0 if self._gave_up else None)
        self._ended.set()
        self._nudge(True)
        # With answers missing, the thread may be waiting inside the sink, for ever.
        self._thread.join(timeout=CLOSE_WAIT_S if self._outstanding else self.options.drain_timeout_s)
        self._abandoned = self._thread.is_alive()
        if self._sink is not None:
            try:
                self._sink.close()
            except Exception as error:
                LOG.warning("closing the sink failed", error=_one_line(error))
        with self._landed:
            unanswered = list(self._outstanding)
        for number in unanswered:
            self._land(number, ConnectionAbortedError("no answer before the end"))
        for lane in self._seen:
            lane.landed(-1, failed=lane.in_flight)

    # The thread.

    def _nudge(self, full: bool) -> None:
        if full:
            self._full.set()
        self._wake.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.wait()
            self._full.wait(self.options.batch_interval_ms / 1000)
            self._wake.clear()
            self._full.clear()
            try:
                self._pass()
            except Exception:
                LOG.exception("collector failed")  # a defect: the pass itself settles what rows and servers do
                time.sleep(CONNECT_WAIT_S[0])
                self._wake.set()

    def _pass(self) -> None:
        with self._lock:
            lanes = [*self._lanes, self._gaps]
        if not any(lane.kept for lane in lanes):
            for lane in lanes:
                lane.attention = 0
            # An append that came between the look and the reset was not attended to: look again.
            if any(lane.kept for lane in lanes):
                self._wake.set()
            return
        if not self._ready(lanes[:-1]):
            self._wake.set()
            return
        assert self._sink is not None
        numeric = self.options.numeric or self._sink.numeric
        for lane in lanes:
            items = lane.take(self.options.batch_rows_max)
            if items and lane.watch is not None:
                with _not_in_the_way(lane):
                    lane.watch.begin(lane.drops_before)
            for table, part in lane.split(items) if items else ():
                self._convert_and_send(lane, table, part, numeric)
            if items:
                self.tell_gaps(lane)
            if len(items) == self.options.batch_rows_max and lane.kept:
                self._nudge(True)

    def _ready(self, lanes: list[Lane]) -> bool:
        """Connect if need be and wait for room among the unanswered batches; False means try again."""
        try:
            self._connected()
        except Exception as error:
            text = _one_line(error)
            for lane in lanes:
                lane.last_error = text
                lane.log_seldom("connect", "cannot reach the server", error=text, queue_rows=len(lane.kept))
            self._ended.wait(CONNECT_WAIT_S[0])
            return False
        bound = IN_FLIGHT_BATCHES * self.options.batch_rows_max
        with self._landed:
            return self._landed.wait_for(lambda: self._in_flight < bound or self._ended.is_set(), timeout=1.0)

    def _connected(self) -> Sink:
        with self._sink_lock:
            if self._sink is None:
                self._sink = self._make_sink()
            return self._sink

    def _convert_and_send(self, lane: Lane, table: str, items: Any, numeric: NumericType) -> None:
        try:
            converted = list(convert_each(table, items, numeric))
        except Exception as error:
            LOG.exception("conversion failed; its rows are kept in table rejected", lane=lane.name, rows=len(items))
            converted = [Converted(_NO_ROWS, reject_all(table, items, f"not convertible: {_one_line(error)}"))]
        for each in converted:
            if lane.watch is not None and each.batch is not _NO_ROWS:
                with _not_in_the_way(lane):
                    lane.watch.see(table, each.batch, whole=not each.rejected)
            if each.batch is not _NO_ROWS and each.batch.num_rows:
                lane.converted += each.batch.num_rows
                self._send(lane, table, each.batch, as_rejected=False)
            if each.rejected:
                self._send_rejected(lane, each.rejected, numeric)

    def _send_rejected(self, lane: Lane, rejected: list[Rejected], numeric: NumericType) -> None:
        first = rejected[0]
        lane.log_seldom(
            "rejected",
            "rows rejected",
            rows=len(rejected),
            before=lane.rejected,
            table=first.table,
            reason=first.reason,
        )
        self._send(lane, "rejected", rejected_batch(rejected, self.producer, numeric), as_rejected=True)

    def _send(self, lane: Lane, table: str, batch: Any, *, as_rejected: bool) -> None:
        if self._abandoned:  # close() has counted these rows
            return
        number, rows = next(self._batch_numbers), batch.num_rows
        lane.flown(number, rows)
        with self._landed:
            self._outstanding[number] = _Flight(lane, rows, as_rejected)
            self._in_flight += rows
        try:
            future = self._append(table, batch)
        except Exception as error:
            self._land(number, error)
            return
        future.add_done_callback(lambda done: self._land(number, _failure(done), _refused(done)))

    def _append(self, table: str, batch: Any) -> Future[Any]:
        """Append, waiting out a full buffer for as long as draining may take."""
        assert self._sink is not None
        deadline = time.monotonic() + self.options.drain_timeout_s
        while True:
            try:
                return self._sink.append(table, batch)
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                self._ended.wait(CONNECT_WAIT_S[0])

    def _land(self, number: int, error: BaseException | None, refused: int = 0) -> None:
        with self._landed:
            flight = self._outstanding.pop(number, None)
            if flight is None:  # given up before its answer came
                return
            self._in_flight -= flight.rows
            self._landed.notify_all()
        lane, rows = flight.lane, flight.rows
        if error is not None:
            lane.last_error = _one_line(error)
            LOG.error("rows not stored", lane=lane.name, rows=rows, error=lane.last_error)
            lane.landed(number, failed=rows)
        elif flight.as_rejected:
            lane.landed(number, rejected=rows)
        else:
            lane.landed(number, acknowledged=rows - refused, rejected=refused)


@dataclasses.dataclass(frozen=True)
class _Flight:
    """A batch that was sent and has no answer yet."""

    lane: Lane
    rows: int
    as_rejected: bool


_NO_ROWS: Any = object()


@contextlib.contextmanager
def _not_in_the_way(lane: Lane) -> Iterator[None]:
    """Let no fault in the search for holes keep a row from being sent."""
    try:
        yield
    except Exception:
        LOG.exception("the search for holes failed", lane=lane.name)


_COLLECTORS: dict[Hashable, Collector] = {}
_REGISTRY_LOCK = threading.Lock()


def acquire(key: Hashable, make_sink: Callable[[], Sink], options: CollectorOptions) -> Collector:
    """Return the process's collector for ``key``, made if there is none, and count one more user."""
    with _REGISTRY_LOCK:
        collector = _COLLECTORS.get(key)
        if collector is None:
            collector = _COLLECTORS[key] = Collector(make_sink, options, key)
        collector.users += 1
        return collector


def release(collector: Collector) -> None:
    """Count one user less; the last one closes it. Blocks while it drains."""
    with _REGISTRY_LOCK:
        collector.users -= 1
        assert collector.users >= 0, "a collector was released more often than acquired"
        if collector.users:
            return
        if _COLLECTORS.get(collector.key) is collector:
            del _COLLECTORS[collector.key]
    collector.close()


def close_all() -> None:
    """Close every collector of the process; what a script left unstopped is drained at its exit."""
    with _REGISTRY_LOCK:
        collectors = list(_COLLECTORS.values())
        _COLLECTORS.clear()
    for collector in collectors:
        collector.close()


atexit.register(close_all)


def _refused(done: Future[Any]) -> int:
    """Return how many rows of an acknowledged batch the store kept aside; a batch of rejected rows is not one."""
    return 0 if _failure(done) is not None else int(done.result().rejected)


def _failure(future: Future[Any]) -> BaseException | None:
    return ConnectionAbortedError("given up") if future.cancelled() else future.exception()


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
