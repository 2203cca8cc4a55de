"""The writer: batches in, one acknowledgement each when its rows are durable, and nothing lost or doubled on the way.

The rule of this file: a batch is kept until the server has answered for it. When the stream breaks, it is opened again
and what has no answer is sent again under the same numbers; the server knows what it has already.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import flight

from tickflight.connection import Connection
from tickflight.errors import (
    TRANSLATED,
    AuthenticationError,
    CancelledError,
    ServerError,
    TickflightError,
    UnavailableError,
    WriteError,
    translate,
)
from tickflight.wire.append import AppendBatch, AppendResult
from tickflight.wire.commands import AppendStream

BACKOFF_S = (0.05, 5.0)
_TRANSIENT = (UnavailableError, ServerError, CancelledError, AuthenticationError)


@dataclass(frozen=True)
class Ack:
    """The server's word for a batch: its rows are durable and visible.

    ``first_seq`` is the number of the first of ``rows`` rows in the table; ``rejected`` rows did not fit and are in
    table ``system.rejected``; ``duplicate``: the batch was there already from an earlier try; ``repeated`` rows were
    not stored because a row with the same key was there.
    """

    first_seq: int
    rows: int
    rejected: int
    duplicate: bool
    repeated: int = 0


@dataclass(frozen=True, eq=False)
class _Item:
    sequence: int
    batch: pa.RecordBatch
    size: int
    future: Future[Ack]


class Writer:
    """A stream of batches into one table. Threads may share it; use it as a context manager, or ``close`` it.

    Args:
        connection: where to.
        table: a market table; its columns by name, without ``seq``; ``receipt_timestamp`` may be left out.
        producer: identity under which batches are known again, 1 to 64 bytes; made up when absent.
        first_sequence: number of the first batch; above the last that was sent under a given ``producer``.
        inflight_bytes_max: batches without an answer, above which ``write`` blocks.
        retry_timeout_s: after so long without reaching the server, waiting batches fail; None is never.
    """

    def __init__(
        self,
        connection: Connection,
        table: str,
        *,
        producer: bytes | None = None,
        first_sequence: int = 1,
        inflight_bytes_max: int = 64 << 20,
        retry_timeout_s: float | None = 60.0,
    ) -> None:
        schema, _, name = table.rpartition(".")
        self._command = AppendStream(name, schema or "market", producer or os.urandom(16)).serialize()
        self._connection = connection
        self._bytes_max = inflight_bytes_max
        self._retry_timeout_s = retry_timeout_s
        if first_sequence < 1:
            raise WriteError(f"first_sequence is {first_sequence}: batches are counted from 1.", code="sequence")
        self._next = first_sequence
        self._waiting: deque[_Item] = deque()  # without an answer, in order
        self._unsent = 0  # how many of them, from the end, are not on the present stream
        self._bytes = 0
        self._condition = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, batch: pa.RecordBatch | pa.Table) -> Future[Ack]:
        """Send a batch; the future ends when its rows are durable. Blocks while too much is without an answer.

        A Table is sent as one batch. The future raises ``WriteError`` if the server refuses the batch, and
        ``UnavailableError`` if it could not be reached for ``retry_timeout_s``.
        """
        if isinstance(batch, pa.Table):
            batch = _one_batch(batch)
        size = batch.nbytes  # what is sent: a slice counts as much as it shows
        with self._condition:
            self._condition.wait_for(lambda: self._closing or not self._bytes or self._bytes + size <= self._bytes_max)
            if self._closing:
                raise WriteError("the writer is closed.", code="closed")
            item = _Item(self._next, batch, size, Future())
            item.future.set_running_or_notify_cancel()  # what is written cannot be taken back
            self._next += 1
            self._waiting.append(item)
            self._unsent += 1
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tickflight-writer", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        return item.future

    def flush(self, timeout: float | None = None) -> None:
        """Return when every batch written so far has its answer.

        Raises:
            UnavailableError: not within ``timeout`` seconds.
        """
        with self._condition:
            last = self._next - 1
            if not self._condition.wait_for(lambda: not self._waiting or self._waiting[0].sequence > last, timeout):
                raise UnavailableError(f"{len(self._waiting)} batches have no answer after {timeout} s.")

    def close(self) -> None:
        """Wait for all answers, then end the stream."""
        with self._condition:
            self._condition.wait_for(lambda: not self._waiting)
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        """Keep a stream open for as long as there is something to send."""
        delay, failing_since = BACKOFF_S[0], None
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                self._unsent = len(self._waiting)
                before = self._waiting[0].sequence
            try:
                self._stream()
                continue
            except Exception as error:  # whatever it is, this thread lives on, since the batches need somebody
                failure = translate(error)
            with self._condition:
                progressed = not self._waiting or self._waiting[0].sequence > before
            if progressed or failing_since is None:
                failing_since, delay = time.monotonic(), BACKOFF_S[0]
            waited = time.monotonic() - failing_since
            out_of_time = self._retry_timeout_s is not None and waited > self._retry_timeout_s
            if not isinstance(failure, _TRANSIENT) or out_of_time:
                self._fail(failure)
                failing_since = None
                continue
            time.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spreads retries, guards nothing
            delay = min(delay * 2, BACKOFF_S[1])
            if isinstance(failure, AuthenticationError):
                with contextlib.suppress(TickflightError):
                    self._connection.login()

    def _stream(self) -> None:
        """Send over one stream until there is nothing left and the writer closes, or the schema changes."""
        schema = self._waiting[0].batch.schema
        descriptor = flight.FlightDescriptor.for_command(self._command)
        try:
            stream, answers = self._connection.client.do_put(descriptor, schema, self._connection.options(timed=False))
        except TRANSLATED as error:
            raise translate(error) from None
        failure: list[BaseException] = []
        reader = threading.Thread(
            target=self._read_answers, args=(answers, failure), name="tickflight-writer-answers", daemon=True
        )
        reader.start()
        try:
            while (item := self._next_to_send(schema, failure)) is not None:
                stream.write_with_metadata(item.batch, AppendBatch(item.sequence).serialize())
            stream.done_writing()
        except TRANSLATED as error:
            failure.append(error)
        reader.join()
        try:
            stream.close()
        except TRANSLATED as error:
            # the status of the whole call is here: it says more than a broken pipe does
            failure.insert(0, error)
        if failure:
            raise translate(failure[0]) from None

    def _next_to_send(self, schema: pa.Schema, failure: list[BaseException]) -> _Item | None:
        """Wait for the next batch of this stream; None ends it."""
        with self._condition:
            self._condition.wait_for(lambda: self._unsent or failure or (self._closing and not self._waiting))
            if failure or not self._unsent:
                return None
            item = self._waiting[-self._unsent]
            if not item.batch.schema.equals(schema):
                return None
            self._unsent -= 1
            return item

    def _read_answers(self, answers: Any, failure: list[BaseException]) -> None:
        """Give each batch its answer, in order, until the stream ends."""
        try:
            while (data := answers.read()) is not None:
                self._settle(AppendResult.parse(data.to_pybytes()))
            with self._condition:
                if len(self._waiting) > self._unsent:
                    raise UnavailableError("the server ended the stream before it answered for every batch.")
        except Exception as error:  # whatever it is, the stream is over and its batches are sent again
            failure.append(error)
        with self._condition:
            self._condition.notify_all()

    def _settle(self, answer: AppendResult) -> None:
        told = answer.ack or answer.error
        assert told is not None
        item = self._waiting[0]
        if item.sequence != told.sequence:
            raise ServerError(f"the server answered for batch {told.sequence}, batch {item.sequence} is next.")
        if answer.error is not None:
            error = answer.error
            text = f"{error.message} Hint: {error.hint}" if error.hint else error.message
            item.future.set_exception(WriteError(text, code=error.code))
        elif answer.ack is not None:
            ack = answer.ack
            item.future.set_result(Ack(ack.first_seq, ack.rows, ack.rejected, ack.duplicate, ack.repeated))
        with self._condition:
            self._drop_first()

    def _drop_first(self) -> None:
        item = self._waiting.popleft()
        self._unsent = min(self._unsent, len(self._waiting))
        self._bytes -= item.size
        self._condition.notify_all()

    def _fail(self, error: TickflightError) -> None:
        """Give every waiting batch this failure; no stream is open now, so nobody else answers."""
        with self._condition:
            for item in self._waiting:
                item.future.set_exception(error)
            while self._waiting:
                self._drop_first()


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.unify_dictionaries().combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
