"""Rows in over DoPut: long-lived append streams with an answer for each batch, and Flight SQL's bulk ingest.

The rule of this file: an answer is sent only for what is durable, in the order the batches came; reading goes on while
answers are outstanding.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Literal

import pyarrow as pa
import structlog

from tickflight.wire.append import AppendAck, AppendBatch, AppendError, AppendResult, DoPutUpdateResult
from tickflight.wire.commands import AppendStream, CommandStatementIngest, TableDefinitionOptions
from tickflight.wire.enums import TableExistsOption, TableNotExistOption
from tickflight_server.audit import Stream
from tickflight_server.errors import (
    CancelledError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UnsupportedError,
)
from tickflight_server.flight.auth import Call
from tickflight_server.flight.incoming import checked, chunks, schema_of
from tickflight_server.flight.permits import check_workspace, check_write, known_tables
from tickflight_server.flight.running import begin, options_of
from tickflight_server.flight.sessions import Sessions
from tickflight_server.flight.status import to_flight
from tickflight_server.identity.rights import Rights
from tickflight_server.query.engine import Engine
from tickflight_server.query.trees import CATALOG
from tickflight_server.query.writer import Target, Writer
from tickflight_server.schemas import STORED
from tickflight_server.store import PRODUCER_BYTES_MAX, SEQUENCE_MAX, Ack, Store

LOG = structlog.get_logger(__name__)
_MISSING: Mapping[TableNotExistOption, Literal["create", "fail"]] = {
    TableNotExistOption.TABLE_NOT_EXIST_OPTION_CREATE: "create",
    TableNotExistOption.TABLE_NOT_EXIST_OPTION_FAIL: "fail",
}
_THERE: Mapping[TableExistsOption, Literal["fail", "append", "replace"]] = {
    TableExistsOption.TABLE_EXISTS_OPTION_FAIL: "fail",
    TableExistsOption.TABLE_EXISTS_OPTION_APPEND: "append",
    TableExistsOption.TABLE_EXISTS_OPTION_REPLACE: "replace",
}
ANSWERS_MAX = 256  # batches of one stream that are read and not yet answered


class IngestService:
    """Takes rows for the stored tables, and for those of the users.

    Args:
        store: where market data goes.
        engine: where the users' own tables are.
        message_bytes_max: largest batch that is taken.
    """

    def __init__(self, store: Store, engine: Engine, sessions: Sessions, message_bytes_max: int) -> None:
        self._store = store
        self._writer = Writer(engine)
        self._sessions = sessions
        self._message_bytes_max = message_bytes_max
        self._rates, self._board = engine.shared.rates, engine.shared.board

    def append_stream(self, call: Call, command: AppendStream, reader: Any, writer: Any) -> None:
        """Append every batch of a stream and answer for each; returns when the client ended the stream."""
        _check_table(command.schema, command.table, call.session.rights)
        if len(command.producer) > PRODUCER_BYTES_MAX:
            # the store would refuse batch after batch: the stream does not even begin
            size = len(command.producer)
            raise InputError(f"the producer's id has {size} bytes, at most {PRODUCER_BYTES_MAX} are taken.")
        counted = self._store.audit.stream(call.session.user, call.peer, command.table, command.producer)
        answers = _Answers(writer, counted)
        try:
            for chunk in chunks(reader):
                if chunk.data is None:
                    continue
                call.check()
                if chunk.app_metadata is None:
                    raise InputError("a batch came without its sequence.", hint="Send AppendBatch as app_metadata.")
                sequence = AppendBatch.parse(chunk.app_metadata.to_pybytes()).sequence
                if not 1 <= sequence <= SEQUENCE_MAX:
                    # below 1 it would pass for one that was taken already
                    raise InputError(f"a batch has sequence {sequence}.", hint="Count from 1.")
                self._slow(call, chunk.data.num_rows)
                answers.put(sequence, self._append(call, command, chunk.data, sequence))
        except BaseException as error:
            counted.fail(error)
            raise
        finally:
            answers.finish()
            counted.end()
        answers.raise_failure()

    def _slow(self, call: Call, rows: int) -> None:
        """Keep a producer waiting that sends faster than its roles let it: it feels it, since nothing is read."""
        limits = call.session.rights.limits
        self._rates.wait(call.session.user, rows, limits.ingest_rows_per_s, call.gone)

    def _append(self, call: Call, command: AppendStream, batch: pa.RecordBatch, sequence: int) -> Future[Ack]:
        """Hand a batch to the store; what the batch itself is guilty of is an answer, not the end of the stream."""
        try:
            producer = command.producer or None
            return self._store.append(command.table, self._checked(call, batch), producer=producer, sequence=sequence)
        except InputError as error:
            failed: Future[Ack] = Future()
            # its traceback leads to this frame, which holds the batch: a circle that waits long for the collector
            failed.set_exception(error.with_traceback(None))
            return failed

    def ingest(self, call: Call, command: CommandStatementIngest, reader: Any, writer: Any) -> None:
        """Take the rows of a bulk ingest; answers with their number when all are durable."""
        options = command.table_definition_options or TableDefinitionOptions()
        exists = options.if_exists
        schema = command.schema or None
        append = exists == TableExistsOption.TABLE_EXISTS_OPTION_APPEND
        if not command.temporary and (schema == "market" or (schema is None and command.table in STORED)):
            if command.transaction_id:
                raise UnsupportedError(
                    "market data takes no part in transactions: its rows are durable when they are answered.",
                    hint="Ingest without a transaction, or into a table of schema workspace.",
                )
            rows = self._ingest_market(call, command.table, append, reader)
        else:
            rows = self._ingest_workspace(call, command, options, reader)
        call.reply(writer, DoPutUpdateResult(rows))

    def _ingest_market(self, call: Call, table: str, append: bool, reader: Any) -> int:
        """Append to a stored table, as any feed does."""
        rights = call.session.rights
        if table not in known_tables(rights):
            known = ", ".join(name for name in STORED if name in rights.write)
            raise NotFoundError(
                f"there is no table market.{table}, and none can be made there.",
                hint=f"Append to one of {known}, or make a table in schema workspace.",
            )
        check_write(table, rights)
        if not append:
            raise PermissionDeniedError(
                f"table market.{table} exists; its rows can only be added to.", hint='Use mode="append".'
            )
        futures: list[Future[Ack]] = []
        with self._store.audit.stream(call.session.user, call.peer, table) as counted:
            try:
                for batch in self._batches(call, reader):
                    futures.append(self._store.append(table, batch))  # noqa: PERF401 — kept when a later one is refused
            except InputError as error:
                stored = sum(counted.took(future.result()) for future in futures)
                raise InputError(f"{error.message} {stored} rows before it are stored.", hint=error.hint) from None
            return sum(counted.took(future.result()) for future in futures)

    def _ingest_workspace(
        self, call: Call, command: CommandStatementIngest, options: TableDefinitionOptions, reader: Any
    ) -> int:
        """Make or extend a table of the users', all rows or none."""
        check_workspace(call.session.rights)
        run = begin(self._board, call, f"ingest into {command.table}", "ingest")
        asked = self._sessions.asked(call, command.transaction_id)
        target = _target(command, options, asked.session.options.schema)
        schema = schema_of(reader)

        failures: list[Exception] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for batch in call.received(reader):
                    self._slow(call, batch.num_rows)
                    yield self._checked(call, batch)
            except Exception as error:
                failures.append(error)
                raise

        rows = pa.RecordBatchReader.from_batches(schema, batches())
        try:
            with call.limits():
                taken = self._writer.ingest(
                    target,
                    rows,
                    session=asked.session,
                    transaction=asked.transaction,
                    started=call.watch,
                    options=options_of(call, asked.session.options),
                )
            run.sent(taken, 0)
            return taken
        except ServerError as error:
            if failures and not isinstance(error, CancelledError):
                raise failures[0] from None  # the engine tells of it with a traceback
            raise

    def _batches(self, call: Call, reader: Any) -> Iterator[pa.RecordBatch]:
        for chunk in chunks(reader):
            if chunk.data is not None:
                self._slow(call, chunk.data.num_rows)
                yield self._checked(call, chunk.data)

    def _checked(self, call: Call, batch: pa.RecordBatch) -> pa.RecordBatch:
        return checked(batch, self._message_bytes_max, call.session.rights.limits.request_mb)


