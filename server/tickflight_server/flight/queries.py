"""Statements over Flight SQL: planned when a client asks for information, run when it fetches.

The rule of this file: a SELECT runs in DoGet and nowhere else, so that a client can cancel it there; planning never
touches data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.actions import ActionCreatePreparedStatementResult
from tickflight.wire.commands import CommandPreparedStatementQuery
from tickflight.wire.tickets import Query, TicketStatementQuery
from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import StatementError
from tickflight_server.flight.auth import Call
from tickflight_server.flight.handles import Handles
from tickflight_server.flight.parameters import read_batches, rows_of
from tickflight_server.flight.streams import cut_by_bytes, stream
from tickflight_server.query.engine import Engine, Plan

PLAN_FRESH_S = 1.0  # a plan older than this when it is fetched is made anew, since now() is part of it


@dataclass
class Prepared:
    """A prepared statement and the rows bound to it last."""

    sql: str
    parameters: tuple[str, ...]
    plan: Plan | None
    rows: list[tuple[object, ...]] = field(default_factory=list)


@dataclass
class Planned:
    """A query that waits to be fetched. ``plan`` is used once, when it is fresh; after that it is made anew."""

    sql: str
    values: tuple[object, ...]
    plan: Plan | None
    made: float


class QueryService:
    """Planning, preparing and running statements for one server."""

    def __init__(self, engine: Engine, settings: QuerySettings, clock: Clock) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        limits = {"most": settings.handles_max, "idle_s": settings.handle_idle_s}
        self._planned: Handles[Planned] = Handles("query result", clock, **limits)  # type: ignore[arg-type]
        self._prepared: Handles[Prepared] = Handles("prepared statement", clock, **limits)  # type: ignore[arg-type]

    def info(self, call: Call, sql: str) -> tuple[pa.Schema, bytes]:
        """Plan a statement; return its result schema and the ticket of its result."""
        plan = self._engine.plan(sql)
        planned = Planned(sql, (), plan, self._clock.monotonic())
        handle = self._planned.add(call.session.user, planned)
        return plan.schema, TicketStatementQuery(handle).serialize()

    def schema(self, sql: str) -> pa.Schema:
        """Return the result schema of a statement."""
        return self._engine.plan(sql).schema

    def prepare(self, call: Call, sql: str) -> ActionCreatePreparedStatementResult:
        """Keep a statement for running it with parameters."""
        names = self._engine.parameter_names(sql)
        # unbound, a parameter is null: the result's types are then a best guess, exact where none depends on one
        plan = self._engine.plan(sql, dict.fromkeys(names) if names else ())
        handle = self._prepared.add(call.session.user, Prepared(sql, names, plan if not names else None))
        parameters = pa.schema([pa.field(name, pa.null()) for name in names])
        return ActionCreatePreparedStatementResult(
            prepared_statement_handle=handle,
            dataset_schema=plan.schema.serialize().to_pybytes(),
            parameter_schema=parameters.serialize().to_pybytes(),
            is_update=False,
        )

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
        return self._plan_prepared(prepared)[0].schema, CommandPreparedStatementQuery(handle).serialize()

    def fetch(self, call: Call, ticket: TicketStatementQuery | Query | CommandPreparedStatementQuery) -> object:
        """Run what a ticket stands for; return its stream."""
        if isinstance(ticket, Query):
            return self._run(call, self._plan_query(ticket))
        if isinstance(ticket, TicketStatementQuery):
            planned = self._planned.get(call.session.user, ticket.statement_handle)
            plan, planned.plan = planned.plan, None
            if plan is None or self._clock.monotonic() - planned.made > PLAN_FRESH_S:
                plan = self._engine.plan(planned.sql)
            return self._run(call, plan)
        prepared = self._prepared.get(call.session.user, ticket.prepared_statement_handle)
        plans = self._plan_prepared(prepared)
        return self._run(call, plans[0]) if len(plans) == 1 else self._run_many(call, plans)

    def _plan_query(self, ticket: Query) -> Plan:
        if not ticket.params:
            return self._engine.plan(ticket.sql)
        names = self._engine.parameter_names(ticket.sql)
        rows = list(rows_of(read_batches(ticket.params), names))
        if len(rows) != 1:
            raise StatementError(f"{len(rows)} rows of parameters were given, one is wanted.", hint="Send one row.")
        return self._engine.plan(ticket.sql, _bound(names, rows[0]))

    def _plan_prepared(self, prepared: Prepared) -> list[Plan]:
        if not prepared.parameters:
            return [self._engine.plan(prepared.sql)]
        if not prepared.rows:
            raise StatementError(
                f"no values are bound to {', '.join('$' + n for n in prepared.parameters)}.", hint="Bind a row first."
            )
        return [self._engine.plan(prepared.sql, _bound(prepared.parameters, row)) for row in prepared.rows]

    def _run(self, call: Call, plan: Plan) -> flight.FlightDataStream:
        execution = self._engine.execute(plan)
        call.hold(execution.close)
        return stream(execution, self._settings.batch_bytes)

    def _run_many(self, call: Call, plans: Sequence[Plan]) -> flight.FlightDataStream:
        """Run one plan after the other, as one result: many rows were bound."""
        schema = plans[0].schema

        def batches() -> Iterator[pa.RecordBatch]:
            for plan in plans:
                with self._engine.execute(replace(plan)) as execution:
                    for batch in execution.reader:
                        yield from cut_by_bytes(batch.cast(schema), self._settings.batch_bytes)

        return flight.GeneratorStream(schema, chain(batches()))


def _bound(names: tuple[str, ...], row: tuple[object, ...]) -> dict[str, object] | tuple[object, ...]:
    return row if all(n.isdigit() for n in names) else dict(zip(names, row, strict=True))
