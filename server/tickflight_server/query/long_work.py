"""Lets a thread that is long at work for a statement step back for the others, until the work is done.

A thread of gRPC answers one call after the other, so it steps back only where it may come back
(``priority.may_come_back``).

The rule of this file: what counts is time on the processor; who waited for others has not been long at work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tickflight_server.priority import come_back, may_come_back, step_back

LONG_S = 0.05


class _Work:
    """What a thread does, and since when, in seconds of its own clock."""

    def __init__(self) -> None:
        self.thread = threading.get_native_id()
        self.clock = time.pthread_getcpuclockid(threading.get_ident())
        self.began = time.thread_time()
        self.is_back = False


class LongWork:
    """The threads at work for statements; ``look`` lets those step back that have been at it for ``LONG_S``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: set[_Work] = set()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let the caller's thread step back if the block takes long."""
        work = _Work()
        with self._lock:
            self._works.add(work)
        try:
            yield
        finally:
            with self._lock:
                self._works.discard(work)
            if work.is_back:
                come_back()

    def look(self) -> None:
        """Let threads step back; to be called now and then while there are any."""
        with self._lock:
            for work in self._works:
                if not work.is_back and time.clock_gettime(work.clock) - work.began > LONG_S and may_come_back():
                    work.is_back = step_back(work.thread)
