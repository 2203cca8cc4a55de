"""Time, passed in: whoever needs the hour takes a ``Clock``, so that a test decides it.

The rule of this file: ``SystemClock`` reads the machine's clocks; what takes a ``Clock`` asks nothing else.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time in microseconds since 1970, UTC, and a monotonic time in seconds."""

    def now_us(self) -> int:
        """Return the wall time in microseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        """Return the wall time in microseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""
        return time.monotonic()
