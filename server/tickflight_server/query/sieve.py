"""Rows of a segment left out before the engine sees them, by what a query's filters say of plain columns.

The rule of this file: what is left out cannot match; the engine filters what is left, again. The engine makes values of
its own of every column before it compares one, which costs twenty times as much as comparing codes and times here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickflight_server.query.filters import And, Compare, Filter, In
from tickflight_server.store import Segment

Mask = npt.NDArray[np.bool_]
KEPT_MOST = 0.1  # of a segment's rows; more are not copied
_LABELS = ("exchange", "symbol")
_NUMBERS = ("timestamp", "seq")
_OPERATORS = {
    "=": np.equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def sieved(segments: Sequence[Segment], filters: Sequence[Filter | None] | None) -> list[pa.RecordBatch]:
    """Return the batches of ``segments`` with all rows that some scan with one of ``filters`` can match, in order."""
    batches = [s.batch for s in segments]
    if not filters or any(one is None for one in filters):
        return batches
    wanted = [list(_conditions(one)) for one in filters if one is not None]
    if not all(wanted):
        return batches
    return [_sieve(batch, wanted) for batch in batches]


def _conditions(node: Filter) -> Iterator[Compare | In]:
    """Yield conditions that a row has to meet, of those that are understood."""
    match node:
        case And(left, right):
            yield from _conditions(left)
            yield from _conditions(right)
        case Compare(op, column, value):
            label = column in _LABELS and op == "=" and isinstance(value, str)
            number = column in _NUMBERS and op in _OPERATORS and type(value) is int
            if label or number:
                yield node
        case In(column, values) if column in _LABELS and all(isinstance(v, str) for v in values):
            yield node


def _sieve(batch: pa.RecordBatch, scans: Sequence[Sequence[Compare | In]]) -> pa.RecordBatch:
    found: Mask | None = None
    for conditions in scans:
        mask = _mask(batch, conditions)
        found = mask if found is None else found | mask
    assert found is not None
    count = int(np.count_nonzero(found))
    if count > KEPT_MOST * batch.num_rows:
        return batch
    return batch.take(pa.array(np.flatnonzero(found)))


def _mask(batch: pa.RecordBatch, conditions: Sequence[Compare | In]) -> Mask:
    masks = [_met(batch, condition) for condition in conditions]
    return np.logical_and.reduce(masks) if len(masks) > 1 else masks[0]


def _met(batch: pa.RecordBatch, condition: Compare | In) -> Mask:
    column = batch.column(condition.column)
    if isinstance(condition, In):
        return _labelled(column, condition.values)
    if condition.column in _LABELS:
        return _labelled(column, (condition.value,))
    numbers = column.cast(pa.int64()).to_numpy()
    return np.asarray(_OPERATORS[condition.op](numbers, condition.value))


def _labelled(column: pa.DictionaryArray, values: Any) -> Mask:
    codes = column.indices.to_numpy()
    places = [place for place, label in enumerate(column.dictionary.to_pylist()) if label in values]
    if len(places) == 1:
        return np.asarray(codes == places[0])
    return np.isin(codes, places)
