"""A query's result: a stream of Arrow batches, handed over as the reader wants it.

The rule of this file: rows stay Arrow until somebody asks for another form, and polars and pandas are imported then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tickflight.errors import TRANSLATED, TickflightError, translate

if TYPE_CHECKING:
    import pandas
    import polars


class Result:
    """The rows of a query, streamed as they are read.

    ``arrow``, ``polars`` and ``pandas`` read everything and may be called again; ``reader`` and iteration stream and
    leave nothing behind. Use it as a context manager, or ``close`` it, to end a stream early.

    Args:
        reader: the stream.
        cancel: ends the call behind it.
    """

    def __init__(self, reader: pa.RecordBatchReader, cancel: Callable[[], None] = lambda: None) -> None:
        self._reader: pa.RecordBatchReader | None = reader
        self._cancel: Callable[[], None] | None = cancel
        self._table: pa.Table | None = None
        self._schema: pa.Schema = reader.schema

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches as they arrive."""
        if self._table is not None:
            return iter(self._table.to_batches())
        return self._stream(self._take())

    def _stream(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except TRANSLATED as error:
            raise translate(error) from None
        finally:
            self.close()

    def _take(self) -> pa.RecordBatchReader:
        if self._reader is None:
            raise TickflightError("this result was streamed or closed already: run the query again.")
        reader, self._reader = self._reader, None
        return reader

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._schema

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream itself: anything that takes Arrow streams (DuckDB, polars, Parquet writers) reads it."""
        return pa.RecordBatchReader.from_batches(self._schema, iter(self))

    def arrow(self) -> pa.Table:
        """Return all rows as a pyarrow Table."""
        if self._table is None:
            try:
                self._table = self._take().read_all()
            except TRANSLATED as error:
                raise translate(error) from None
        return self._table

    def polars(self) -> polars.DataFrame:
        """Return all rows as a polars DataFrame; a time column is Datetime("us") in UTC without zone."""
        import polars

        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def pandas(self, **options: Any) -> pandas.DataFrame:
        """Return all rows as a pandas DataFrame; ``options`` are those of ``pyarrow.Table.to_pandas``."""
        return self.arrow().to_pandas(**options)

    def close(self) -> None:
        """End the stream if it is not read to its end, also for who iterates over it or has its ``reader``."""
        cancel, self._cancel = self._cancel, None
        self._reader = None
        if cancel is not None and self._table is None:
            cancel()
