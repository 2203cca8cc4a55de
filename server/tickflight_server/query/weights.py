"""How many rows lie where, by what is known of segments and parts without opening them.

The rule of this file: ``most`` is never too small; what only helps to cut well may be wrong. Rows are taken to be
spread evenly between a source's bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tickflight_server.store import PartIndex, Segment

Ints = npt.NDArray[np.int64]
_COMPRESSED = 4  # so many times smaller a part is than its rows in memory, about


@dataclass(frozen=True, eq=False)
class Weights:
    """Sources by their least and greatest value of a key, and how many rows each has between the bounds, at most.

    ``unique``: no two rows have one value. ``row_bytes`` is the size of a row in memory, about.
    """

    low: Ints
    high: Ints
    rows: Ints
    unique: bool
    row_bytes: int

    def most(self, span: tuple[int, int]) -> int:
        """Return how many rows there can be in ``span``, both ends included."""
        inside = np.minimum(self.high, span[1]) - np.maximum(self.low, span[0]) + 1
        rows = self.rows[inside > 0]
        if not self.unique:
            return int(rows.sum())
        return min(int(np.minimum(rows, inside[inside > 0]).sum()), span[1] - span[0] + 1)

    def spans(self, rows: int, *, whole: int) -> list[tuple[int, int]]:
        """Return neighbouring ranges with all rows, each with about ``rows``; one, if there are at most ``whole``."""
        if not len(self.rows):
            return []
        low, high = int(self.low.min()), int(self.high.max())
        count = -(-int(self.rows.sum()) // rows)
        if count < 2 or self.most((low, high)) <= whole:
            return [(low, high)]
        places, cumulated = self._cumulated()
        cuts = np.interp(np.linspace(0, cumulated[-1], count + 1)[1:-1], cumulated, places).astype(np.int64)
        starts = sorted({low, *np.clip(cuts, low, high).tolist()})
        return list(zip(starts, [s - 1 for s in starts[1:]] + [high], strict=True))

    def _cumulated(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return places of the key, rising, and how many rows there are below each."""
        density = self.rows / (self.high - self.low + 1.0)
        places = np.concatenate([self.low, self.high + 1]).astype(np.float64)
        order = np.argsort(places, kind="stable")
        places = places[order]
        slopes = np.cumsum(np.concatenate([density, -density])[order])[:-1]
        return places, np.concatenate([[0.0], np.cumsum(np.maximum(slopes, 0.0) * np.diff(places))])


def weights_of(segments: Sequence[Segment], parts: PartIndex, bounds: tuple[int, int], *, by_seq: bool) -> Weights:
    """Return what is known of rows between ``bounds`` of seq, or else of the timestamp in microseconds."""
    names = ("first_seq", "last_seq") if by_seq else ("min_us", "max_us")
    ring = [np.array([getattr(s, n) for s in segments], dtype=np.int64) for n in names]
    low = np.concatenate([ring[0], parts.min_seq if by_seq else parts.min_us])
    high = np.concatenate([ring[1], parts.max_seq if by_seq else parts.max_us])
    rows = np.concatenate([np.array([s.rows for s in segments], dtype=np.int64), parts.rows])
    size = sum(s.nbytes for s in segments) + parts.total_bytes * _COMPRESSED
    row_bytes = size // max(1, int(rows.sum()))
    low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    inside = low <= high
    low, high, rows = low[inside], high[inside], rows[inside]
    if by_seq:
        rows = np.minimum(rows, high - low + 1)
    return Weights(low, high, rows, by_seq, row_bytes)
