"""Results as Flight streams.

The rule of this file: every batch of a result is counted as it goes from the engine to gRPC, and its errors are
translated; nothing looks into it. Only where a row may be of any size (lists, long texts) are batches cut by bytes, so
that no message is above what drivers accept (16 MiB; some take 4 MiB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
from pyarrow import flight

from tickflight_server.flight.status import mapped_errors
from tickflight_server.query.board import Run
from tickflight_server.query.execution import BATCH_ROWS_MIN, Execution, cut_by_bytes, row_bytes
from tickflight_server.schemas import STORED

# text columns of the stored tables that hold names and ids; the engine's batch size allows for them
_SHORT_TEXTS = frozenset(
    column.name
    for table in STORED.values()
    for column in table.columns
    if column.kind in ("label", "text") and column.name not in ("reason", "row", "detail")
)


Limited = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""Ends batches when there are too many."""


def is_flat(schema: pa.Schema, batch_bytes: int) -> bool:
    """Return whether the engine's batches are bounded by the schema: fixed widths, and texts that are names or ids."""
    return all(_is_bounded(field) for field in schema) and BATCH_ROWS_MIN * row_bytes(schema) <= batch_bytes


def _is_bounded(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_string(kind):
        return field.name in _SHORT_TEXTS
    try:
        return bool(kind.bit_width)
    except ValueError:
        return bool(pa.types.is_dictionary(kind) or pa.types.is_null(kind))


def stream(
    execution: Execution, batch_bytes: int, run: Run | None, limited: Limited | None = None
) -> flight.FlightDataStream:
    """Return the execution's result as a stream of messages of about ``batch_bytes``, counted for ``run``."""
    schema = execution.reader.schema
    batches = execution.batches() if limited is None else limited(execution.batches())
    return generated(schema, counted(batches, run), None if is_flat(schema, batch_bytes) else batch_bytes)


def counted(batches: Iterable[pa.RecordBatch], run: Run | None) -> Iterator[pa.RecordBatch]:
    """Yield ``batches``, and count them for ``run`` if there is one."""
    if run is None:
        yield from batches
        return
    run.sent(0, 0)
    for batch in batches:
        run.sent(batch.num_rows, batch.nbytes)
        yield batch


def generated(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], batch_bytes: int | None = None
) -> flight.FlightDataStream:
    """Return ``batches`` as a stream; what goes wrong in their making reaches the client like any other error.

    With ``batch_bytes`` they are cut by bytes first.
    """

    def guarded() -> Iterator[pa.RecordBatch]:
        with mapped_errors():
            for batch in batches:
                yield from (batch,) if batch_bytes is None else cut_by_bytes(batch, batch_bytes)

    if any(map(_has_dictionary, schema)):
        # pyarrow's generator streams send no dictionaries; its readers do, but every Flight error of theirs is UNKNOWN
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(schema, guarded()))
    return flight.GeneratorStream(schema, guarded())


def _has_dictionary(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_nested(kind):
        return any(_has_dictionary(kind.field(i)) for i in range(kind.num_fields))
    return bool(pa.types.is_dictionary(kind))
