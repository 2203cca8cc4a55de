"""Plans made without the engine: of statements that were planned before, and of those whose WHERE is understood.

The rule of this file: a plan from here says what the engine would say. What depends on values, on the time or on what
users have made is found anew, or is the engine's to find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from tickflight_server.query.builtins import builtins
from tickflight_server.query.plan import Plan
from tickflight_server.query.probe import Filters
from tickflight_server.query.session import PATH, Options
from tickflight_server.query.statement import Parameters, Statement
from tickflight_server.query.texts import Recent, is_small
from tickflight_server.query.values import TypedValue
from tickflight_server.schemas import STORED

Schemas = Callable[[str, Parameters], pa.Schema | None]
"""Tells the columns of a text's result with these values, None where only a run can tell."""

# functions whose result's type follows from the types of what they are given, whatever the values
_BY_TYPE = frozenset({"+", "-", "*", "/", "//", "%", "||"})


class KnownPlans:
    """Keeps what was found of texts, by the version of what users have made.

    Args:
        version: tells it.
        names: tells whether a statement names anything that users have made, or may have.
    """

    def __init__(self, version: Callable[[], int], names: Callable[[Statement], bool]) -> None:
        self._version = version
        self._names = names
        self._schemas: Recent[pa.Schema] = Recent()
        self._filters: Recent[Mapping[str, Filters | None]] = Recent()
        self._parameters: Recent[pa.Schema] = Recent()

    def find(self, statement: Statement, parameters: Parameters, now_us: int, options: Options) -> Plan | None:
        """Return a statement's plan, None if the engine has to make it."""
        key = _key(statement, parameters, options)
        schema = None if key is None else self._schemas.get(key, self._version())
        if key is None or schema is None:
            return None
        if _understood(statement, options):
            return _planned(statement, parameters, schema, now_us)
        filters = self._filters.get(key, self._version())
        return None if filters is None else Plan(statement, parameters, schema, dict(filters), now_us)

    def guess(self, statement: Statement, options: Options) -> Plan | None:
        """Return a plan for the schema of a statement whose values are still to come, None as in ``find``."""
        key = _key(statement, (), options) if _understood(statement, options) else None
        schema = None if key is None else self._schemas.get(key, self._version())
        return None if schema is None else Plan(statement, (), schema, {}, 0)

    def make(
        self, statement: Statement, parameters: Parameters, now_us: int, options: Options, schemas: Schemas
    ) -> Plan | None:
        """Return the plan of a new text, for which ``schemas`` is asked, None if the engine has to make it."""
        where = statement.where
        # what may fail before there are rows is run by the engine once, which tells
        if where is None or where.taken is None or not _understood(statement, options):
            return None
        version = self._version()
        key = _key(statement, parameters, options)
        schema = None if key is None else schemas(statement.sql, parameters)
        if key is None or schema is None:
            return None
        self._schemas.put(key, version, schema)
        return _planned(statement, parameters, schema, now_us)

    def keep(self, plan: Plan, version: int, options: Options) -> None:
        """Keep what the engine told of a statement, when what users had made was ``version``."""
        statement = plan.statement
        key = _key(statement, plan.parameters, options) if self.is_ours(statement, options) else None
        if key is None:
            return
        if _understood(statement, options):
            self._schemas.put(key, version, plan.schema)
        elif is_small(statement) or (
            not plan.parameters and not statement.asks_now and all(f is not None for f in plan.filters.values())
        ):
            self._schemas.put(key, version, plan.schema)
            self._filters.put(key, version, plan.filters)

    def parameters(self, statement: Statement, options: Options) -> pa.Schema | None:
        """Return the types of a statement's parameters, None if the engine has to tell."""
        key = _key(statement, (), options)
        return None if key is None else self._parameters.get(key, self._version())

    def keep_parameters(self, statement: Statement, schema: pa.Schema, version: int, options: Options) -> None:
        """Keep what the engine told of a statement's parameters; ``version`` as in ``keep``."""
        key = _key(statement, (), options) if self.is_ours(statement, options) else None
        if key is not None:
            self._parameters.put(key, version, schema)

    def is_ours(self, statement: Statement, options: Options) -> bool:
        """Return whether a statement names nothing that users have made, or may have."""
        ours = statement.types <= builtins().types and _of_ours(statement, options)
        return ours and not self._names(statement)

    @property
    def version(self) -> int:
        """The version of what users have made now."""
        return self._version()


def _planned(statement: Statement, parameters: Parameters, schema: pa.Schema, now_us: int) -> Plan | None:
    where = statement.where
    assert where is not None
    try:
        found = where.filters(parameters, now_us)
    except ValueError:
        return None
    (reading,) = statement.readings()
    exact = where.exact and where.taken is not None and found is not None
    filters = Filters([found], where.columns, where.given)
    return Plan(statement, parameters, schema, {reading.key: filters}, now_us, exact=exact)


def _understood(statement: Statement, options: Options) -> bool:
    """Return whether the statement's WHERE is, and its table is the stored one to a session with ``options``."""
    where = statement.where
    return where is not None and (bool(where.schema) or options.schema in PATH) and len(statement.readings()) == 1


def _of_ours(statement: Statement, options: Options) -> bool:
    """Return whether all tables are the server's own to a session with ``options``."""
    for schema, name in statement.tables:
        table = STORED.get(name)
        own = "system" if table is None else table.schema
        if schema != own and (schema or options.schema not in PATH):
            return False
    return True


def _key(statement: Statement, parameters: Parameters, options: Options) -> str | None:
    """Return what a statement's plan is kept by, None if it is not kept."""
    if statement.explain or statement.travels or statement.owns:
        return None
    key = f"{options.schema}\0{options.timezone}\0{statement.sql}"
    if not parameters or _understood(statement, options):
        return key
    if not is_small(statement) or not statement.functions <= _BY_TYPE:
        return None
    given = parameters if isinstance(parameters, Mapping) else dict(enumerate(parameters))
    kinds = [_kind(value) for value in given.values()]
    return None if None in kinds else "\0".join([key, *map(str, given), *map(str, kinds)])


def _kind(value: Any) -> str | None:
    """Return what tells the engine's type of a value, None if that is not known."""
    if isinstance(value, TypedValue):
        return value.sql_type
    if type(value) is int:
        # the engine gives a number the least type that holds it
        return f"{value < 0} {(value if value >= 0 else ~value).bit_length()}"
    return type(value).__name__ if type(value) in (str, float, bool, bytes, datetime) else None
