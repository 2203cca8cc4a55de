"""Choosing segments and parts by a query's filters, before anything is opened.

The rule of this file: what is left out cannot hold a row for which the filter is true. Each node of a filter is
weighed as two masks over the candidates: may it be true for some row, may it be false for some row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tickflight_server.query.filters import And, Compare, Filter, In, IsNull, Literal, Not, Or
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.ring import Segment

Mask = npt.NDArray[np.bool_]
Masks = tuple[Mask, Mask]

_ORDERS: Mapping[str, Callable[[str, str], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NEVER_NULL = ("exchange", "symbol", "timestamp", "receipt_timestamp", "seq")


class Candidates(Protocol):
    """Things to choose from, known by the bounds of their rows."""

    def __len__(self) -> int: ...

    def members(self, column: str, values: frozenset[str]) -> Masks | None:
        """Return where some row's ``column`` is in ``values`` and where some row's is not; None if not known."""

    def labels(self, column: str, holds: Callable[[str], bool]) -> Masks | None:
        """Return where ``holds`` is true of some row's ``column`` and where it is not; None if not known."""

    def range(self, column: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """Return least and greatest ``column`` of each candidate; None if not known."""


class PartCandidates:
    """Parts: one exchange and symbol each, bounds of time and ``seq``."""

    def __init__(self, index: PartIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def members(self, column: str, values: frozenset[str]) -> Masks | None:
        """See ``Candidates``."""
        return self.labels(column, values.__contains__)

    def labels(self, column: str, holds: Callable[[str], bool]) -> Masks | None:
        """See ``Candidates``; ``holds`` is asked once for each distinct label."""
        if column not in ("exchange", "symbol"):
            return None
        codes, names = self._index.labels(column)
        inside = np.array([holds(name) for name in names], dtype=bool)[codes]
        return inside, ~inside

    def range(self, column: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """See ``Candidates``."""
        if column == "timestamp":
            return self._index.min_us, self._index.max_us
        if column == "seq":
            return self._index.min_seq, self._index.max_seq
        return None


class SegmentCandidates:
    """Segments: sets of exchanges and symbols, bounds of time and ``seq``."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments

    def __len__(self) -> int:
        return len(self._segments)

    def members(self, column: str, values: frozenset[str]) -> Masks | None:
        """See ``Candidates``."""
        if column not in ("exchange", "symbol"):
            return None
        held: list[frozenset[str]] = [s.exchanges if column == "exchange" else s.symbols for s in self._segments]
        inside = np.array([not h.isdisjoint(values) for h in held], dtype=bool)
        outside = np.array([not h <= values for h in held], dtype=bool)
        return inside, outside

    def labels(self, column: str, holds: Callable[[str], bool]) -> Masks | None:
        """See ``Candidates``."""
        if column not in ("exchange", "symbol"):
            return None
        held = [s.exchanges if column == "exchange" else s.symbols for s in self._segments]
        inside = np.array([any(map(holds, h)) for h in held], dtype=bool)
        outside = np.array([not all(map(holds, h)) for h in held], dtype=bool)
        return inside, outside

    def range(self, column: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """See ``Candidates``."""
        names = {"timestamp": ("min_us", "max_us"), "seq": ("first_seq", "last_seq")}.get(column)
        if names is None:
            return None
        low, high = (np.array([getattr(s, n) for s in self._segments], dtype=np.int64) for n in names)
        return low, high


def may_match(node: Filter, candidates: Candidates) -> Mask:
    """Return for each candidate whether some row of it may satisfy ``node``."""
    return _weigh(node, candidates)[0]


def may_fail(node: Filter, candidates: Candidates) -> Mask:
    """Return for each candidate whether some row of it may not satisfy ``node``."""
    return _weigh(node, candidates)[1]


def _weigh(node: Filter, candidates: Candidates) -> Masks:
    match node:
        case And(left, right):
            lt, lf = _weigh(left, candidates)
            if not lt.any():
                return lt, _everywhere(candidates, True)  # what the other says costs more than it can tell
            rt, rf = _weigh(right, candidates)
            return lt & rt, lf | rf
        case Or(left, right):
            (lt, lf), (rt, rf) = _weigh(left, candidates), _weigh(right, candidates)
            return lt | rt, lf & rf
        case Not(operand):
            true, false = _weigh(operand, candidates)
            return false, true
        case Literal(value) if value is None or isinstance(value, bool):
            return _everywhere(candidates, value is True), _everywhere(candidates, value is False)
        case IsNull(column) if column in _NEVER_NULL:
            return _everywhere(candidates, False), _everywhere(candidates, True)
        case In(column, values):
            return _weigh_in(column, values, candidates)
        case Compare(op, column, value):
            return _weigh_compare(op, column, value, candidates)
    return _everywhere(candidates, True), _everywhere(candidates, True)


def _weigh_compare(op: str, column: str, value: Any, candidates: Candidates) -> Masks:
    masks = None
    if isinstance(value, str):
        if op in ("=", "!="):
            masks = candidates.members(column, frozenset((value,)))
            masks = (masks[1], masks[0]) if masks and op == "!=" else masks
        else:
            # Python orders by code point, which is the order of UTF-8's bytes, DuckDB's
            masks = candidates.labels(column, lambda label: _ORDERS[op](label, value))
    elif isinstance(value, int):
        bounds = candidates.range(column)
        masks = _weigh_range(op, value, *bounds) if bounds else None
    return masks or (_everywhere(candidates, True), _everywhere(candidates, True))


def _everywhere(candidates: Candidates, value: bool) -> Mask:
    return np.full(len(candidates), value, dtype=bool)


def _weigh_in(column: str, values: frozenset[Any], candidates: Candidates) -> Masks:
    masks = candidates.members(column, values)
    if masks is not None:
        return masks
    bounds = candidates.range(column)
    if bounds is None or not all(isinstance(v, int) for v in values):
        return _everywhere(candidates, True), _everywhere(candidates, True)
    inside = _everywhere(candidates, False)
    for value in values:
        inside |= _weigh_range("=", value, *bounds)[0]
    return inside, _everywhere(candidates, True)


def _weigh_range(op: str, value: int, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> Masks:
    match op:
        case "=":
            return (low <= value) & (value <= high), ~((low == value) & (high == value))
        case "!=":
            true, false = _weigh_range("=", value, low, high)
            return false, true
        case "<":
            return low < value, high >= value
        case "<=":
            return low <= value, high > value
        case ">":
            return high > value, low <= value
        case _:
            return high >= value, low < value
