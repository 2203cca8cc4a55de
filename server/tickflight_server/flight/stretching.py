"""How large a batch becomes when every row's value is written out.

The rule of this file: an upper bound, from lengths alone; nothing is written out to be weighed. A few bytes can stand
for any number of rows (nulls, runs), and a value that is there once for as many as there are views or indices of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ROW_BYTES = 8
_VIEW_BYTES = 16


def plain_bytes(batch: pa.RecordBatch, enough: int) -> int:
    """Return a bound of the bytes of ``batch`` once written out; it need not be exact below ``enough``."""
    size: int = max(int(batch.get_total_buffer_size()), _ROW_BYTES * int(batch.num_rows))
    for column in batch.columns:
        if size > enough:
            break
        size += _more(column, enough)
    return size


def _more(array: Any, enough: int) -> int:
    """Return how many bytes more than its buffers an array has once written out."""
    kind = array.type
    if kind.num_buffers <= 3 and not kind.num_fields and not _is_odd(kind):
        return 0  # numbers, texts and bytes: they are written out
    if isinstance(kind, pa.BaseExtensionType):
        return _more(array.storage, enough)
    rows = len(array)
    if pa.types.is_null(kind):
        return _ROW_BYTES * rows
    if pa.types.is_dictionary(kind):
        return _repeated(array.dictionary, rows, enough, lambda lengths: _taken(lengths, array.indices))
    if pa.types.is_run_end_encoded(kind):
        return _repeated(array.values, rows, enough, lambda lengths: rows * int(lengths.max(initial=0)))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return int(_view_lengths(array).sum())
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return int(pc.sum(pc.list_value_length(array)).as_py() or 0) * _element_bytes(array.values, enough)
    if pa.types.is_struct(kind) or pa.types.is_union(kind):
        return sum(_more(array.field(i), enough) for i in range(kind.num_fields))
    if pa.types.is_map(kind):
        return _more(array.keys, enough) + _more(array.items, enough)
    return _more(array.values, enough)


def _is_odd(kind: pa.DataType) -> bool:
    return bool(
        isinstance(kind, pa.BaseExtensionType)
        or pa.types.is_null(kind)
        or pa.types.is_dictionary(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary_view(kind)
    )


def _repeated(values: Any, rows: int, enough: int, exact: Any) -> int:
    """Return the bytes of ``rows`` of some ``values``, each of which may be there often."""
    rough = rows * (int(values.get_total_buffer_size()) + _more(values, enough))
    if rough <= enough // 4:
        return rough
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        kind, values = pa.large_binary(), values.cast(pa.large_binary())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return int(exact(pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)))
    return rows * _element_bytes(values, enough)


def _taken(lengths: Any, indices: Any) -> int:
    if not len(lengths):
        return 0
    used = indices.fill_null(0).to_numpy(zero_copy_only=False)
    return int(lengths[used].sum())


def _view_lengths(array: Any) -> Any:
    views = array.buffers()[1]
    if views is None:
        return np.zeros(1, np.int64)
    whole = views.size // _VIEW_BYTES  # an array of no rows may have a buffer of any size
    found = np.frombuffer(views, np.int32, whole * (_VIEW_BYTES // 4)).reshape(-1, _VIEW_BYTES // 4)[:, 0]
    return found[array.offset : array.offset + len(array)].astype(np.int64)


def _element_bytes(values: Any, enough: int) -> int:
    """Return a bound of the bytes of one element of an array."""
    try:
        return max(1, int(values.type.bit_width) // 8)
    except ValueError:
        return max(_ROW_BYTES, int(values.get_total_buffer_size()) + _more(values, enough))
