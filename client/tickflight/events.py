"""Single events of batches: a dataclass for each table, made from its columns.

The rule of this file: values are turned into Python's column by column, a chunk at a time; what is done for each event
is to make its instance.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Sequence
from dataclasses import make_dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tickflight.errors import QueryError
from tickflight.merging import ReplayChunk


def event_class(table: str, schema: pa.Schema) -> type[Any]:
    """Return a dataclass with slots and a field for each column, named after the table: ``L2Book`` for l2_book.

    Raises:
        QueryError: a column's name cannot be a field's.
    """
    for name in schema.names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise QueryError(f"column {name!r} of {table} cannot be a field of an event: choose columns without it.")
    title = "".join(word.capitalize() for word in table.rpartition(".")[2].split("_"))
    return make_dataclass(title, [(f.name, Any) for f in schema], slots=True)


def events(chunk: ReplayChunk, classes: Sequence[type[Any]]) -> Iterator[Any]:
    """Return an iterator over a chunk's events, in order; ``classes`` are those of its tables."""
    made = [rows(cls, chunk.batches[table]) for table, cls in zip(chunk.tables, classes, strict=True)]
    if len(made) == 1:
        return made[0]
    return map(next, map(made.__getitem__, chunk.order.tolist()))


def rows(cls: type[Any], batch: pa.RecordBatch) -> Iterator[Any]:
    """Return an iterator over a batch's rows as instances of ``cls``."""
    return map(cls, *map(values, batch.columns)) if batch.num_rows else iter(())


def values(column: pa.Array) -> list[Any]:
    """Return a column's values as Python's: times are datetimes in UTC without zone, what is missing is None."""
    kind = column.type
    if pa.types.is_string(kind):
        column, kind = column.dictionary_encode(), pa.dictionary(pa.int32(), pa.string())
    if pa.types.is_dictionary(kind):
        names = column.dictionary.to_pylist()
        if len(names) * 2 > len(column):
            return list(column.to_pylist())
        places = column.indices.fill_null(len(names)) if column.null_count else column.indices
        return list(map([*names, None].__getitem__, places.to_numpy().tolist()))
    if pa.types.is_list(kind):
        return _lists(column)
    if column.null_count or not (pa.types.is_primitive(kind) and not pa.types.is_boolean(kind)):
        return list(column.to_pylist())
    return list(column.to_numpy().tolist())


def _lists(column: pa.Array) -> list[Any]:
    flat = values(column.flatten())
    lengths = column.value_lengths().fill_null(0).to_numpy()
    ends = np.cumsum(lengths).tolist()
    found: list[Any] = [flat[end - n : end] for end, n in zip(ends, lengths.tolist(), strict=True)]
    if column.null_count:
        found = [None if missing else one for one, missing in zip(found, column.is_null().to_pylist(), strict=True)]
    return found
