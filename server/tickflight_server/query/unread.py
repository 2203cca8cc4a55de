"""Columns of parts that the engine need not read, since what a query can see of them is known before.

The rule of this file: a value put in the place of a column gives every query over it the answer that the column gives.
A part has one exchange and one symbol. A time or number that a query only compares, never gives on, may be any that
passes wherever all values of the parts pass.

The engine decodes a column for its filter even where the file's own bounds say that every row passes: a third more time
for the trades of a day, which are in that day's parts.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from tickflight_server.query.filters import And, Compare, Filter, In, IsNull, Literal, Not, Or, Unknown, conjuncts
from tickflight_server.query.probe import Filters
from tickflight_server.query.prune import PartCandidates, may_fail
from tickflight_server.store import PartIndex

_LABELS = ("exchange", "symbol")
_BOUNDED = frozenset({"timestamp", "seq"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


def known_labels(parts: PartIndex) -> dict[str, str]:
    """Return, as SQL, the exchange and the symbol that all rows of ``parts`` have."""
    found = {}
    for column in _LABELS:
        codes, names = parts.labels(column)
        if (codes == codes[0]).all():
            found[column] = "'{}'".format(names[codes[0]].replace("'", "''"))
    return found


def passing_columns(parts: PartIndex, filters: Filters | None) -> dict[str, str]:
    """Return, as SQL, a value for each column that is only compared, and passes in every row of ``parts``."""
    if not filters or filters.given is None:
        return {}
    found = {}
    for column in _BOUNDED - filters.given:
        if _all_pass(column, parts, filters):
            with suppress(OverflowError):
                found[column] = _least(column, parts)
    return found


def _all_pass(column: str, parts: PartIndex, filters: Filters) -> bool:
    """Return whether each scan has conditions on ``column`` alone, all of which hold for every value of ``parts``."""
    candidates = PartCandidates(parts)
    for one in filters:
        mine = []
        for condition in () if one is None else conjuncts(one):
            named = _named(condition)
            if named is None or (column in named and not _is_simple(condition)):
                return False
            if column in named:
                mine.append(condition)
        if not mine or any(may_fail(condition, candidates).any() for condition in mine):
            return False
    return True


def _is_simple(condition: Filter) -> bool:
    """Return whether a condition on a column that has no nulls is never null."""
    match condition:
        case Compare(value=value):
            return type(value) is int
        case Not(IsNull()):
            return True
    return False


def _least(column: str, parts: PartIndex) -> str:
    """Return the least value in ``parts``, as SQL that calls nothing: users may have functions of any name."""
    if column == "seq":
        return f"{int(parts.min_seq.min())}::BIGINT"
    return f"TIMESTAMP '{_EPOCH + timedelta(microseconds=int(parts.min_us.min()))}'"


def _named(node: Filter) -> frozenset[str] | None:
    """Return the columns that ``node`` names, None if it is not understood to its end."""
    match node:
        case Unknown():
            return None
        case Literal():
            return frozenset()
        case Compare(column=column) | In(column=column) | IsNull(column=column):
            return frozenset({column})
        case Not(operand):
            return _named(operand)
        case And(left, right) | Or(left, right):
            both = _named(left), _named(right)
            return None if both[0] is None or both[1] is None else both[0] | both[1]