def _target(command: CommandStatementIngest, options: TableDefinitionOptions, default: str) -> Target:
    """Return where an ingest goes.

    Raises:
        InputError: the command contradicts itself or leaves something open.
        NotFoundError: there is no such catalog.
        PermissionDeniedError: the schema is the server's.
    """
    missing, there = _MISSING.get(options.if_not_exist), _THERE.get(options.if_exists)
    if missing is None or there is None or not command.table:
        raise InputError(
            "the ingest does not name a table, and what to do if it is there and if it is not.",
            hint="Set table and both of table_definition_options, as drivers do for a mode.",
        )
    if command.temporary:
        if command.schema or command.catalog not in (None, "", "temp"):
            raise InputError("a temporary table has no schema or catalog of the caller's.", hint="Leave them out.")
        return Target(command.table, temporary=True, if_missing=missing, if_there=there)
    if command.catalog not in (None, "", CATALOG):
        raise NotFoundError(f"there is no catalog {str(command.catalog)[:100]!r}.", hint=f"It is {CATALOG}.")
    schema = command.schema or ("workspace" if default in ("market", "system") else default)
    if schema in ("market", "system"):
        raise PermissionDeniedError(f"schema {schema} is the server's.", hint="Use schema workspace.")
    return Target(command.table, schema, if_missing=missing, if_there=there)


def _check_table(schema: str, table: str, rights: Rights) -> None:
    found = STORED.get(table)
    known = known_tables(rights)
    if found is None or table not in known or found.schema != (schema or "market"):
        raise NotFoundError(f"there is no table {schema}.{table}.", hint=f"Stored tables are {', '.join(known)}.")
    check_write(table, rights)


class _Answers:
    """Sends the answers of one append stream from a thread of its own, in order."""

    def __init__(self, writer: Any, counted: Stream) -> None:
        self._writer = writer
        self._counted = counted
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
                self._writer.write(pa.py_buffer(_answer(sequence, future, self._counted).serialize()))
            except Exception as error:  # the log failed, or the client is gone: the stream ends, nothing is answered
                self._failure = error.with_traceback(None)
                self._counted.fail(error)


def _answer(sequence: int, future: Future[Ack], counted: Stream) -> AppendResult:
    error = future.exception()
    if isinstance(error, InputError):  # not raised: see _append
        counted.refused()
        return AppendResult(error=AppendError(sequence, error.code, error.message, error.hint or ""))
    ack = future.result()
    counted.took(ack)
    return AppendResult(ack=AppendAck(sequence, ack.first_seq, ack.rows, ack.rejected, ack.duplicate, ack.repeated))
