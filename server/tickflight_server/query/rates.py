"""How fast users may send rows: who sends faster is kept waiting, and nothing is dropped.

The rule of this file: a second's rows come through at once; what is above the rate waits until it is under it. There
is one of these for all streams of a server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tickflight_server.metrics import Metrics

_BURST_S = 1.0
_LOOK_S = 0.05
_USERS_KEPT = 10_000


class Rates:
    """The rates of users, together over all their streams."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}  # by user: when what came until now is under the rate

    def wait(self, user: str, rows: int, per_s: int | None, gone: Callable[[], bool] = lambda: False) -> None:
        """Return when ``rows`` more rows of ``user`` are under ``per_s`` rows a second, or the caller is gone."""
        if per_s is None or not rows:
            return
        now = time.monotonic()
        with self._lock:
            until = self._until[user] = max(self._until.get(user, 0.0), now) + rows / per_s
            if len(self._until) > _USERS_KEPT:
                self._until = {name: when for name, when in self._until.items() if when > now}
        over = until - now - _BURST_S
        if over <= 0:
            return
        self._metrics.add("ingest_slowed")
        self._metrics.add("ingest_slowed_s", over)
        end = now + over
        while (left := end - time.monotonic()) > 0 and not gone():
            time.sleep(min(left, _LOOK_S))
