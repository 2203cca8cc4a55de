"""How many calls are under way, in all and of each user: each holds a thread of gRPC's until it ends.

The rule of this file: a call counts from before its handler is chosen, also one whose caller never says what it wants.
"""

from __future__ import annotations

import threading
from collections import Counter

from tickflight_server.config import FlightSettings
from tickflight_server.errors import BusyError
from tickflight_server.metrics import Metrics


class OpenCalls:
    """The open calls of one server."""

    def __init__(self, settings: FlightSettings, metrics: Metrics) -> None:
        self._most = settings.calls_max
        self._most_per_user = settings.calls_per_user_max
        self._metrics = metrics
        self._lock = threading.Lock()
        self._by_user: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, user: str) -> None:
        """Count a call of ``user``; ``leave`` is to be called once when it has ended.

        Raises:
            BusyError: as many are under way as may be.
        """
        with self._lock:
            mine = self._by_user[user]
            if self._count < self._most and mine < self._most_per_user:
                self._count += 1
                self._by_user[user] = mine + 1
                return
        self._metrics.add("calls_refused")
        if mine >= self._most_per_user:
            raise BusyError(f"you have {mine} calls under way (flight.calls_per_user_max).", hint="Let some end.")
        raise BusyError(f"{self._most} calls are under way (flight.calls_max).", hint="Try again.")

    def leave(self, user: str) -> None:
        """Count a call no longer."""
        with self._lock:
            self._count -= 1
            self._by_user[user] -= 1
            if not self._by_user[user]:
                del self._by_user[user]
