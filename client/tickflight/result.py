"""A query's result: a stream of Arrow batches, handed over as the reader wants it.

The rule of this file: rows stay Arrow until somebody asks for another form, and polars and pandas are imported then;
what was read to be shown is still given to whoever reads.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tickflight.background import in_background, interruptible
from tickflight.errors import TRANSLATED, TickflightError, translate
from tickflight.preview import ROWS_SHOWN, Preview
from tickflight.progress import watch

if TYPE_CHECKING:
    import pandas
    import polars

SHOWN_OPEN_MAX = 8
# what is read after the rows that are shown, to see whether that is all: mostly it is, and a live stream has no end
_LOOK_S = 0.3
_LOOK_BYTES = 4 << 20


class Shown:
    """The results of a connection that were shown and are not read: each holds a running query on the server.

    A notebook keeps what it showed. Once more than ``SHOWN_OPEN_MAX`` are open, the one shown first is closed.
    """

    def __init__(self) -> None:
        self._results: deque[weakref.ref[Result]] = deque()

    def add(self, result: Result) -> None:
        """Note that ``result`` was shown, and is open."""
        living = [r for r in self._results if (other := r()) is not None and other.is_open and other is not result]
        self._results = deque([*living, weakref.ref(result)])
        while len(self._results) > SHOWN_OPEN_MAX:
            oldest = self._results.popleft()()
            if oldest is not None:
                oldest.close(f"it was shown and not read, and {SHOWN_OPEN_MAX} more were shown since")


class Result:
    """The rows of a query, streamed as they are read.

    ``arrow``, ``polars`` and ``pandas`` read everything and may be called again; ``reader`` and iteration stream and
    leave nothing behind. Use it as a context manager, or ``close`` it, to end a stream early. Control-C during
    ``arrow`` and what uses it cancels the query.

    At a prompt or as the last line of a notebook's cell it shows its first ``preview.ROWS_SHOWN`` rows. For that it
    reads ahead, and keeps what it read for the reader.

    Args:
        reader: the stream.
        cancel: ends the call behind it.
        shown: the other results of the connection that were shown.
        progress: whether reading shows how far it is: True, False, or None for where somebody looks.
    """

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        cancel: Callable[[], None] = lambda: None,
        shown: Shown | None = None,
        *,
        progress: bool | None = None,
    ) -> None:
        self._reader: pa.RecordBatchReader | None = reader
        self._cancel: Callable[[], None] | None = cancel
        self._shown = shown
        self._progress = progress
        self._table: pa.Table | None = None
        self._schema: pa.Schema = reader.schema
        self._ahead: deque[pa.RecordBatch] = deque()  # read to be shown, and by nobody else
        self._next: Future[pa.RecordBatch] | None = None  # what comes after them, being read
        self._ended = False  # nothing comes after ``_ahead``
        self._failure: TickflightError | None = None  # but this
        self._why_closed = "this result was streamed or closed already"

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches as they arrive."""
        if self._table is not None:
            return iter(self._table.to_batches())
        return self._stream(self._take())

    def __repr__(self) -> str:
        return self._preview().text()

    def _repr_html_(self) -> str:
        return self._preview().html()

    def __del__(self) -> None:
        # a thread that waits for the next batch would keep the stream for as long as that takes
        if getattr(self, "_next", None) is not None:
            self.close()

    def _stream(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        progress = watch(self._progress)
        try:
            for batch in self._batches(reader):
                if progress is not None:
                    progress.add(batch)
                yield batch
        except TRANSLATED as error:
            raise translate(error) from None
        finally:
            if progress is not None:
                progress.close()
            self.close()

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """Yield what was read ahead, and then what comes."""
        while self._ahead or self._next is not None:
            if self._ahead:
                yield self._ahead.popleft()
            else:
                self._settle(None)
        if self._failure is not None:
            raise self._failure
        if not self._ended:
            yield from reader

    def _take(self) -> pa.RecordBatchReader:
        if self._reader is None:
            raise TickflightError(f"{self._why_closed}: run the query again.")
        reader, self._reader = self._reader, None
        return reader

    def _preview(self) -> Preview:
        """Return the first rows; they are read if nobody has read any, and waited for."""
        if self._table is not None:
            return Preview(self._table.slice(0, ROWS_SHOWN), self._table.num_rows)
        if self._reader is None:
            return Preview(self._schema.empty_table(), None, self._why_closed)
        rows = self._look(self._reader)
        first = pa.Table.from_batches(self._ahead, self._schema).slice(0, ROWS_SHOWN)
        if self._failure is not None:
            told = str(self._failure).partition("\n")[0]
            return Preview(first, None, f"then {type(self._failure).__name__}: {told}")
        if self._ended:
            return Preview(first, rows)
        if self._shown is not None:
            self._shown.add(self)
        return Preview(first, None, "more follow when it is read")

    def _look(self, reader: pa.RecordBatchReader) -> int:
        """Read ahead until the end, or until it is enough; return how many rows are there."""
        until: float | None = None
        while True:
            rows: int = sum(batch.num_rows for batch in self._ahead)
            if rows and until is None:
                until = time.monotonic() + _LOOK_S
            enough = rows > ROWS_SHOWN and sum(batch.nbytes for batch in self._ahead) > _LOOK_BYTES
            if self._ended or enough:
                return rows
            if self._next is None:
                self._next = in_background(reader.read_next_batch)
            if not self._settle(None if until is None else until - time.monotonic()):
                return rows

    def _settle(self, timeout_s: float | None) -> bool:
        """Add the batch that is being read to those ahead; return False if it does not come in time."""
        reading = self._next
        if reading is None:
            return True
        if timeout_s is None:
            interruptible(lambda: wait([reading]))
        elif not wait([reading], max(0, timeout_s)).done:
            return False
        self._next = None
        try:
            self._ahead.append(reading.result())
        except StopIteration:
            self._ended = True
        except TRANSLATED as error:
            self._ended, self._failure = True, translate(error)
        return True

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._schema

    @property
    def is_open(self) -> bool:
        """Whether rows are still to come from the server, and nobody has begun to read them."""
        return self._reader is not None and not self._ended

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream itself: anything that takes Arrow streams (DuckDB, polars, Parquet writers) reads it."""
        return pa.RecordBatchReader.from_batches(self._schema, iter(self))

    def arrow(self) -> pa.Table:
        """Return all rows as a pyarrow Table; whatever ends this early ends the query, too."""
        if self._table is None:
            reader, cancel = self._take(), self._cancel or (lambda: None)
            try:
                if watch(self._progress) is not None or self._ahead or self._ended:
                    self._table = pa.Table.from_batches(self._stream(reader), self._schema)
                else:
                    self._table = interruptible(reader.read_all)
            except TRANSLATED as error:
                raise translate(error) from None
            except KeyboardInterrupt:
                cancel()
                raise
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

    def close(self, why: str = "") -> None:
        """End the stream if it is not read to its end, also for who iterates over it or has its ``reader``.

        ``why`` is told to whoever wants to read it later.
        """
        cancel, self._cancel = self._cancel, None
        if self._reader is not None and why:
            self._why_closed = why
        self._reader = None
        self._ahead.clear()
        if cancel is not None and self._table is None:
            cancel()
