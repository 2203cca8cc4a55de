"""What readers that follow a table wait for: rows that became visible, and when.

The rule of this file: whoever tells never waits for those who listen; a waiting reader looks at the table's state
itself, so that nothing told here can be lost.
"""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Callable

_KEPT = 4096  # times of commits that are remembered: some 40 s at ten milliseconds each


class Arrivals:
    """The newest ``seq`` of a table, for waiting on."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._last_seq = 0
        self._times: deque[tuple[int, int]] = deque(maxlen=_KEPT)  # last seq of a commit, and when it was durable

    def tell(self, first_seq: int, last_seq: int, now_us: int) -> None:
        """Rows ``first_seq`` to ``last_seq`` are durable and visible since ``now_us``, microseconds since 1970 UTC."""
        with self._condition:
            if not self._times:
                self._times.append((first_seq - 1, 0))
            self._last_seq = last_seq
            self._times.append((last_seq, now_us))
            self._condition.notify_all()

    def wake(self) -> None:
        """Let everybody who waits look again whether they are to stop."""
        with self._condition:
            self._condition.notify_all()

    def wait(self, seq: int, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until there is a row after ``seq``; return False if there is none in time, or the reader ``stopped``."""
        with self._condition:
            self._condition.wait_for(lambda: self._last_seq > seq or stopped(), timeout_s)
            return self._last_seq > seq

    def durable_us(self, seq: int) -> int:
        """Return when row ``seq`` became durable, in microseconds since 1970 UTC; 0 if that is not known any more."""
        with self._condition:
            times = list(self._times)
        place = bisect.bisect_left(times, (seq, 0))
        return times[place][1] if 0 < place < len(times) else 0
