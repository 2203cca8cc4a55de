"""Statements over Flight SQL: planned when a client asks for information, run when it fetches.

The rule of this file: a SELECT runs in DoGet and nowhere else, so that a client can cancel it there; planning never
touches data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.actions import ActionCreatePreparedStatementResult
from tickflight.wire.commands import CommandPreparedStatementQuery
from tickflight.wire.tickets import Query, TicketStatementQuery
from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import InputError, StatementError
from tickflight_server.flight.auth import SNAPSHOT_HEADER, Call
from tickflight_server.flight.handles import Handles
from tickflight_server.flight.parameters import read_batches, rows_of
from tickflight_server.flight.streams import cut_by_bytes, generated, stream
from tickflight_server.query.engine import Engine, Plan
from tickflight_server.store import PinBoard

PLAN_FRESH_S = 1.0  # a plan older than this when it is fetched is made anew, since now() is part of it
# what stands for a parameter before values are bound: some functions refuse null, others want a list
_GUESSES: tuple[object, ...] = (None, 1, [1])


@dataclass
class Prepared:
    """A prepared statement, the rows bound to it last, and the pin of the call that planned it last."""

    sql: str
    parameters: tuple[str, ...]
    pin: str | None = None
    rows: list[tuple[object, ...]] = field(default_factory=list)


@dataclass
class Planned:
    """A query that waits to be fetched. ``plan`` is used once, when it is fresh; after that it is made anew."""

    sql: str
    pin: str | None
    plan: Plan | None
    made: float


class QueryService:
    """Planning, preparing and running statements for one server, over the newest rows or under a pin of ``pins``."""

    def __init__(self, engine: Engine, pins: PinBoard, settings: QuerySettings, clock: Clock) -> None:
        self._engine = engine
        self._pins = pins
        self._settings = settings
        self._clock = clock
        limits = {"most": settings.handles_max, "idle_s": settings.handle_idle_s}
        self._planned: Handles[Planned] = Handles("query result", clock, **limits)  # type: ignore[arg-type]
        self._prepared: Handles[Prepared] = Handles("prepared statement", clock, **limits)  # type: ignore[arg-type]

    def info(self, call: Call, sql: str) -> tuple[pa.Schema, bytes]:
        """Plan a statement; return its result schema and the ticket of its result."""
        self._cuts(call.snapshot)
        plan = self._engine.plan(sql)
        planned = Planned(sql, call.snapshot, plan, self._clock.monotonic())
        handle = self._planned.add(call.session.user, planned)
        return plan.schema, TicketStatementQuery(handle).serialize()

    def _cuts(self, pin: str | None) -> Mapping[str, int] | None:
        """Return the last ``seq`` by table that a pin's queries see, None without a pin.

        Raises:
            NotFoundError: there is no such pin, or it has ended.
        """
        return None if pin is None else self._pins.get(pin).cuts

    def schema(self, call: Call, sql: str) -> pa.Schema:
        """Return the result schema of a statement."""
        self._cuts(call.snapshot)
        return self._engine.plan(sql).schema

    def prepare(self, call: Call, sql: str) -> ActionCreatePreparedStatementResult:
        """Keep a statement for running it with parameters."""
        self._cuts(call.snapshot)
        names = self._engine.parameter_names(sql)
        schema = self._guess_schema(sql, names)
        handle = self._prepared.add(call.session.user, Prepared(sql, names, call.snapshot))
        parameters = pa.schema([pa.field(name, pa.null()) for name in names])
        return ActionCreatePreparedStatementResult(
            prepared_statement_handle=handle,
            dataset_schema=schema.serialize().to_pybytes(),
            parameter_schema=parameters.serialize().to_pybytes(),
            is_update=False,
        )

    def _guess_schema(self, sql: str, names: tuple[str, ...]) -> pa.Schema:
        """Return the result schema of a statement without values, exact where no type depends on a parameter."""
        failure: StatementError | None = None
        for guess in _GUESSES if names else (None,):
            try:
                return self._engine.plan(sql, dict.fromkeys(names, guess), guessed=bool(names)).schema
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
        prepared.rows = list(rows_of(batches, prepared.parameters))

    def prepared_info(self, call: Call, handle: bytes) -> tuple[pa.Schema, bytes]:
        """Plan a prepared statement with its bound values; return the result schema and the ticket."""
        prepared = self._prepared.get(call.session.user, handle)
        # the ticket is the statement's own handle: what this call asks for is kept there for the fetch
        prepared.pin = call.snapshot
        self._cuts(prepared.pin)
        plan = self._plan_bound(prepared, _bound_rows(prepared)[0])
        return plan.schema, CommandPreparedStatementQuery(handle).serialize()

    def fetch(self, call: Call, ticket: TicketStatementQuery | Query | CommandPreparedStatementQuery) -> object:
        """Run what a ticket stands for; return its stream."""
        if isinstance(ticket, Query):
            return self._run(call, self._plan_query(ticket), self._cuts(call.snapshot))
        if isinstance(ticket, TicketStatementQuery):
            planned = self._planned.get(call.session.user, ticket.statement_handle)
            cuts = self._cuts(_agreed(call, planned.pin))
            plan, planned.plan = planned.plan, None
            if plan is None or self._clock.monotonic() - planned.made > PLAN_FRESH_S:
                plan = self._engine.plan(planned.sql)
            return self._run(call, plan, cuts)
        prepared = self._prepared.get(call.session.user, ticket.prepared_statement_handle)
        cuts = self._cuts(_agreed(call, prepared.pin))
        rows = _bound_rows(prepared)
        first = self._plan_bound(prepared, rows[0])
        return self._run(call, first, cuts) if len(rows) == 1 else self._run_many(call, prepared, rows, first, cuts)

    def _plan_query(self, ticket: Query) -> Plan:
        if not ticket.params:
            return self._engine.plan(ticket.sql)
        names = self._engine.parameter_names(ticket.sql)
        rows = list(rows_of(read_batches(ticket.params), names))
        if len(rows) != 1:
            raise StatementError(f"{len(rows)} rows of parameters were given, one is wanted.", hint="Send one row.")
        return self._engine.plan(ticket.sql, _bound(names, rows[0]))

    def _plan_bound(self, prepared: Prepared, row: tuple[object, ...]) -> Plan:
        return self._engine.plan(prepared.sql, _bound(prepared.parameters, row))

    def _run(self, call: Call, plan: Plan, cuts: Mapping[str, int] | None) -> flight.FlightDataStream:
        execution = self._engine.execute(plan, cuts=cuts, started=call.watch)
        call.hold(execution.close)
        return stream(execution, self._settings.batch_bytes)

    def _run_many(
        self,
        call: Call,
        prepared: Prepared,
        rows: Sequence[tuple[object, ...]],
        first: Plan,
        cuts: Mapping[str, int] | None,
    ) -> flight.FlightDataStream:
        """Run the statement for one row after the other, as one result in the first one's schema."""
        schema, limit = first.schema, self._settings.batch_bytes

        def batches() -> Iterator[pa.RecordBatch]:
            for number, row in enumerate(rows):
                plan = self._plan_bound(prepared, row) if number else first
                with self._engine.execute(plan, cuts=cuts, started=call.watch) as execution:
                    for batch in execution.batches():
                        yield from cut_by_bytes(_in_schema(batch, schema), limit)

        return generated(schema, batches())


def _agreed(call: Call, kept: str | None) -> str | None:
    """Return the pin that a ticket was given under; a fetch need not name it, and may not name another.

    Raises:
        InputError: the fetch names another one.
    """
    if call.snapshot is not None and call.snapshot != kept:
        raise InputError(
            f"the result was asked for {f'under snapshot {kept}' if kept else 'without a snapshot'}, and is fetched "
            f"under {call.snapshot[:100]!r}.",
            hint=f"Send the same {SNAPSHOT_HEADER} with GetFlightInfo and DoGet.",
        )
    return kept


def _bound_rows(prepared: Prepared) -> Sequence[tuple[object, ...]]:
    if not prepared.parameters:
        return [()]
    if not prepared.rows:
        raise StatementError(
            f"no values are bound to {', '.join('$' + n for n in prepared.parameters)}.", hint="Bind a row first."
        )
    return prepared.rows


def _in_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    try:
        return batch.cast(schema)
    except (pa.ArrowException, ValueError):
        raise StatementError(
            "the rows of values give results of different types.", hint="Cast the parameters, such as ?::DOUBLE."
        ) from None


def _bound(names: tuple[str, ...], row: tuple[object, ...]) -> dict[str, object]:
    return dict(zip(names, row, strict=True))
