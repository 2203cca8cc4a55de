"""Results as Flight streams.

The rule of this file: batches of flat columns go from the engine to gRPC in C++. Only where a row may be of any size
(lists, long texts) are batches cut by bytes in Python, so that no message is above what drivers accept (16 MiB; some
take 4 MiB).
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyarrow import flight

from tickflight_server.errors import ServerError
from tickflight_server.flight.status import to_flight
from tickflight_server.query.engine import Execution
from tickflight_server.schemas import STORED

# text columns of the stored tables that hold names and ids; the engine's batch size allows for them
_SHORT_TEXTS = frozenset(
    column.name
    for table in STORED.values()
    for column in table.columns
    if column.kind in ("label", "text") and column.name not in ("reason", "row")
)


def is_flat(schema: pa.Schema) -> bool:
    """Return whether a row's size is bounded by its schema: fixed widths, and texts that are names or ids."""
    return all(_is_bounded(field) for field in schema)


def _is_bounded(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_string(kind):
        return field.name in _SHORT_TEXTS
    try:
        return bool(kind.bit_width)
    except ValueError:
        return bool(pa.types.is_dictionary(kind) or pa.types.is_null(kind))


def stream(execution: Execution, batch_bytes: int) -> flight.FlightDataStream:
    """Return the execution's result as a stream of messages of about ``batch_bytes``."""
    reader = execution.reader
    if is_flat(reader.schema):
        return flight.RecordBatchStream(reader)
    return flight.GeneratorStream(reader.schema, _cut(reader, batch_bytes))


def _cut(reader: pa.RecordBatchReader, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    try:
        for batch in reader:
            yield from cut_by_bytes(batch, batch_bytes)
    except Exception as error:
        text = str(error).splitlines()
        raise to_flight(ServerError(text[0]) if isinstance(error, pa.ArrowException | OSError) else error) from None


def cut_by_bytes(batch: pa.RecordBatch, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield ``batch`` in slices of at most about ``batch_bytes``; a single row is not cut further."""
    pending = [batch]
    while pending:
        piece = pending.pop()
        if piece.nbytes <= batch_bytes or piece.num_rows <= 1:
            yield piece
            continue
        half = piece.num_rows // 2
        pending += [piece.slice(half), piece.slice(0, half)]
