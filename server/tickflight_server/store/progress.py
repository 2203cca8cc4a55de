"""How far the start is, told while a long log is replayed.

The rule of this file: a start that takes longer than a few seconds says so, with what is left.
"""

from __future__ import annotations

import structlog

from tickflight_server.clock import Clock

LOG = structlog.get_logger(__name__)
_EVERY_S = 2.0


class Progress:
    """Counts what is replayed; ``bytes_total`` is the log's size."""

    def __init__(self, bytes_total: int, clock: Clock) -> None:
        self._total = bytes_total
        self._clock = clock
        self._started = self._told = clock.monotonic()
        self.rows = 0

    def step(self, bytes_read: int) -> None:
        """Tell how far it is, every two seconds."""
        now = self._clock.monotonic()
        if now - self._told < _EVERY_S:
            return
        self._told = now
        share = bytes_read / max(1, self._total)
        left = (now - self._started) * (1 - share) / max(share, 1e-9)
        LOG.info("log.replaying", percent=round(100 * share), rows=self.rows, seconds_left=round(left))

    def end(self) -> None:
        """Tell what was replayed, if anything was."""
        if self.rows:
            seconds = self._clock.monotonic() - self._started
            LOG.info("log.replayed", rows=self.rows, seconds=round(seconds, 2))
