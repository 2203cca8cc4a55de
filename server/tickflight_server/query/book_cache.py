"""What is kept between calls about books: the least recently used goes first.

The rule of this file: what it holds together is at most what it may, and it never says what anything means.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class BookCache:
    """Values by key, at most ``bytes_max`` of them together; for use by many threads.

    Args:
        bytes_max: limit of what ``put`` is told.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.nbytes = 0

    def get(self, key: Hashable) -> Any:
        """Return a value, None if there is none."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value, in the place of an older one; one above the limit is not kept."""
        with self._lock:
            old = self._kept.pop(key, None)
            if old is not None:
                self.nbytes -= old[1]
            if nbytes > self._bytes_max:
                return
            self._kept[key] = (value, nbytes)
            self.nbytes += nbytes
            while self.nbytes > self._bytes_max:
                _, (_, gone) = self._kept.popitem(last=False)
                self.nbytes -= gone
