"""The last sequence that a table took from each producer: what tells a batch sent again from a new one.

The rule of this file: what was taken and never became durable can be forgotten, and what is durable is told to the
catalog with the flush that puts its rows into parts, or a later one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class ProducerMarks:
    """The marks of one table.

    Args:
        stored: gives a producer's last sequence in the table's newest version, 0 if it has none.
    """

    def __init__(self, stored: Callable[[bytes], int]) -> None:
        self._stored = stored
        self._lock = threading.Lock()
        self._taken: dict[bytes, int] = {}
        self._durable: dict[bytes, int] = {}
        self._uncommitted: dict[bytes, int] = {}  # durable, and not told to the catalog since

    def taken(self, producer: bytes) -> int:
        """Return the last sequence taken from ``producer``, 0 if none; the caller holds the store's append lock."""
        known = self._taken.get(producer)
        if known is None:
            known = max(self._stored(producer), self._durable.get(producer, 0))
            self._taken[producer] = known
        return known

    def take(self, producer: bytes, sequence: int) -> None:
        """Remember that ``producer``'s batches up to ``sequence`` were taken; the caller holds the append lock."""
        self._taken[producer] = max(sequence, self.taken(producer))

    def publish(self, producer: bytes, sequence: int) -> None:
        """Remember that the batch ``sequence`` is durable."""
        with self._lock:
            self._durable[producer] = self._uncommitted[producer] = sequence

    def replay(self, producer: bytes, sequence: int) -> None:
        """Remember a sequence that the log has; the next flush tells it, in case the last one did not."""
        self.take(producer, sequence)
        self.publish(producer, self._taken[producer])

    def forget_unpublished(self) -> None:
        """Forget what was taken and never became durable; the caller holds the append lock."""
        self._taken = {}

    def uncommitted(self) -> dict[bytes, int]:
        """Return what the catalog was not told yet."""
        with self._lock:
            return dict(self._uncommitted)

    def commit(self, told: dict[bytes, int]) -> None:
        """Remember that the catalog has ``told``."""
        with self._lock:
            for producer, sequence in told.items():
                if self._uncommitted.get(producer) == sequence:
                    del self._uncommitted[producer]
