"""Bound values: from the Arrow batch that a client sent to what the engine takes.

The rule of this file: values are bound, never spliced; by name where the statement names its parameters, else by
position, whatever the columns are called (drivers count from 0, from 1, or leave names empty).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tickflight_server.errors import InputError, StatementError
from tickflight_server.flight.incoming import checked, first_line
from tickflight_server.flight.parameter_values import values_of

PARAMETER_BYTES_MAX = 64 << 20  # of the values that come with a statement, once written out


def read_batches(data: bytes) -> list[pa.RecordBatch]:
    """Return the batches of an Arrow IPC stream.

    Raises:
        StatementError: the bytes are no such stream.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            batches = list(reader)
        return [checked(batch, PARAMETER_BYTES_MAX) for batch in batches]
    except InputError as error:
        raise StatementError(
            f"the parameters are not taken: {error.message}", hint="Send one batch of values."
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        raise StatementError(
            f"the parameters are no Arrow IPC stream: {first_line(error)}.", hint="Send one batch of values."
        ) from None


def rows_of(
    batches: list[pa.RecordBatch], names: tuple[str, ...], types: pa.Schema | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of each row in the order of the statement's parameters ``names``.

    Values keep their types. Where ``types`` has the parameters' own, in the order of ``names``, a value that is the
    same in its parameter's type is given that type: an int64 that fits an int32, an instant in UTC or of another unit.

    Raises:
        StatementError: there are more or fewer columns than parameters, they are named otherwise, or a value has no
            counterpart in SQL.
    """
    wanted = types.types if types is not None else [None] * len(names)
    for batch in batches:
        columns = _order(batch, names)
        if not columns:
            yield from [()] * batch.num_rows
            continue
        yield from zip(*map(values_of, columns, wanted, names), strict=True)


def _order(batch: pa.RecordBatch, names: tuple[str, ...]) -> list[pa.Array]:
    hint = f"Its parameters are {', '.join('$' + n for n in names) or 'none'}."
    if batch.num_columns != len(names):
        raise StatementError(
            f"the statement has {len(names)} parameters, {batch.num_columns} values were given.", hint=hint
        )
    given = {name.lower(): number for number, name in enumerate(batch.schema.names)}
    wanted = [name.lower() for name in names]
    if set(wanted) == set(given):
        return [batch.column(given[name]) for name in wanted]
    # names that say nothing are positions; others are not guessed at
    telling = any(name and not name.isdigit() for name in given)
    if telling and len(names) > 1 and not all(name.isdigit() for name in names):
        missing = next(name for name in names if name.lower() not in given)
        raise StatementError(f"no value is given for ${missing}.", hint=hint)
    return list(batch.columns)
