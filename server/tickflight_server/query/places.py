"""Places: how many statements run at once, for the server and for each user, and who gets the next one.

The rule of this file: users take turns, so that one user's hundred statements do not delay another's one; whoever waits
leaves at once when its caller goes or cancels. There is one of these for all engines of a server.
"""

from __future__ import annotations

import threading
import time

from tickflight_server.config import QuerySettings
from tickflight_server.errors import CancelledError, CrowdedError
from tickflight_server.metrics import Metrics
from tickflight_server.query.callers import Caller
from tickflight_server.query.fair import FairQueue
from tickflight_server.query.planning import Started

_SPARE = 8  # at most this part of the places is kept for users who have none


class _Waiting:
    """A statement that waits for a place."""

    __slots__ = ("caller", "go", "left")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.go = threading.Lock()
        self.go.acquire()
        self.left = False


class Places:
    """The places of one server.

    Args:
        settings: how many there are, how many may wait, and for how long.
        metrics: where statements, and those that were refused, are counted.
    """

    def __init__(self, settings: QuerySettings, metrics: Metrics) -> None:
        self._most = settings.concurrent_max
        self._spare = min(settings.spare_places, self._most // _SPARE)
        self._queue_max = settings.queue_max
        self._timeout_s = settings.queue_timeout_s
        self._metrics = metrics
        self._lock = threading.Lock()
        self._taken = 0
        self._by_user: dict[str, int] = {}
        self._queue: FairQueue[_Waiting] = FairQueue()

    @property
    def free(self) -> int:
        """How many places nobody has."""
        return self._most - self._taken

    @property
    def waiting(self) -> int:
        """How many statements wait for one."""
        return len(self._queue)

    def take(self, caller: Caller, started: Started | None = None) -> float:
        """Take a place; return the seconds that it was waited for. ``leave`` gives it back.

        ``started`` is given what ends the wait.

        Raises:
            CrowdedError: as many wait as may, or none came free in time; the message names the limit.
            CancelledError: the wait was ended.
        """
        with self._lock:
            if not self._queue.of(caller.user) and self._may(caller.user, caller):
                self._give(caller.user)
                waiting = None
            else:
                waiting = self._enqueue(caller)
        waited = 0.0 if waiting is None else self._wait(waiting, started)
        self._metrics.add("queries")
        return waited

    def leave(self, caller: Caller) -> None:
        """Give back a place."""
        with self._lock:
            self._taken -= 1
            left = self._by_user[caller.user] - 1
            if left:
                self._by_user[caller.user] = left
            else:
                del self._by_user[caller.user]
            self._next()
        self._metrics.add("queries_ended")

    def _may(self, user: str, caller: Caller) -> bool:
        """Return whether ``user`` may have a place now."""
        free, has = self._most - self._taken, self._by_user.get(user, 0)
        most = caller.limits.queries_max
        # the last ones are for users who have none
        return free > (self._spare if has else 0) and (most is None or has < most)

    def _give(self, user: str) -> None:
        self._taken += 1
        self._by_user[user] = self._by_user.get(user, 0) + 1

    def _next(self) -> None:
        """Give free places to those who wait and may have them."""
        while len(self._queue) and self._taken < self._most:
            waiting = self._queue.next(lambda user, first: self._may(user, first.caller))
            if waiting is None:
                return
            self._give(waiting.caller.user)
            waiting.go.release()

    def _enqueue(self, caller: Caller) -> _Waiting:
        most = caller.limits.queue_max
        if most is not None and self._queue.of(caller.user) >= most:
            raise self._refused(
                "limits.queue_max",
                f"{self._by_user.get(caller.user, 0)} statements of yours run and {most} wait, more may not.",
                "Wait until one has ended; roles say how many there may be.",
            )
        if len(self._queue) >= self._queue_max:
            raise self._refused(
                "query.queue_max", f"{self._queue_max} statements wait for a place.", "Try again later."
            )
        waiting = _Waiting(caller)
        self._queue.put(caller.user, waiting)
        return waiting

    def _wait(self, waiting: _Waiting, started: Started | None) -> float:
        """Return the seconds until ``waiting`` had a place."""
        began = time.monotonic()
        self._metrics.add("queries_queued")
        if started is not None:
            started(lambda: self._end_wait(waiting))
        waiting.go.acquire(timeout=self._timeout_s)
        user = waiting.caller.user
        with self._lock:
            if waiting.left:
                raise CancelledError("the statement was cancelled while it waited for others to end.")
            if self._queue.remove(user, waiting):
                runs, most = self._by_user.get(user, 0), waiting.caller.limits.queries_max
                if most is not None and runs >= most:
                    what = "limits.queries_max", f"{runs} statements of yours run already, and none"
                else:
                    what = "query.concurrent_max", f"{self._taken} statements run already, and no place"
                raise self._refused(
                    what[0],
                    f"{what[1]} came free in {self._timeout_s:g} s (query.queue_timeout_s).",
                    "Try again later.",
                )
        return time.monotonic() - began

    def _end_wait(self, waiting: _Waiting) -> None:
        """Let ``waiting`` leave the queue, if it is still in it."""
        with self._lock:
            if self._queue.remove(waiting.caller.user, waiting):
                waiting.left = True
                waiting.go.release()

    def _refused(self, limit: str, message: str, hint: str) -> CrowdedError:
        self._metrics.add("queries_refused")
        return CrowdedError(message, hint=hint, limit=limit)
