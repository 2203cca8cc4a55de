"""Which partitions a flush writes: all when they are few or when it must be all, else the large and the old ones.

The rule of this file: a part a minute for each of thousands of partitions is millions of files a day; so small
partitions stay in log and memory until they are worth a file, and nothing waits longer than its age limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tickflight_server.store.partition import Partitioned, PartitionKey

Reason = Literal["all", "interval", "memory"]


@dataclass(frozen=True)
class FlushPolicy:
    """See ``LakehouseSettings`` for the meanings: ``flush_files_max``, ``flush_partition_mb`` and ``_seconds``."""

    files_max: int = 64
    partition_bytes: int = 8 << 20
    partition_seconds: float = 3600.0


class Waiting:
    """Since when each partition of one table has rows that are in no part."""

    def __init__(self, policy: FlushPolicy) -> None:
        self._policy = policy
        self._since: dict[PartitionKey, float] = {}

    def choose(self, rows: Partitioned, now_s: float, reason: Reason, keep_bytes: int) -> npt.NDArray[np.int64]:
        """Return the places of the partitions in ``rows`` to flush at ``now_s``, monotonic seconds.

        With reason ``memory``, the largest go until at most ``keep_bytes`` stay.
        """
        count = len(rows.keys)
        if reason == "all" or (count <= self._policy.files_max and reason == "interval"):
            return np.arange(count)
        sizes = (rows.ends - rows.starts) * (rows.rows.nbytes / max(1, rows.rows.num_rows))
        since = np.array([self._since.setdefault(k, now_s) for k in rows.keys])
        chosen = (sizes >= self._policy.partition_bytes) | (now_s - since >= self._policy.partition_seconds)
        if reason == "memory":
            order = np.argsort(-sizes, kind="stable")
            after = sizes.sum() - np.cumsum(sizes[order])
            chosen[order[: int(np.searchsorted(-after, -keep_bytes)) + 1]] = True
        return np.flatnonzero(chosen)

    def flushed(self, rows: Partitioned, places: npt.NDArray[np.int64]) -> None:
        """Note that the partitions at ``places`` have no row any more that is in no part."""
        for place in places.tolist():
            self._since.pop(rows.keys[place], None)
