"""Replays over Flight: the stored rows of one table in order of time, of any amount.

The rule of this file: a stream holds a place among the running queries while the server sorts, and none while the
client takes what was sorted; all of it is of one moment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.streams import Replay, Selection
from tickflight_server.config import QuerySettings
from tickflight_server.errors import CancelledError
from tickflight_server.flight.auth import Call
from tickflight_server.flight.kept import Found
from tickflight_server.flight.open_streams import OpenStreams
from tickflight_server.flight.running import begin, options_of, shown
from tickflight_server.flight.sessions import Asked, Sessions
from tickflight_server.flight.streams import counted, generated
from tickflight_server.query.board import Run
from tickflight_server.query.engine import Engine
from tickflight_server.query.limited import result_limit
from tickflight_server.query.ordered import BY_TIME, by_time
from tickflight_server.query.selection import Choice, check, need

_NARROW = "Ask for fewer symbols, or for less time at once."


class ReplayService:
    """Answers what is asked of replays."""

    def __init__(self, engine: Engine, sessions: Sessions, streams: OpenStreams, settings: QuerySettings) -> None:
        self._engine = engine
        self._sessions = sessions
        self._streams = streams
        self._settings = settings

    def info(self, call: Call, request: Replay) -> Found:
        """Look a request through; its ticket is the request itself."""
        return Found(self.schema(call, request), (request.serialize(),))

    def schema(self, call: Call, request: Replay) -> pa.Schema:
        """Return the schema of a replay's batches."""
        return self._choice(request, self._sessions.asked(call)).schema(self._engine.store.numeric)

    def fetch(self, call: Call, request: Replay) -> flight.FlightDataStream:
        """Begin a replay: the rows that its snapshot holds, or those that are there now.

        Raises:
            InputError: something in the request cannot be.
            NotFoundError: there is no such table or snapshot.
            BusyError: as many streams are open as may be.
        """
        asked = self._sessions.asked(call)
        choice = self._choice(request, asked)
        schema = choice.schema(self._engine.store.numeric)
        stopped = threading.Event()
        run = begin(self._engine.shared.board, call, shown("replay", choice), "replay")
        run.reads([(choice.table.schema, choice.table.name)])
        self._streams.enter(call, stopped.set)
        batches = self._batches(call, run, asked, choice, request, stopped)
        limited = result_limit(run.caller, self._engine.store.metrics, lambda: _NARROW)
        made = batches if limited is None else limited(batches)
        return generated(schema, counted(made, run), self._settings.batch_bytes)

    def _batches(
        self, call: Call, run: Run, asked: Asked, choice: Choice, request: Replay, stopped: threading.Event
    ) -> Iterator[pa.RecordBatch]:
        with call.limits():
            rows = by_time(
                self._engine,
                choice,
                request.start_us,
                request.end_us,
                cuts=asked.cuts,
                started=call.watch,
                options=options_of(call, asked.session.options),
            )
            for batch in rows:
                if stopped.is_set():
                    hint = "The server shuts down: begin it again later." if run.by is None else None
                    raise CancelledError("the replay was ended.", hint=hint)
                self._sessions.cuts(asked)  # rows of a snapshot that has ended may be missing
                yield batch

    def _choice(self, request: Replay, asked: Asked) -> Choice:
        chosen = request.selection or Selection()
        choice = check(
            self._engine,
            chosen.table,
            chosen.exchanges,
            chosen.symbols,
            chosen.columns,
            chosen.where,
            options=asked.session.options,
        )
        need(choice.table, BY_TIME)
        return choice
