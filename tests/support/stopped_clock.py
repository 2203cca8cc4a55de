"""A clock that only a test moves."""

from __future__ import annotations


class StoppedClock:
    """Stands at ``us``, microseconds since 1970, until a test sets it."""

    def __init__(self, us: int = 1_790_000_000_000_000) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6
