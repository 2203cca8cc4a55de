"""The end of a table that a query for its newest, or oldest, rows needs.

The rule of this file: the rows that are kept hold all that the query can give. From the end that it wants, pieces of
the table (segments, parts) are counted whose rows all meet its conditions, until they are enough; every row that it can
give lies no further than they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tickflight_server.query.filters import And, Compare, Filter
from tickflight_server.query.plan import Plan
from tickflight_server.query.probe import Filters
from tickflight_server.query.prune import Candidates, PartCandidates, SegmentCandidates, may_fail
from tickflight_server.query.sources import is_cut
from tickflight_server.query.top import Top
from tickflight_server.store import TableSnapshot

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Pieces:
    """Bounds of each piece's column, which rise towards the end that is wanted, and its rows."""

    low: Numbers
    high: Numbers
    rows: Numbers


def at_the_end(plan: Plan, filters: Filters | None, snapshot: TableSnapshot, upto: int | None) -> Filters | None:
    """Return ``filters`` of a plan's one table with the bound that follows from its ORDER BY and LIMIT, if one does.

    ``snapshot`` is what there is of the table; rows after ``upto`` are none of the query's.
    """
    top, where = plan.statement.top, plan.statement.where
    if top is None or where is None or not top.rows:
        return filters
    try:
        condition = where.filters(plan.parameters, plan.now_us)
    except ValueError:
        return filters
    bound = _bound(top, _counted(top, condition, snapshot, upto))
    if bound is None:
        return filters
    compare = Compare(">=" if top.newest else "<=", top.column, bound)
    if filters is None:
        return Filters([compare])
    return Filters((compare if one is None else And(compare, one) for one in filters), filters.columns, filters.given)


def _counted(top: Top, condition: Filter | None, snapshot: TableSnapshot, upto: int | None) -> _Pieces:
    parts = snapshot.parts
    last = np.array([s.last_seq for s in snapshot.segments], dtype=np.int64), parts.max_seq
    rows = np.array([s.rows for s in snapshot.segments], dtype=np.int64), parts.rows
    cut = np.zeros(len(snapshot.segments), dtype=bool), is_cut(parts, snapshot)
    found = []
    candidates: tuple[Candidates, Candidates] = SegmentCandidates(snapshot.segments), PartCandidates(parts)
    for one, last_seq, count, is_begun in zip(candidates, last, rows, cut, strict=True):
        bounds = one.range(top.column)
        assert bounds is not None
        whole = ~is_begun if upto is None else ~is_begun & (last_seq <= upto)
        if condition is not None:
            whole &= ~may_fail(condition, one)  # what is weighed is never null
        found.append((bounds[0][whole], bounds[1][whole], count[whole]))
    low, high, many = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return _Pieces(low, high, many) if top.newest else _Pieces(-high, -low, many)


def _bound(top: Top, pieces: _Pieces) -> int | None:
    """Return how far from the end a row of the query can be, None if the pieces are not enough to tell."""
    order = np.argsort(-pieces.low, kind="stable")
    enough = int(np.searchsorted(np.cumsum(pieces.rows[order]), top.rows))
    if enough == len(order):
        return None
    last, before = order[enough], order[:enough]
    bound = int(pieces.low[last])
    if top.column == "seq":
        # no two rows have the same, so the piece that is the last one needed has the rest of them at its end
        missing = top.rows - int(pieces.rows[before].sum())
        dense = int(pieces.high[last]) - bound + 1 == int(pieces.rows[last])
        nearer = int(pieces.high[last]) - missing + 1
        if dense and (pieces.low[before] >= nearer).all():
            bound = nearer
    return bound if top.newest else -bound
