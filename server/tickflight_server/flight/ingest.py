"""Rows in over DoPut: long-lived append streams with an answer for each batch, and Flight SQL's bulk ingest.

The rule of this file: an answer is sent only for what is durable, in the order the batches came; reading goes on while
answers are outstanding.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

import pyarrow as pa
import structlog

from tickflight.wire.append import AppendAck, AppendBatch, AppendError, AppendResult, DoPutUpdateResult
from tickflight.wire.commands import AppendStream, CommandStatementIngest
from tickflight.wire.enums import TableExistsOption
from tickflight_server.errors import InputError, NotFoundError, RowError, TooLargeError, UnsupportedError
from tickflight_server.flight.status import to_flight
from tickflight_server.schemas import STORED
from tickflight_server.store import PRODUCER_BYTES_MAX, SEQUENCE_MAX, Ack, Store

LOG = structlog.get_logger(__name__)
ANSWERS_MAX = 256  # batches of one stream that are read and not yet answered


class IngestService:
    """Takes rows for the stored tables.

    Args:
        store: where they go.
        message_bytes_max: largest batch that is taken.
    """

    def __init__(self, store: Store, message_bytes_max: int) -> None:
        self._store = store
        self._message_bytes_max = message_bytes_max

    def append_stream(self, command: AppendStream, reader: Any, writer: Any) -> None:
        """Append every batch of a stream and answer for each; returns when the client ended the stream."""
        _check_table(command.schema, command.table)
        if len(command.producer) > PRODUCER_BYTES_MAX:
            # the store would refuse batch after batch: the stream does not even begin
            size = len(command.producer)
            raise InputError(f"the producer's id has {size} bytes, at most {PRODUCER_BYTES_MAX} are taken.")
        answers = _Answers(writer)
        try:
            for chunk in reader:
                if chunk.data is None:
                    continue
                if chunk.app_metadata is None:
                    raise InputError("a batch came without its sequence.", hint="Send AppendBatch as app_metadata.")
                sequence = AppendBatch.parse(chunk.app_metadata.to_pybytes()).sequence
                if not 1 <= sequence <= SEQUENCE_MAX:
                    # below 1 it would pass for one that was taken already
                    raise InputError(f"a batch has sequence {sequence}.", hint="Count from 1.")
                answers.put(sequence, self._append(command, chunk.data, sequence))
        finally:
            answers.finish()
        answers.raise_failure()

    def _append(self, command: AppendStream, batch: pa.RecordBatch, sequence: int) -> Future[Ack]:
        """Hand a batch to the store; what the batch itself is guilty of is an answer, not the end of the stream."""
        try:
            self._check_batch(batch)
            producer = command.producer or None
            return self._store.append(command.table, batch, producer=producer, sequence=sequence)
        except InputError as error:
            failed: Future[Ack] = Future()
            failed.set_exception(error)
            return failed

    def ingest(self, command: CommandStatementIngest, reader: Any, writer: Any) -> None:
        """Append the rows of a bulk ingest to a stored table; answers with their number when all are durable."""
        schema = command.schema or "market"
        options = command.table_definition_options
        exists = options.if_exists if options else TableExistsOption.TABLE_EXISTS_OPTION_UNSPECIFIED
        if command.temporary:
            raise UnsupportedError("temporary tables are not offered here.", hint="Ingest into a market table.")
        if STORED.get(command.table) is None or STORED[command.table].schema != schema:
            raise NotFoundError(
                f"there is no table {schema}.{command.table}, and none can be made here.",
                hint=f"Append to one of {', '.join(STORED)}.",
            )
        if exists != TableExistsOption.TABLE_EXISTS_OPTION_APPEND:
            raise UnsupportedError(
                f"table {schema}.{command.table} exists; its rows can only be added to.", hint='Use mode="append".'
            )
        futures: list[Future[Ack]] = []
        try:
            for chunk in reader:
                if chunk.data is not None:
                    self._check_batch(chunk.data)
                    futures.append(self._store.append(command.table, chunk.data))
        except InputError as error:
            stored = sum(future.result().rows for future in futures)
            raise InputError(f"{error.message} {stored} rows before it are stored.", hint=error.hint) from None
        rows = sum(future.result().rows for future in futures)
        writer.write(pa.py_buffer(DoPutUpdateResult(rows).serialize()))

    def _check_batch(self, batch: pa.RecordBatch) -> None:
        """Believe nothing of what a client sent before it is looked through."""
        if batch.nbytes > self._message_bytes_max:
            raise TooLargeError(
                f"a batch has {batch.nbytes} bytes, flight.message_bytes_max is {self._message_bytes_max}.",
                hint="Send smaller batches.",
            )
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise RowError(f"the batch is not valid Arrow: {str(error).splitlines()[0]}.") from None


def _check_table(schema: str, table: str) -> None:
    found = STORED.get(table)
    if found is None or found.schema != (schema or "market"):
        raise NotFoundError(f"there is no table {schema}.{table}.", hint=f"Stored tables are {', '.join(STORED)}.")


class _Answers:
    """Sends the answers of one append stream from a thread of its own, in order."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._queue: queue.Queue[tuple[int, Future[Ack]] | None] = queue.Queue(ANSWERS_MAX)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="append-answers", daemon=True)
        self._thread.start()

    def put(self, sequence: int, future: Future[Ack]) -> None:
        """Queue an answer; blocks while too many are outstanding."""
        self.raise_failure()
        self._queue.put((sequence, future))

    def finish(self) -> None:
        """Send what is queued and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def raise_failure(self) -> None:
        """Raise what ended the answers, if anything did."""
        if self._failure is not None:
            raise to_flight(self._failure)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            sequence, future = item
            if self._failure is not None:
                continue
            try:
                self._writer.write(pa.py_buffer(_answer(sequence, future).serialize()))
            except Exception as error:  # the log failed, or the client is gone: the stream ends, nothing is answered
                self._failure = error


def _answer(sequence: int, future: Future[Ack]) -> AppendResult:
    try:
        ack = future.result()
    except InputError as error:
        return AppendResult(error=AppendError(sequence, error.code, error.message, error.hint or ""))
    return AppendResult(ack=AppendAck(sequence, ack.first_seq, ack.rows, ack.rejected, ack.duplicate, ack.repeated))
