"""Counters of a process: plain numbers by name, cheap to add to from any thread, read as one dict.

The rule of this file: whatever is dropped, rejected, resent or refused has a counter here.
"""

from __future__ import annotations

import threading
from collections import defaultdict


class Metrics:
    """Named counters and gauges."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1) -> None:
        """Add ``amount`` to a counter."""
        with self._lock:
            self._values[name] += amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name] = value

    def read(self) -> dict[str, float]:
        """Return all values by name."""
        with self._lock:
            return dict(self._values)
