"""Bound values: from the Arrow batch that a client sent to what the engine takes.

The rule of this file: values are bound, never spliced; by name where the statement names its parameters, else by
position, whatever the columns are called (drivers count from 0, from 1, or leave names empty).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tickflight_server.errors import StatementError


def read_batches(data: bytes) -> list[pa.RecordBatch]:
    """Return the batches of an Arrow IPC stream.

    Raises:
        StatementError: the bytes are no such stream.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
    except pa.ArrowException as error:
        raise StatementError(
            f"the parameters are no Arrow IPC stream: {str(error).splitlines()[0]}.", hint="Send one batch of values."
        ) from None
    return batches


def rows_of(batches: list[pa.RecordBatch], names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of each row in the order of the statement's parameters ``names``.

    Raises:
        StatementError: there are more or fewer columns than parameters.
    """
    for batch in batches:
        columns = _order(batch, names)
        for row in range(batch.num_rows):
            yield tuple(_value(column[row]) for column in columns)


def _order(batch: pa.RecordBatch, names: tuple[str, ...]) -> list[pa.Array]:
    if batch.num_columns != len(names):
        raise StatementError(
            f"the statement has {len(names)} parameters, {batch.num_columns} values were given.",
            hint=f"Its parameters are {', '.join('$' + n for n in names) or 'none'}.",
        )
    if set(batch.schema.names) == set(names) and not all(n.isdigit() for n in names):
        return [batch.column(name) for name in names]
    return list(batch.columns)


def _value(scalar: pa.Scalar) -> Any:
    if not scalar.is_valid:
        return None
    if pa.types.is_dictionary(scalar.type):
        return _value(scalar.value)
    if pa.types.is_timestamp(scalar.type) and scalar.type.unit == "ns":
        # Python's datetime ends at the microsecond, which is what the tables hold
        scalar = scalar.cast(pa.timestamp("us", scalar.type.tz), safe=False)
    return scalar.as_py()
