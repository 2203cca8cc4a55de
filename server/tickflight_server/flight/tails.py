"""Tails over Flight: a request as a ticket, batches with their marks, and tokens to go on by.

The rule of this file: a stream that waits for rows holds nothing but its thread; when its caller goes, it ends at once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.codec import WireError
from tickflight.wire.streams import ResumeToken, Selection, Tail, TailMark
from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import InputError
from tickflight_server.flight.auth import Call
from tickflight_server.flight.kept import Found
from tickflight_server.flight.open_streams import OpenStreams
from tickflight_server.flight.running import begin, options_of, shown
from tickflight_server.flight.status import mapped_errors
from tickflight_server.query.board import Run
from tickflight_server.query.engine import Engine
from tickflight_server.query.plan import Plan
from tickflight_server.query.selection import Choice, check
from tickflight_server.query.session import Options
from tickflight_server.query.tails import OnLag, Sent, Tails, Wanted
from tickflight_server.query.tails import Tail as OpenTail


class TailService:
    """Answers what is asked of tails."""

    def __init__(
        self, engine: Engine, writer: uuid.UUID, settings: QuerySettings, clock: Clock, streams: OpenStreams
    ) -> None:
        self._writer = writer.bytes
        self._engine = engine
        self._settings = settings
        self._streams = streams
        self._tails = Tails(engine, settings, clock)

    def info(self, call: Call, request: Tail) -> Found:
        """Check a request; its ticket is the request itself."""
        return Found(self.schema(call, request), (request.serialize(),))

    def schema(self, call: Call, request: Tail) -> pa.Schema:
        """Return the schema of a tail's batches."""
        return self._wanted(request).choice.schema(self._engine.store.numeric)

    def fetch(self, call: Call, request: Tail) -> flight.FlightDataStream:
        """Begin a tail."""
        return self.stream(call, self._wanted(request))

    def check(self, plan: Plan, options: Options) -> None:
        """Refuse a query over ``tail()`` that cannot be answered."""
        self._tails.wanted(plan, options)

    def query(self, call: Call, plan: Plan, options: Options) -> flight.FlightDataStream:
        """Run a query over ``tail()``."""
        return self.stream(call, self._tails.wanted(plan, options))

    def stream(self, call: Call, wanted: Wanted) -> flight.FlightDataStream:
        """Return a tail as a stream that ends with its call."""
        run = begin(self._engine.shared.board, call, shown("tail", wanted.choice), "tail")
        tail = self._tails.open(replace(wanted, options=options_of(call, wanted.options)))
        call.hold(tail.close)
        self._streams.enter(call, tail.stop)
        call.restart(0.0)  # it is meant to run for ever
        run.kind, run.state = "tail", "running"
        table = wanted.choice.table
        run.reads([(table.schema, table.name)])
        return flight.GeneratorStream(tail.schema, self._messages(tail, run))

    def close(self) -> None:
        """End all tails."""
        self._tails.close()

    def _messages(self, tail: OpenTail, run: Run) -> Iterator[tuple[pa.RecordBatch, bytes]]:
        table, since_us = tail.wanted.choice.table.name, tail.wanted.since_us
        with mapped_errors():
            for one in tail.sent():
                run.sent(one.batch.num_rows, one.batch.nbytes)
                token = ResumeToken(self._writer, table, one.seq, since_us)
                yield one.batch, _mark(one, token).serialize()

    def _wanted(self, request: Tail) -> Wanted:
        """Return what a request asks for.

        Raises:
            InputError: something in it cannot be.
            NotFoundError: there is no such table.
        """
        chosen = request.selection or Selection()
        choice = check(self._engine, chosen.table, chosen.exchanges, chosen.symbols, chosen.columns, chosen.where)
        if request.lag_rows_max < 0:
            raise InputError("lag_rows_max is a number of rows, or 0.")
        after, since_us, resumed = request.after_seq, request.since_us, bool(request.resume)
        if resumed:
            token = self._token(request.resume, choice)
            after, since_us = token.seq, token.since_us
        elif after is None and since_us is not None:
            after = 0
        on_lag = cast(OnLag, request.on_lag or "end")
        return self._tails.checked(
            Wanted(choice, after, since_us, resumed=resumed, on_lag=on_lag, lag_rows_max=request.lag_rows_max)
        )

    def _token(self, data: bytes, choice: Choice) -> ResumeToken:
        try:
            token = ResumeToken.parse(data)
        except WireError:
            raise InputError("the resume token cannot be read.", hint="Give one that a batch came with.") from None
        if token.writer != self._writer:
            raise InputError("the resume token is of another server's data.", hint="Begin with since, or from now.")
        if token.table != choice.table.name:
            raise InputError(f"the resume token is of table {token.table[:100]!r}, and not of {choice.table.name}.")
        return token


def _mark(one: Sent, token: ResumeToken) -> TailMark:
    return TailMark(
        resume=token.serialize(),
        seq=one.seq,
        newest_seq=one.newest_seq,
        durable_us=one.durable_us,
        skipped_first=one.skipped_first,
        skipped_last=one.skipped_last,
        skipped_why=one.skipped_why,
        ended=one.ended,
    )
