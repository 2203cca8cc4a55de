"""Batches that a client sends: none is used before it was looked through.

The rule of this file: what lies behind a batch is bytes of the client's. Arrow reads them as it is told to, so that an
offset or a length that is not true ends the process, or shows what lies beside it in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from tickflight_server.config import MIB
from tickflight_server.errors import InputError, RowError, TooLargeError
from tickflight_server.flight.stretching import plain_bytes


def chunks(reader: Any) -> Iterator[Any]:
    """Yield what comes over a DoPut, unchecked: ``data`` is a batch or None, ``app_metadata`` a buffer or None.

    Raises:
        InputError: the stream is no stream of Arrow's.
    """
    while True:
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            return
        except MemoryError:
            raise TooLargeError(
                "a batch is larger than the memory that there is for it, once unpacked.", hint="Send smaller batches."
            ) from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"the stream of batches cannot be read: {first_line(error)}.") from None
        yield chunk


def checked(batch: pa.RecordBatch, bytes_max: int, role_mb: int | None = None) -> pa.RecordBatch:
    """Return ``batch``, which is sound and not too large.

    Raises:
        RowError: it is not what Arrow's format asks for.
        TooLargeError: it has more than ``bytes_max`` bytes, or than ``role_mb`` (``limits.request_mb``) has.
    """
    try:
        batch.validate(full=True)
        check_names(batch.schema)
    except (pa.ArrowException, UnicodeDecodeError, MemoryError) as error:
        raise RowError(f"the batch is not valid Arrow: {first_line(error)}.") from None
    # not nbytes: that of a union ends the process in pyarrow 26.0.1, and costs 40 times as much
    try:
        size = plain_bytes(batch, bytes_max)
    except (KeyError, pa.ArrowException) as error:  # KeyError: pyarrow has no class for intervals of months
        raise RowError(f"a column is of a type that is not taken: {first_line(error)}.") from None
    if size > bytes_max:
        raise TooLargeError(
            f"a batch has {size} bytes when it is written out, flight.message_bytes_max is {bytes_max}.",
            hint="Send smaller batches.",
        )
    if role_mb is not None and size > role_mb * MIB:
        raise TooLargeError(
            f"resource exhausted (limits.request_mb): a batch has {size} bytes, your roles let you send "
            f"{role_mb} MB at once.",
            hint="Send smaller batches.",
        )
    return batch


def schema_of(reader: Any) -> pa.Schema:
    """Return the schema of a stream that comes over a DoPut.

    Raises:
        InputError: it has none, or one that cannot be read.
    """
    try:
        schema = reader.schema
        check_names(schema)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"the stream's schema cannot be read: {first_line(error)}.") from None
    return schema


def check_names(fields: Iterable[pa.Field]) -> None:
    """Read all names, those inside of columns and of time zones too; Arrow itself takes any bytes for one.

    Raises:
        UnicodeDecodeError: one is no text.
    """
    for field in fields:
        assert isinstance(field.name, str)
        kind = field.type
        if pa.types.is_timestamp(kind):
            assert kind.tz is None or isinstance(kind.tz, str)
        elif pa.types.is_dictionary(kind):
            check_names((pa.field("", kind.value_type),))
        elif pa.types.is_nested(kind):
            check_names(kind.field(i) for i in range(kind.num_fields))


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without the full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
