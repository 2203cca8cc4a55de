"""Rows of a segment left out before the engine sees them, by what a query's filters say of plain columns.

The rule of this file: what is left out cannot match; the engine filters what is left, again. The engine makes values of
its own of every column before it compares one, which costs twenty times as much as comparing codes and times here.
Names are compared first, and the times of only those rows that have them: most of a segment's memory is not touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.query.filters import Compare, Filter, In, conjuncts
from tickflight_server.store import Segment

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
KEPT_MOST = 0.3  # of a segment's rows; more are not copied
_LABELS = ("exchange", "symbol")
_TOLD_BY = ("symbol", "exchange", "timestamp", "receipt_timestamp", "seq")  # what leaves out most comes first
_NUMBERS = ("timestamp", "receipt_timestamp", "seq")
_OPERATORS = {
    "=": np.equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def sieved(
    segments: Sequence[Segment], filters: Sequence[Filter | None] | None, read: Collection[str] | None = None
) -> list[pa.RecordBatch]:
    """Return the batches of ``segments`` with all rows that some scan with one of ``filters`` can match, in order.

    Columns that are not in ``read``, if it is given, may be null in them: the scans do not look at them.
    """
    if not filters or any(one is None for one in filters):
        return [s.batch for s in segments]
    wanted = [list(conditions(one)) for one in filters if one is not None]
    if not all(wanted):
        return [s.batch for s in segments]
    return [_sieve(segment, wanted, read) for segment in segments]


def conditions(node: Filter) -> Iterator[Compare | In]:
    """Yield conditions that a row has to meet, of those that are understood."""
    for one in conjuncts(node):
        match one:
            case Compare(op, column, value):
                label = column in _LABELS and op == "=" and isinstance(value, str)
                number = column in _NUMBERS and op in _OPERATORS and type(value) is int
                if label or number:
                    yield one
            case In(column, values) if column in _LABELS and all(isinstance(v, str) for v in values):
                yield one


def places(segment: Segment, wanted: Sequence[Compare | In]) -> Places | None:
    """Return the places of the rows of ``segment`` that meet all conditions ``wanted``, rising; None for all rows."""
    found: Places | None = None
    for condition in sorted(wanted, key=lambda one: _TOLD_BY.index(one.column)):
        if _met_by_all(segment, condition):
            continue
        if found is None:
            found = np.flatnonzero(_met(segment.batch.column(condition.column), condition))
        elif len(found):
            found = found[_met(segment.batch.column(condition.column), condition, found)]
    return found


def _sieve(segment: Segment, scans: Sequence[Sequence[Compare | In]], read: Collection[str] | None) -> pa.RecordBatch:
    batch = segment.batch
    most, found = KEPT_MOST * batch.num_rows, [places(segment, wanted) for wanted in scans]
    known = [one for one in found if one is not None and len(one) <= most]
    if len(known) < len(found):
        return batch
    kept = known[0] if len(known) == 1 else np.unique(np.concatenate(known))
    return _taken(batch, pa.array(kept), read) if len(kept) <= most else batch


def _taken(batch: pa.RecordBatch, rows: pa.Array, read: Collection[str] | None) -> pa.RecordBatch:
    arrays = [
        column.take(rows) if read is None or field.name in read else pa.nulls(len(rows), field.type)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _met_by_all(segment: Segment, condition: Compare | In) -> bool:
    """Return whether the segment's bounds say that all of its rows meet the condition."""
    if not isinstance(condition, Compare) or condition.column not in ("timestamp", "seq"):
        return False
    low, high = segment.min_us, segment.max_us
    if condition.column == "seq":
        low, high = segment.first_seq, segment.last_seq
    match condition.op:
        case ">" | ">=":
            return bool(_OPERATORS[condition.op](low, condition.value))
        case "<" | "<=":
            return bool(_OPERATORS[condition.op](high, condition.value))
    return False


def _met(column: pa.Array, condition: Compare | In, among: Places | None = None) -> Mask:
    """Return which rows of ``column`` meet the condition, or which of those at the places ``among``."""
    if condition.column in _LABELS:
        values = condition.values if isinstance(condition, In) else (condition.value,)
        return _labelled(column, values, among)
    assert isinstance(condition, Compare)
    numbers = column.view(pa.int64()).to_numpy()
    return np.asarray(_OPERATORS[condition.op](numbers if among is None else numbers[among], condition.value))


def _labelled(column: pa.DictionaryArray, values: Collection[str], among: Places | None) -> Mask:
    codes = column.indices.to_numpy()
    codes = codes if among is None else codes[among]
    named = pc.is_in(column.dictionary, pa.array(list(values), pa.string())).to_numpy(zero_copy_only=False)
    labels = np.flatnonzero(named)
    if len(labels) == 1:
        return np.asarray(codes == labels[0])
    return np.isin(codes, labels)
