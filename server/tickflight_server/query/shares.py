"""A large scan in parts that can be read by themselves, at once and by several connections.

The rule of this file: together the parts have each row of one snapshot exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tickflight_server.config import QuerySettings
from tickflight_server.query.probe import Filters
from tickflight_server.query.sources import chosen
from tickflight_server.store import PartIndex, Segment, TableSnapshot


@dataclass(frozen=True, eq=False)
class Share:
    """A part of a scan, to be read by itself: ``snapshot`` has its sources, ``whole`` keeps all of them readable.

    ``number`` is its place among the others.
    """

    snapshot: TableSnapshot
    whole: TableSnapshot
    rows: int
    number: int


def split(whole: TableSnapshot, filters: Filters | None, upto: int | None, settings: QuerySettings) -> list[Share]:
    """Return shares of about ``share_rows`` rows, at most ``shares_max``; none if there would be only one.

    Rows are those of the segments and parts that can match, before any filter.
    """
    segments, parts = chosen(whole, filters, upto)
    sizes = np.array([s.rows for s in segments] + parts.rows.tolist(), dtype=np.int64)
    count = min(settings.shares_max, len(sizes), int(sizes.sum()) // settings.share_rows)
    if count < 2:
        return []
    bins: list[list[int]] = [[] for _ in range(count)]
    rows = [0] * count
    for place in np.argsort(-sizes, kind="stable").tolist():  # the largest first, each to the smallest share so far
        smallest = rows.index(min(rows))
        bins[smallest].append(place)
        rows[smallest] += int(sizes[place])
    return [
        Share(_piece(whole, segments, parts, sorted(bins[number])), whole, rows[number], number)
        for number in range(count)
    ]


def _piece(whole: TableSnapshot, segments: Sequence[Segment], parts: PartIndex, places: list[int]) -> TableSnapshot:
    mask = np.zeros(len(parts), dtype=bool)
    mask[[p - len(segments) for p in places if p >= len(segments)]] = True
    kept = tuple(segments[p] for p in places if p < len(segments))
    return replace(whole, segments=kept, parts=parts.chosen(mask))
