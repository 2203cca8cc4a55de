"""Planning a query: its result's columns, and the filters that reach each table.

The rule of this file: the engine is asked only for what is not known without it; either way a plan says the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pyarrow as pa

from tickflight_server.clock import Clock
from tickflight_server.config import QuerySettings
from tickflight_server.errors import CancelledError, ServerError, UnsupportedError
from tickflight_server.query.connections import Connections
from tickflight_server.query.known import KnownPlans
from tickflight_server.query.own_rows import OwnRows, parameter_fields
from tickflight_server.query.own_values import evaluate
from tickflight_server.query.parameter_types import parameter_schema
from tickflight_server.query.plan import Plan
from tickflight_server.query.session import PATH, Options, Seat
from tickflight_server.query.statement import Parameters, Statement
from tickflight_server.query.stopping import Stops
from tickflight_server.query.texts import is_small
from tickflight_server.query.travel import Travel
from tickflight_server.query.turns import Turns
from tickflight_server.query.workspace import Workspace
from tickflight_server.query.writing import Writing
from tickflight_server.store import SeenStore

Started = Callable[[Callable[[], None]], None]
"""Is given what cancels a statement, as soon as there is something to cancel."""


class Planner:
    """Plans queries over ``store``; the other arguments are the engine's, see there."""

    def __init__(
        self,
        store: SeenStore,
        connections: Connections,
        own_rows: OwnRows,
        workspace: Workspace,
        turns: Turns,
        clock: Clock,
        settings: QuerySettings,
        translate: Callable[[BaseException, Statement], ServerError],
    ) -> None:
        self._store = store
        self._connections = connections
        self._own_rows = own_rows
        self._turns = turns
        self._clock = clock
        self._timeout_s = settings.probe_timeout_s
        self._translate = translate
        self._known = KnownPlans(lambda: workspace.version, workspace.names)

    def plan(
        self,
        statement: Statement,
        parameters: Parameters,
        *,
        guessed: bool,
        options: Options,
        seat: Seat | None,
        started: Started | None,
    ) -> Plan:
        """Return the plan of ``statement``; see ``Engine.plan``."""
        if statement.explain:
            self._check_explained(statement)
        now_us = self._clock.now_us()
        known = None if seat is not None else self._known_plan(statement, parameters, now_us, options, guessed=guessed)
        return known or self.search(statement, parameters, now_us, guessed, options, seat, started)

    def is_ours(self, statement: Statement, options: Options) -> bool:
        """Return whether a statement names nothing that users have made, or may have."""
        return options.schema in PATH and self._known.is_ours(statement, options)

    def _check_explained(self, statement: Statement) -> None:
        """Refuse to explain how parts are read whose names and bounds tell of columns that may not be seen.

        Raises:
            UnsupportedError: the statement reads some.
        """
        for reading in statement.readings():
            table = reading.table.name
            if not self._store.tells_places(table):
                raise UnsupportedError(
                    f"EXPLAIN of {table} is not offered to your roles, which show only some of what its parts hold.",
                    hint="Run the query itself.",
                )

    def parameter_schema(
        self, statement: Statement | Writing, names: tuple[str, ...], options: Options, seat: Seat | None
    ) -> pa.Schema:
        """Return a field for each of a statement's parameters; see ``Engine.parameter_schema``."""
        if not names:
            return pa.schema([])
        query = statement if seat is None and isinstance(statement, Statement) else None
        known = None if query is None else self._known.parameters(query, options)
        if known is not None:
            return known
        version = self._known.version
        with self._connections.prober(options, seat) as prober:
            if isinstance(statement, Writing) or not statement.owns:
                schema = parameter_schema(prober.connection, statement.sql, names)
            else:
                owns = evaluate(prober.connection, statement.owns, (), self._clock.now_us(), guessed=True)
                with prober.knowing(self._own_rows.schemas(owns)):
                    schema = parameter_fields(statement, parameter_schema(prober.connection, statement.sql, names))
        if query is not None:
            self._known.keep_parameters(query, schema, version, options)
        return schema

    def _known_plan(
        self, statement: Statement, parameters: Parameters, now_us: int, options: Options, *, guessed: bool
    ) -> Plan | None:
        """Return the plan of a statement if the engine need not search for its filters."""
        if guessed:
            return self._known.guess(statement, options)
        found = self._known.find(statement, parameters, now_us, options)
        if found is not None:
            return found

        def columns(sql: str, values: Parameters) -> pa.Schema | None:
            with self._connections.prober(options, None) as prober, self._turns.one(small=True):
                return prober.columns(sql, values)

        return self._known.make(statement, parameters, now_us, options, columns)

    def search(
        self,
        statement: Statement,
        parameters: Parameters,
        now_us: int,
        guessed: bool,
        options: Options,
        seat: Seat | None,
        started: Started | None,
    ) -> Plan:
        """Return the plan that the engine makes, which tells the filters where it runs on empty tables."""
        asked = [] if guessed else [(travel, travel.asked(parameters)) for travel in statement.travels]
        left = statement.left(parameters)
        version = self._known.version
        try:
            with (
                self._connections.prober(options, seat) as prober,
                prober.stopper() as stopper,
                self._turn(statement, options, stopper, started),
            ):
                calls = evaluate(prober.connection, statement.owns, parameters, now_us, guessed=guessed)
                with prober.knowing(self._own_rows.schemas(calls)):
                    schema, filters = prober.find(statement, left, now_us=now_us, timeout_s=self._timeout_s)
                if stopper.used:
                    raise CancelledError("the query was cancelled.")
        except Exception as error:
            raise self._translate(error, statement) from None
        versions = {travel.view: self._version(travel, value) for travel, value in asked}
        plan = Plan(statement, left, schema, filters, now_us, versions, calls)
        if seat is None:
            self._known.keep(plan, version, options)
        return plan

    def _turn(
        self, statement: Statement, options: Options, stop: Callable[[], None], started: Started | None
    ) -> AbstractContextManager[None]:
        """Return the turn of a search, which ``stop`` ends, and so does what ``started`` is given."""
        stops = Stops(stop)
        if started is not None:
            started(stops)
        return self._turns.one(small=is_small(statement), user=options.caller.user, stops=stops)

    def _version(self, travel: Travel, asked: int) -> int:
        """Return the table version that an AT clause asks for; it is there."""
        version = self._store.version_at(travel.table, asked) if travel.unit == "TIMESTAMP" else asked
        self._store.snapshot_at(travel.table, version)
        return version
