"""What the server keeps between calls under a handle: planned queries, prepared statements, transactions.

The rule of this file: handles are random, bounded in number, belong to a user, and end when long unused. When there are
too many, one of the user who has most of them goes: nobody's flood takes what is another's.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tickflight_server.clock import Clock
from tickflight_server.errors import CrowdedError, InputError, NotFoundError

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
        self._entries: OrderedDict[bytes, _Entry[T]] = OrderedDict()  # longest unused first
        self._of: dict[str, OrderedDict[bytes, None]] = {}  # each user's handles, longest unused first

    def add(self, user: str, value: T, most: int | None = None, *, refuse: str | None = None) -> bytes:
        """Keep ``value`` for ``user``; return its handle.

        Of more than ``most`` of the user's own the longest unused goes, or with ``refuse``, the limit's name, there is
        no other.

        Raises:
            CrowdedError: the user has ``most`` already.
        """
        handle = secrets.token_bytes(16)
        now = self._clock.monotonic()
        self.sweep()
        ended: list[T] = []
        with self._lock:
            if most is not None and refuse is not None and len(self._of.get(user, ())) >= most:
                raise CrowdedError(
                    f"you keep {most} {self._what}s, which is what your roles let you have.",
                    hint="Close some; those that are unused for long end by themselves.",
                    limit=refuse,
                )
            self._put(handle, _Entry(user, value, now))
            while most is not None and len(self._of[user]) > most:
                ended.append(self._pop(next(iter(self._of[user]))))
            ended += self._too_many()
        for one in ended:
            self._ended(one)
        return handle

    def keep(self, user: str, handle: bytes, value: T, most: int | None = None) -> T:
        """Keep ``value`` under a handle that ``user`` made up; return what is kept there, which may be an earlier one.

        Of more than ``most`` of the user's own the longest unused goes.

        Raises:
            InputError: the handle is empty, too long, or another user's.
        """
        if not 0 < len(handle) <= HANDLE_BYTES_MAX:
            raise InputError(f"the id of a {self._what} has {len(handle)} bytes.", hint="Make up 16 random bytes.")
        ended: list[T] = []
        with self._lock:
            entry = self._entries.get(handle)
            if entry is None:
                entry = self._put(handle, _Entry(user, value, self._clock.monotonic()))
                while most is not None and len(self._of[user]) > most:
                    ended.append(self._pop(next(iter(self._of[user]))))
        for one in ended:
            self._ended(one)
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
                handle, oldest = next(iter(self._entries.items()))
                if now - oldest.used <= self._idle_s:
                    break
                ended.append(self._pop(handle))
            ended += self._too_many()
            if gone is not None:
                ended += [self._pop(h) for h, e in list(self._entries.items()) if gone(e.value)]
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
            self._of[user].move_to_end(handle)
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
            self._pop(handle)
            return True

    def _put(self, handle: bytes, entry: _Entry[T]) -> _Entry[T]:
        self._entries[handle] = entry
        self._of.setdefault(entry.user, OrderedDict())[handle] = None
        return entry

    def _pop(self, handle: bytes) -> T:
        entry = self._entries.pop(handle)
        theirs = self._of[entry.user]
        del theirs[handle]
        if not theirs:
            del self._of[entry.user]
        return entry.value

    def _too_many(self) -> list[T]:
        """Take out what is too many: of the user who has most, the longest unused."""
        ended = []
        while len(self._entries) > self._most:
            user = max(self._of, key=lambda name: len(self._of[name]))
            ended.append(self._pop(next(iter(self._of[user]))))
        return ended
