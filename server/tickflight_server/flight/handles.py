"""What the server keeps between calls under a handle: planned queries, prepared statements, transactions.

The rule of this file: handles are random, bounded in number, belong to a user, and end when long unused.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tickflight_server.clock import Clock
from tickflight_server.errors import NotFoundError

T = TypeVar("T")


@dataclass
class _Entry(Generic[T]):
    user: str
    value: T
    used: float


class Handles(Generic[T]):
    """Values by handle, the longest unused first to go.

    Args:
        what: what they are, for errors: "prepared statement".
        most: how many are kept.
        idle_s: seconds without use after which one ends.
    """

    def __init__(self, what: str, clock: Clock, *, most: int, idle_s: float) -> None:
        self._what = what
        self._clock = clock
        self._most = most
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry[T]] = OrderedDict()

    def add(self, user: str, value: T) -> bytes:
        """Keep ``value`` for ``user``; return its handle."""
        handle = secrets.token_bytes(16)
        now = self._clock.monotonic()
        with self._lock:
            self._entries[handle] = _Entry(user, value, now)
            while self._entries:
                oldest = next(iter(self._entries.values()))
                if len(self._entries) <= self._most and now - oldest.used <= self._idle_s:
                    break
                self._entries.popitem(last=False)
        return handle

    def get(self, user: str, handle: bytes) -> T:
        """Return the value under ``handle`` and keep it alive.

        Raises:
            NotFoundError: there is none, it has ended, or it is another user's.
        """
        with self._lock:
            entry = self._entries.get(handle)
            now = self._clock.monotonic()
            if entry is None or entry.user != user or now - entry.used > self._idle_s:
                raise NotFoundError(f"there is no such {self._what}, or it has ended.", hint="Make it anew.")
            entry.used = now
            self._entries.move_to_end(handle)
            return entry.value

    def sweep(self, gone: Callable[[T], bool] = lambda _: False) -> None:
        """Forget what is idle, and what is ``gone``."""
        now = self._clock.monotonic()
        with self._lock:
            for handle, entry in list(self._entries.items()):
                if now - entry.used > self._idle_s or gone(entry.value):
                    del self._entries[handle]

    def find(self, user: str, handle: bytes) -> T | None:
        """Return the value under ``handle``, None if there is none or it is another user's."""
        with self._lock:
            entry = self._entries.get(handle)
            return entry.value if entry is not None and entry.user == user else None

    def values(self) -> list[T]:
        """Return all values that are kept."""
        with self._lock:
            return [entry.value for entry in self._entries.values()]

    def remove(self, user: str, handle: bytes) -> bool:
        """Forget a handle; return whether it was there."""
        with self._lock:
            entry = self._entries.get(handle)
            if entry is None or entry.user != user:
                return False
            del self._entries[handle]
            return True
