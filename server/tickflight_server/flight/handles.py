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
from tickflight_server.errors import InputError, NotFoundError

T = TypeVar("T")
HANDLE_BYTES_MAX = 64


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
        ended: is given each value that went because it was unused, or because there were too many.
    """

    def __init__(
        self, what: str, clock: Clock, *, most: int, idle_s: float, ended: Callable[[T], None] = lambda _: None
    ) -> None:
        self._what = what
        self._clock = clock
        self._most = most
        self._idle_s = idle_s
        self._ended = ended
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry[T]] = OrderedDict()

    def add(self, user: str, value: T) -> bytes:
        """Keep ``value`` for ``user``; return its handle."""
        handle = secrets.token_bytes(16)
        now = self._clock.monotonic()
        with self._lock:
            self._entries[handle] = _Entry(user, value, now)
        self.sweep()
        return handle

    def keep(self, user: str, handle: bytes, value: T) -> T:
        """Keep ``value`` under a handle that ``user`` made up; return what is kept there, which may be an earlier one.

        Raises:
            InputError: the handle is empty, too long, or another user's.
        """
        if not 0 < len(handle) <= HANDLE_BYTES_MAX:
            raise InputError(f"the id of a {self._what} has {len(handle)} bytes.", hint="Make up 16 random bytes.")
        with self._lock:
            entry = self._entries.setdefault(handle, _Entry(user, value, self._clock.monotonic()))
        if entry.user != user:
            raise InputError(f"the id of the {self._what} is taken.", hint="Make up 16 random bytes.")
        self.sweep()
        return entry.value

    def sweep(self, gone: Callable[[T], bool] | None = None) -> None:
        """Forget what is unused for long, what is too many, and what is ``gone``."""
        now = self._clock.monotonic()
        ended: list[T] = []
        with self._lock:
            while self._entries:
                oldest = next(iter(self._entries.values()))
                if len(self._entries) <= self._most and now - oldest.used <= self._idle_s:
                    break
                ended.append(self._entries.popitem(last=False)[1].value)
            if gone is not None:
                ended += [self._entries.pop(h).value for h, e in list(self._entries.items()) if gone(e.value)]
        for value in ended:
            self._ended(value)

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
