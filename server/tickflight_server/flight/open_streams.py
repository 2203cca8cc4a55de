"""The streams that are open for long: tails, live queries and replays, counted together.

The rule of this file: a stream counts from before its first row until its call has ended, whatever ends it; when the
server shuts down all are told to end, and no other may begin. There is one of these for all users of a server.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from tickflight_server.errors import BusyError, CrowdedError
from tickflight_server.flight.auth import Call
from tickflight_server.metrics import Metrics


class OpenStreams:
    """The open streams of one server.

    Args:
        most: how many may be open at once (``query.streams_max``).
        metrics: where refusals are counted.
    """

    def __init__(self, most: int, metrics: Metrics | None = None) -> None:
        self._most = most
        self._metrics = metrics or Metrics()
        self._lock = threading.Lock()
        self._stops: dict[object, Callable[[], None]] = {}
        self._by_user: Counter[str] = Counter()
        self._closed = False

    def __len__(self) -> int:
        return len(self._stops)

    def enter(self, call: Call, stop: Callable[[], None]) -> None:
        """Count a stream until ``call`` has ended; ``stop`` lets it end soon, from any thread and more than once.

        It is run when the caller goes away, too.

        Raises:
            CrowdedError: as many are open as may be, of all users or of this one.
            BusyError: the server shuts down.
        """
        key, user, most = object(), call.session.user, call.session.rights.limits.streams_max
        with self._lock:
            if self._closed:
                raise BusyError("the server shuts down.", hint="Try again.")
            if len(self._stops) >= self._most:
                self._metrics.add("streams_refused")
                raise CrowdedError(
                    f"{self._most} tails, live queries and replays are open.",
                    hint="Close some, or try again later.",
                    limit="query.streams_max",
                )
            if most is not None and self._by_user[user] >= most:
                self._metrics.add("streams_refused")
                raise CrowdedError(
                    f"{self._by_user[user]} tails, live queries and replays of yours are open, which is what your "
                    "roles let you have.",
                    hint="Close some first.",
                    limit="limits.streams_max",
                )
            self._stops[key] = stop
            self._by_user[user] += 1
        call.hold(lambda: self._leave(key, user))
        call.watch(stop)

    def _leave(self, key: object, user: str) -> None:
        with self._lock:
            if self._stops.pop(key, None) is not None:
                self._by_user[user] -= 1
                if not self._by_user[user]:
                    del self._by_user[user]

    def close(self) -> None:
        """Let all streams end, and let none begin."""
        with self._lock:
            self._closed = True
            stops = list(self._stops.values())
        for stop in stops:
            stop()
