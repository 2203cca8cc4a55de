"""Turns: how many statements the processor works for at once, so that many do not take it from those who write.

The rule of this file: nobody waits for long because somebody else takes long. A turn that lasts longer than
``TURN_S`` no longer counts, and the next one in the queue goes on beside it. Users take turns, and whoever is stopped
waits no longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tickflight_server.errors import CancelledError
from tickflight_server.query.fair import FairQueue
from tickflight_server.query.stopping import Stops

TURN_S = 0.05
CORE_ROWS_S = 1_000_000  # of such a rate of rows that come in, a core has enough to do
LOOK_S = 0.2


class _Turn:
    """One statement's turn: since when it works, None while it waits."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.until = 0.0
        self.stopped = False


class Turns:
    """Lets ``most`` statements work at once, of one user after the other, and more of them that take long.

    While rows come in, as many fewer as ingest needs cores, but one at least: ``rows`` tells how many came until now.
    """

    def __init__(self, most: int, rows: Callable[[], float] = lambda: 0.0) -> None:
        self._cores = self._most = most
        self._rows = rows
        self._looked, self._came = time.monotonic(), rows()
        self._lock = threading.Lock()
        self._working: set[_Turn] = set()
        self._waiting: FairQueue[_Turn] = FairQueue()

    @contextmanager
    def one(self, *, small: bool = False, user: str = "", stops: Stops | None = None) -> Iterator[None]:
        """Run the block when it is its turn, soon however long others take; what is ``small`` waits for none of them.

        A small one takes its turn all the same, so that the others are as many fewer. ``stops`` ends the wait.

        Raises:
            CancelledError: it was stopped while it waited.
        """
        turn = _Turn()
        with self._lock:
            if small:
                turn.until = time.monotonic() + TURN_S
                self._working.add(turn)
            else:
                self._waiting.put(user, turn)
                self._next()
        if not turn.until:
            if stops is not None:
                stops.add(lambda: self._end_wait(user, turn))
            self._wait(turn)
        try:
            yield
        finally:
            with self._lock:
                self._working.discard(turn)
                self._next()

    def _wait(self, turn: _Turn) -> None:
        """Return when it is the turn of ``turn``."""
        while not turn.until:
            # whoever waits looks whether a turn is over that does not end
            if not turn.go.acquire(timeout=self._soonest()):
                with self._lock:
                    self._next()
            if turn.stopped:
                raise CancelledError("the query was cancelled while it waited for its turn.")

    def _end_wait(self, user: str, turn: _Turn) -> None:
        """Let ``turn`` leave the queue, if it is still in it."""
        with self._lock:
            if self._waiting.remove(user, turn):
                turn.stopped = True
                turn.go.release()

    def _soonest(self) -> float:
        """Return the seconds until the first of those who work has had its turn."""
        with self._lock:
            soonest = min((turn.until for turn in self._working), default=0.0)
        return max(0.001, soonest - time.monotonic())

    def _next(self) -> None:
        """Let those who wait begin, as many as may."""
        if not len(self._waiting):
            return
        now = time.monotonic()
        self._leave_to_ingest(now)
        if len(self._working) >= self._most:
            self._working = {turn for turn in self._working if turn.until > now}
        while len(self._working) < self._most and (turn := self._waiting.next()) is not None:
            turn.until = now + TURN_S
            self._working.add(turn)
            turn.go.release()

    def _leave_to_ingest(self, now: float) -> None:
        """Look how many cores ingest needs, now and then."""
        seconds = now - self._looked
        if seconds >= LOOK_S:
            came = self._rows()
            self._most = max(1, self._cores - round((came - self._came) / seconds / CORE_ROWS_S))
            self._looked, self._came = now, came
