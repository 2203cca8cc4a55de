"""A queue that is fair to users: who has sent one thing does not wait for all of somebody else's hundred.

The rule of this file: users take turns, one thing each; what one user has sent comes out in its order. Whoever shares a
queue between threads holds a lock of their own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Things that wait, by their users."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, deque[T]] = OrderedDict()  # whose turn is next comes first
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def of(self, user: str) -> int:
        """Return how many things of ``user`` wait."""
        waiting = self._users.get(user)
        return 0 if waiting is None else len(waiting)

    def put(self, user: str, thing: T) -> None:
        """Let ``thing`` wait behind the others of its user."""
        self._users.setdefault(user, deque()).append(thing)
        self._length += 1

    def next(self, may: Callable[[str, T], bool] = lambda *_: True) -> T | None:
        """Take out the next thing: of the user whose turn it is, of those whose first thing ``may`` come out.

        None if there is none.
        """
        for user, waiting in self._users.items():
            if may(user, waiting[0]):
                thing = waiting.popleft()
                self._length -= 1
                self._users.move_to_end(user)
                if not waiting:
                    del self._users[user]
                return thing
        return None

    def remove(self, user: str, thing: T) -> bool:
        """Take ``thing`` out, wherever it stands; return whether it was there."""
        waiting = self._users.get(user)
        if waiting is None or thing not in waiting:
            return False
        waiting.remove(thing)
        self._length -= 1
        if not waiting:
            del self._users[user]
        return True
