"""Statements over Flight SQL: queries are planned when a client asks for information and run when it fetches.

The rule of this file: a query runs in DoGet and nowhere else, so that a client can cancel it there; what writes runs
exactly once, whichever way it comes, and its ticket gives what it gave however often it is fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.actions import ActionCreatePreparedStatementResult
from tickflight.wire.commands import CommandPreparedStatementQuery
from tickflight.wire.tickets import Query, TicketStatementQuery
from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import InputError, NotFoundError, StatementError
from tickflight_server.flight.auth import SNAPSHOT_HEADER, Call, caller_of
from tickflight_server.flight.handles import Handles
from tickflight_server.flight.kept import Found, Planned, Prepared, Row, by_name, in_schema, rows_bound
from tickflight_server.flight.parameters import read_batches, rows_of
from tickflight_server.flight.permits import check_workspace
from tickflight_server.flight.running import begin, options_of, reads
from tickflight_server.flight.sessions import Asked, Sessions
from tickflight_server.flight.streams import counted, generated, stream
from tickflight_server.flight.tails import TailService
from tickflight_server.query.engine import Engine
from tickflight_server.query.execution import cut_by_bytes
from tickflight_server.query.limited import ResultLimit, result_limit
from tickflight_server.query.narrowing import what_to_narrow
from tickflight_server.query.plan import Plan
from tickflight_server.query.shares import Share
from tickflight_server.query.statement import Statement
from tickflight_server.query.writer import Outcome, Writer
from tickflight_server.query.writing import Writing

PLAN_FRESH_S = 1.0  # a plan older than this when it is fetched is made anew, since now() is part of it
SHARE_FETCHED_S = 60.0  # a part of a scan can be fetched again for so long
EMPTY = pa.schema([])
# what stands for a parameter before values are bound: some functions refuse null, others want a list
_GUESSES: tuple[object, ...] = (None, 1, [1])


class QueryService:
    """Planning, preparing and running statements for one server, in the sessions of its callers."""

    def __init__(
        self, engine: Engine, sessions: Sessions, tails: TailService, settings: QuerySettings, clock: Clock
    ) -> None:
        self._engine = engine
        self._tails = tails
        self._board = engine.shared.board
        self._writer = Writer(engine)
        self._sessions = sessions
        self._settings = settings
        self._clock = clock
        limits = {"most": settings.handles_max, "idle_s": settings.handle_idle_s}
        self._planned: Handles[Planned] = Handles("query result", clock, **limits)  # type: ignore[arg-type]
        self._fetched: deque[tuple[float, str, bytes]] = deque()
        self._prepared: Handles[Prepared] = Handles("prepared statement", clock, **limits)  # type: ignore[arg-type]
        # a ticket keeps the files of its scan, a prepared statement its values
        sessions.also_sweep(self._forget_fetched)
        sessions.also_sweep(self._planned.sweep)
        sessions.also_sweep(self._prepared.sweep)

    # --- statements

    def info(self, call: Call, sql: str, transaction_id: bytes | None) -> Found:
        """Plan a query, or run what writes; return the result's schema and its tickets."""
        begin(self._board, call, sql)
        asked = self._sessions.asked(call, transaction_id)
        statement = self._engine.read(sql)
        if isinstance(statement, Writing):
            return self._keep_result(call, asked, self._write(call, asked, statement, [()]))
        return self._keep_plan(call, asked, statement, sql)

    def _keep_plan(self, call: Call, asked: Asked, statement: Statement, text: str) -> Found:
        """Plan a query without parameters; its tickets outlive what is prepared, and any connection may read them."""
        plan = self._plan(call, statement, (), asked)
        whole = asked.session.seat(asked.transaction) or self._limited(
            call, plan, asked
        )  # of several nobody counts all
        shares = [] if whole else self._engine.shares(plan, asked.cuts)
        now = self._clock.monotonic()
        planned = [Planned(asked, statement, plan, now, share, text=text) for share in shares or (None,)]
        handles = [self._planned.add(call.session.user, one, _most(call)) for one in planned]
        return Found(plan.schema, tuple(TicketStatementQuery(h).serialize() for h in handles), expires=not shares)

    def schema(self, call: Call, sql: str, transaction_id: bytes | None) -> pa.Schema:
        """Return the result schema of a statement; nothing runs, and no handle is kept."""
        begin(self._board, call, sql)
        asked = self._sessions.asked(call, transaction_id)
        statement = self._engine.read(sql)
        if isinstance(statement, Writing):
            return self._returned(statement, asked)
        return self._plan(call, statement, (), asked).schema

    def update(self, call: Call, sql: str, transaction_id: bytes | None) -> int:
        """Run what writes; return how many rows it changed.

        Raises:
            InputError: it is a query.
        """
        begin(self._board, call, sql)
        asked = self._sessions.asked(call, transaction_id)
        statement = self._engine.read(sql)
        if not isinstance(statement, Writing):
            raise InputError("the statement gives rows.", hint="Run it as a query.")
        return self._write(call, asked, statement, [()]).rows

    def _plan(self, call: Call, statement: Statement, values: object, asked: Asked, *, guessed: bool = False) -> Plan:
        seat = asked.session.seat(asked.transaction)
        with call.limits():
            plan = self._engine.plan(
                statement,
                values,  # type: ignore[arg-type]
                guessed=guessed,
                options=options_of(call, asked.session.options),
                seat=seat,
                started=call.watch,
                dictionaries=asked.dictionaries and seat is None,
            )
        reads(call, plan.statement)
        if _never_ends(plan) and not guessed:
            self._tails.check(plan, asked.session.options)
        return plan

    def _returned(self, writing: Writing, asked: Asked) -> pa.Schema:
        return self._engine.returned(writing, asked.session.options, asked.session.seat(asked.transaction))

    def _write(self, call: Call, asked: Asked, writing: Writing, rows: Sequence[object]) -> Outcome:
        if writing.kind in ("object", "rows"):
            check_workspace(call.session.rights)
        run = call.run
        assert run is not None
        run.kind, run.state = "write", "running"
        reads(call, writing.reads)
        with call.limits():
            outcome = self._writer.write(
                writing,
                rows,  # type: ignore[arg-type]
                session=asked.session,
                transaction=asked.transaction,
                cuts=self._sessions.cuts(asked),
                started=call.watch,
                options=options_of(call, asked.session.options),
            )
        run.sent(outcome.rows, outcome.table.nbytes if outcome.table is not None else 0)
        return outcome

    def _keep_result(self, call: Call, asked: Asked, outcome: Outcome) -> Found:
        table = outcome.table if outcome.table is not None else EMPTY.empty_table()
        handle = self._planned.add(call.session.user, Planned(asked, result=table), _most(call))
        return Found(table.schema, (TicketStatementQuery(handle).serialize(),), outcome.rows, expires=True)

    # --- prepared statements

    def prepare(self, call: Call, sql: str, transaction_id: bytes | None) -> ActionCreatePreparedStatementResult:
        """Keep a statement for running it with parameters."""
        begin(self._board, call, sql)
        asked = self._sessions.asked(call, transaction_id)
        statement = self._engine.read(sql)
        names = self._engine.parameter_names(sql)
        seat = asked.session.seat(asked.transaction)
        parameters = self._engine.parameter_schema(statement, names, asked.session.options, seat)
        if isinstance(statement, Writing):
            schema = self._returned(statement, asked)
        else:
            schema = self._guess_schema(call, statement, names, asked)
        kept = Prepared(statement, names, parameters, asked, sql)
        handle = self._prepared.add(call.session.user, kept, _most(call), refuse="limits.prepared_max")
        return ActionCreatePreparedStatementResult(
            prepared_statement_handle=handle,
            dataset_schema=schema.serialize().to_pybytes(),
            parameter_schema=parameters.serialize().to_pybytes(),
            is_update=isinstance(statement, Writing) and not statement.returning,
        )

    def _guess_schema(self, call: Call, statement: Statement, names: tuple[str, ...], asked: Asked) -> pa.Schema:
        """Return the result schema of a statement without values, exact where no type depends on a parameter."""
        failure: StatementError | None = None
        for guess in _GUESSES if names else (None,):
            try:
                return self._plan(call, statement, dict.fromkeys(names, guess), asked, guessed=bool(names)).schema
            except StatementError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def close_prepared(self, call: Call, handle: bytes) -> None:
        """Forget a prepared statement; one that is gone already is no error."""
        self._prepared.remove(call.session.user, handle)

    def bind(self, call: Call, handle: bytes, batches: list[pa.RecordBatch]) -> None:
        """Bind rows of values to a prepared statement, in place of those bound before."""
        prepared = self._prepared.get(call.session.user, handle)
        prepared.rows = list(rows_of(batches, prepared.parameters, prepared.types))

    def prepared_info(self, call: Call, handle: bytes) -> Found:
        """Plan a prepared query with its bound values, or run what writes; return the schema and the ticket."""
        prepared = self._prepared.get(call.session.user, handle)
        begin(self._board, call, prepared.text)
        prepared.asked = asked = self._asked_again(call, prepared)
        if isinstance(prepared.statement, Writing):
            outcome = self._write(
                call, asked, prepared.statement, [by_name(prepared.parameters, r) for r in rows_bound(prepared)]
            )
            return self._keep_result(call, asked, outcome)
        if not prepared.parameters:
            return self._keep_plan(call, asked, prepared.statement, prepared.text)
        # the ticket is the statement's own handle: what is bound until the fetch counts
        plan = self._plan_bound(call, prepared, rows_bound(prepared)[0])
        return Found(plan.schema, (CommandPreparedStatementQuery(handle).serialize(),))

    def prepared_schema(self, call: Call, handle: bytes) -> pa.Schema:
        """Return the result schema of a prepared statement with what is bound to it; nothing runs."""
        prepared = self._prepared.get(call.session.user, handle)
        asked = self._asked_again(call, prepared)
        if isinstance(prepared.statement, Writing):
            return self._returned(prepared.statement, asked)
        if prepared.parameters and not prepared.rows:
            return self._guess_schema(call, prepared.statement, prepared.parameters, asked)
        return self._plan_bound(call, prepared, rows_bound(prepared)[0]).schema

    def prepared_update(self, call: Call, handle: bytes, batches: list[pa.RecordBatch]) -> int:
        """Run a prepared statement that writes, for each row of values, all or none; return the rows changed."""
        prepared = self._prepared.get(call.session.user, handle)
        if not isinstance(prepared.statement, Writing):
            raise InputError("the prepared statement gives rows.", hint="Run it as a query.")
        begin(self._board, call, prepared.text)
        asked = self._asked_again(call, prepared)
        if prepared.parameters and any(batch.num_columns for batch in batches):
            prepared.rows = list(rows_of(batches, prepared.parameters, prepared.types))
            if not prepared.rows:
                return 0
        rows = [by_name(prepared.parameters, r) for r in rows_bound(prepared)]
        return self._write(call, asked, prepared.statement, rows).rows

    def _asked_again(self, call: Call, prepared: Prepared) -> Asked:
        """Return what a prepared statement runs in now: drivers keep one over the end of its transaction or session."""
        before, now = prepared.asked, self._sessions.asked(call)
        session, transaction = before.session, before.transaction
        if session.ended:  # one that held nothing was forgotten while it was idle
            session, transaction = now.session, None
        elif transaction is not None and transaction.ended:
            transaction = session.transaction
        return Asked(session, transaction, now.pin, now.cuts, before.dictionaries)

    def _plan_bound(self, call: Call, prepared: Prepared, row: Row) -> Plan:
        assert isinstance(prepared.statement, Statement)
        return self._plan(call, prepared.statement, by_name(prepared.parameters, row), prepared.asked)

    # --- fetching

    def fetch(self, call: Call, ticket: TicketStatementQuery | Query | CommandPreparedStatementQuery) -> object:
        """Run what a ticket stands for; return its stream."""
        if isinstance(ticket, Query):
            return self._run_query(call, ticket)
        if isinstance(ticket, TicketStatementQuery):
            planned = self._planned.get(call.session.user, ticket.statement_handle)
            if planned.share is not None:
                call.hold(lambda: self._note_fetched(call.session.user, ticket.statement_handle))
            return self._fetch_planned(call, planned)
        prepared = self._prepared.get(call.session.user, ticket.prepared_statement_handle)
        if isinstance(prepared.statement, Writing):
            raise InputError("the prepared statement writes.", hint="Ask for its flight information, which runs it.")
        begin(self._board, call, prepared.text)
        self._take(call, prepared.asked)
        rows = rows_bound(prepared)
        first = self._plan_bound(call, prepared, rows[0])
        if len(rows) == 1:
            return self._run(call, first, prepared.asked)
        return self._run_many(call, prepared, rows, first)

    def _fetch_planned(self, call: Call, planned: Planned) -> flight.FlightDataStream:
        self._take(call, planned.asked)
        planned.runs(call)
        if planned.statement is not None:
            begin(self._board, call, planned.text)
            reads(call, planned.statement)
        if planned.result is not None:
            return self._given(call, planned.result)
        if planned.statement is None:
            raise NotFoundError("the ticket is the id of a query in one round trip.", hint="Send the query itself.")
        plan, planned.plan = planned.plan, None
        if plan is None or (planned.share is None and self._clock.monotonic() - planned.made > PLAN_FRESH_S):
            plan = self._plan(call, planned.statement, (), planned.asked)
        return self._run(call, plan, planned.asked, planned.share)

    def _note_fetched(self, user: str, handle: bytes) -> None:
        """Keep a share that was fetched for a moment only: it holds rows that the ring has let go of."""
        self._fetched.append((self._clock.monotonic() + SHARE_FETCHED_S, user, handle))

    def _forget_fetched(self) -> None:
        now = self._clock.monotonic()
        while self._fetched and self._fetched[0][0] < now:
            _, user, handle = self._fetched.popleft()
            self._planned.remove(user, handle)

    def _take(self, call: Call, asked: Asked) -> None:
        """Let ``call`` run in what a ticket was given for; a fetch need not name its pin, and may not name another.

        Raises:
            InputError: the fetch names another one.
        """
        self._sessions.limit(call, asked)
        if call.snapshot is not None and call.snapshot != asked.pin:
            pin = f"under snapshot {asked.pin}" if asked.pin else "without a snapshot"
            raise InputError(
                f"the result was asked for {pin}, and is fetched under {call.snapshot[:100]!r}.",
                hint=f"Send the same {SNAPSHOT_HEADER} with GetFlightInfo and DoGet.",
            )

    def _run_query(self, call: Call, ticket: Query) -> flight.FlightDataStream:
        """Run a statement in one round trip."""
        begin(self._board, call, ticket.sql)
        asked = self._sessions.asked(call)
        if ticket.id:
            self._planned.keep(call.session.user, ticket.id, Planned(asked), _most(call)).runs(call)
            call.hold(partial(self._planned.remove, call.session.user, ticket.id))
        statement = self._engine.read(ticket.sql)
        values: object = ()
        if ticket.params:
            names = self._engine.parameter_names(ticket.sql)
            rows = list(rows_of(read_batches(ticket.params), names))
            if len(rows) != 1:
                raise StatementError(f"{len(rows)} rows of parameters were given, one is wanted.", hint="Send one row.")
            values = by_name(names, rows[0])
        if isinstance(statement, Writing):
            table = self._write(call, asked, statement, [values]).table
            table = EMPTY.empty_table() if table is None else table
            return self._given(call, table)
        return self._run(call, self._plan(call, statement, values, asked), asked)

    def _given(self, call: Call, table: pa.Table) -> flight.FlightDataStream:
        """Return what a writing statement gave as a stream."""
        limited = result_limit(caller_of(call), self._engine.store.metrics, lambda: "Return fewer columns.")
        batches = table.to_batches()
        made = batches if limited is None else limited(iter(batches))
        return generated(table.schema, made, self._settings.batch_bytes)

    def _run(self, call: Call, plan: Plan, asked: Asked, share: Share | None = None) -> flight.FlightDataStream:
        if _never_ends(plan):
            return self._tails.query(call, plan, asked.session.options)
        with call.limits():
            execution = self._engine.execute(
                plan,
                cuts=self._sessions.cuts(asked),
                started=call.watch,
                options=options_of(call, asked.session.options),
                seat=asked.session.seat(asked.transaction),
                share=share,
            )
        call.hold_while_read(execution.close)
        return stream(execution, self._settings.batch_bytes, call.run, self._limited(call, plan, asked))

    def _limited(self, call: Call, plan: Plan, asked: Asked) -> ResultLimit | None:
        """Return what ends a result that is too large for its caller, None if none is."""
        store = self._engine.store
        return result_limit(caller_of(call), store.metrics, lambda: what_to_narrow(plan, store, asked.cuts))

    def _run_many(self, call: Call, prepared: Prepared, rows: Sequence[Row], first: Plan) -> flight.FlightDataStream:
        """Run the statement for one row after the other, as one result in the first one's schema."""
        schema, limit, asked = first.schema, self._settings.batch_bytes, prepared.asked

        def batches() -> Iterator[pa.RecordBatch]:
            for number, row in enumerate(rows):
                plan = self._plan_bound(call, prepared, row) if number else first
                with self._engine.execute(
                    plan,
                    cuts=self._sessions.cuts(asked),
                    started=call.watch,
                    options=options_of(call, asked.session.options),
                    seat=asked.session.seat(asked.transaction),
                ) as execution:
                    for batch in execution.batches():
                        yield from cut_by_bytes(in_schema(batch, schema), limit)

        limited = self._limited(call, first, asked)
        made = batches() if limited is None else limited(batches())
        return generated(schema, counted(made, call.run))

    # --- cancelling and keeping

    def cancel(self, call: Call, handle: bytes) -> bool:
        """Stop what runs for a ticket, and let nothing more run; return whether there is such a ticket."""
        planned = self._planned.find(call.session.user, handle)
        if planned is not None:
            planned.cancel()
        return planned is not None

    def cancel_statement(self, call: Call, id_: str) -> bool:
        """End a statement by its id on the board; return whether it had not ended by itself.

        Raises:
            NotFoundError: there is none, or it is another's.
        """
        return self._board.cancel(caller_of(call), id_)

    def cancel_query(self, call: Call, query: Query) -> bool:
        """Stop a query in one round trip, also one that is still to come; return whether it has an id."""
        if query.id:
            self._planned.keep(call.session.user, query.id, Planned(self._sessions.asked(call)), _most(call)).cancel()
        return bool(query.id)

    def renew(self, call: Call, handle: bytes) -> None:
        """Keep a ticket for as long as a new one.

        Raises:
            NotFoundError: there is no such ticket, or it has ended.
        """
        self._planned.get(call.session.user, handle)


def _most(call: Call) -> int | None:
    """Return how many statements, and how many tickets, the caller may keep."""
    return call.session.rights.limits.prepared_max


def _never_ends(plan: Plan) -> bool:
    return plan.statement.streams and not plan.statement.explain
