"""A query under way, and how large its batches are.

The rule of this file: whatever a query holds is let go by ``close``, in any state, once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import duckdb
import pyarrow as pa

from tickflight_server.errors import ServerError
from tickflight_server.query.sources import Opened
from tickflight_server.query.stopping import interrupt

BATCH_ROWS_MIN = 2048  # the engine's vectors


class Execution:
    """A query under way: ``reader`` streams its result; ``close`` frees everything, in any state."""

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        held: ExitStack,
        translate: Callable[[BaseException], ServerError],
        connection: duckdb.DuckDBPyConnection | None = None,
        let_go: Callable[[duckdb.DuckDBPyConnection], None] | None = None,
        stop: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection  # None: the engine has no part in what is still to come
        self._let_go = let_go or duckdb.DuckDBPyConnection.close
        self._stop = stop
        self._held = held
        self._translate = translate
        self.reader = reader
        self.opened: dict[str, Opened] = {}
        self._closed = threading.Lock()

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield what ``reader`` does, with the engine's errors translated.

        Raises:
            ServerError: the engine failed in the middle.
        """
        try:
            yield from self.reader
        except Exception as error:
            raise self._translate(error) from None

    def cancel(self) -> None:
        """Stop the engine's work on this query; a thread that reads it gets an error."""
        if self._stop is not None:
            self._stop()
        else:
            interrupt(self._connection)

    def close(self) -> None:
        """Free the query's place and memory; a second call does nothing.

        A thread that reads at this moment gets an error, and the memory is free when it lets go of the reader.
        """
        if self._closed.acquire(blocking=False):
            del self.reader
            self.cancel()
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(duckdb.Error):  # the engine refuses to close a connection on which a thread reads
                    self._let_go(connection)
            self._held.close()


def batch_rows_for(schema: pa.Schema, batch_bytes: int) -> int:
    """Return how many rows make a batch of about ``batch_bytes``: 2,048 to 131,072, the engine's vectors in whole."""
    return max(BATCH_ROWS_MIN, min(131_072, batch_bytes // row_bytes(schema) // BATCH_ROWS_MIN * BATCH_ROWS_MIN))


def row_bytes(schema: pa.Schema) -> int:
    """Return the bytes that a row of ``schema`` takes, roughly where a value has no fixed size."""
    return sum(_width(f.type) for f in schema) or 1


def _width(kind: pa.DataType) -> int:
    """Return the bytes that a value of ``kind`` takes, roughly for what has no fixed size."""
    if pa.types.is_nested(kind):
        return 256
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 16


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
