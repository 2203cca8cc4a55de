"""Free space of the data folder's disk: a reserve is kept, so that flushes and repairs still find room.

The rule of this file: below the reserve nothing is accepted, queries go on, and as soon as there is room again all goes
on by itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from tickflight_server.config import MIB
from tickflight_server.errors import LogClosedError
from tickflight_server.store.health import Health

_PART_OF_DISK = 20


class DiskWatch:
    """Watches the disk of ``folder``; the reserve is ``free_min_mb`` or a twentieth of the disk, what is less."""

    def __init__(self, folder: Path, free_min_mb: int, health: Health) -> None:
        self._folder = folder
        self._free_min = free_min_mb * MIB
        self._health = health
        self._full: LogClosedError | None = None

    def look(self) -> None:
        """See how much is free, and tell ``health``."""
        try:
            status = os.statvfs(self._folder)
        except OSError as error:
            self._health.report("disk", "degraded", f"the data folder cannot be looked at: {error.strerror}.")
            return
        free = status.f_bavail * status.f_frsize
        least = min(self._free_min, status.f_blocks * status.f_frsize // _PART_OF_DISK)
        if free >= least:
            self._full = None
            self._health.ok("disk")
            return
        text = f"the disk has {free // MIB} MB free, below the reserve of {least // MIB} MB: nothing is accepted."
        hint = "Free space, or lower lakehouse.disk_free_min_mb; queries still answer."
        self._full = LogClosedError(text, hint=hint, temporary=True)
        self._health.report("disk", "failed", "the disk is full: nothing is accepted.", hint)

    def check(self) -> None:
        """See that there is room for more.

        Raises:
            LogClosedError: there is not; the same call may go through later.
        """
        if self._full is not None:
            raise LogClosedError(self._full.message, hint=self._full.hint, temporary=True)
