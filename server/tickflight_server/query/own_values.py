"""The values of an own table function's arguments: the engine makes them, this module says whether they will do.

The rule of this file: each parameter's kind is one function from what the engine gives to what ``Values`` promise, and
an error names the function and the parameter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa

from tickflight_server.errors import StatementError
from tickflight_server.query.binding import parse, unparse
from tickflight_server.query.database import engine_parameters, set_now
from tickflight_server.query.own_functions import OwnCall, Parameter, ValueKind, Values
from tickflight_server.query.values import microseconds

_US = timedelta(microseconds=1)
_DAY_US = 86_400_000_000


def evaluate(
    connection: duckdb.DuckDBPyConnection,
    calls: Sequence[OwnCall],
    parameters: Sequence[Any] | Mapping[str, Any],
    now_us: int,
    *,
    guessed: bool = False,
) -> dict[OwnCall, Values]:
    """Return the values of calls, at a time that ``now()`` is to say; it takes about a millisecond a call.

    With ``guessed`` they are None where bound values are still to say them.

    Raises:
        StatementError: a value is missing or is not one that the parameter takes; the message names both.
        duckdb.InterruptException: it was stopped.
    """
    if calls:
        set_now(connection, now_us)
    return {call: _evaluate(connection, call, parameters, guessed=guessed) for call in calls}


def _evaluate(
    connection: duckdb.DuckDBPyConnection,
    call: OwnCall,
    parameters: Sequence[Any] | Mapping[str, Any],
    *,
    guessed: bool,
) -> Values:
    bound = _by_name(parameters)
    known = [a for a in call.arguments if not (guessed and a.needs)]
    needs = frozenset[str]().union(*(a.needs for a in known))
    for name in needs - bound.keys():
        raise StatementError(f"no value is bound to ${name}.", hint="Bind a row first.")
    given = dict(
        zip([a.name for a in known], _run(connection, call, [a.tree for a in known], bound, needs), strict=True)
    )
    values: dict[str, Any] = {}
    for parameter in call.known.parameters:
        if parameter.name in given:
            values[parameter.name] = _checked(call, parameter, given[parameter.name])
        else:
            values[parameter.name] = None if parameter.required else parameter.default
    return values


def _run(
    connection: duckdb.DuckDBPyConnection,
    call: OwnCall,
    trees: Sequence[str],
    bound: Mapping[str, Any],
    needs: frozenset[str],
) -> list[Any]:
    """Let the engine make the values, as Python has them."""
    if not trees:
        return []
    statement = parse(connection, "SELECT 1")
    statement["statements"][0]["node"]["select_list"] = [json.loads(tree) for tree in trees]
    text = unparse(connection, statement)
    failure = "they cannot be written"
    if text is not None:
        try:
            found = connection.sql(text, params=engine_parameters({name: bound[name] for name in needs}))
            return [column[0].as_py() for column in found.to_arrow_table().columns]
        except duckdb.InterruptException:
            raise
        except (duckdb.Error, pa.ArrowException, ValueError, OverflowError) as error:
            failure = str(error).strip().splitlines()[0]
    raise StatementError(f"the arguments of {call.function}() have no value: {failure}")


def _by_name(parameters: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(parameters, Mapping):
        return {name.lower(): value for name, value in parameters.items()}
    return {str(number): value for number, value in enumerate(parameters, 1)}


def _checked(call: OwnCall, parameter: Parameter, value: Any) -> Any:
    """Return ``value`` as the parameter has it."""
    if value is None:
        if parameter.null or parameter.default is None:
            return None
        raise StatementError(f"{parameter.name} of {call.function}() is NULL.", hint=f"Write {call.known.signature}.")
    read, what = _KINDS[parameter.kind]
    found = read(value)
    if found is None:
        shown = repr(value) if isinstance(value, str) else str(value)
        raise StatementError(
            f"{parameter.name} of {call.function}() is {shown[:100]}, and is to be {what}.",
            hint=f"Write {call.known.signature}.",
        )
    if parameter.kind == "count" and not parameter.least <= found <= parameter.most:
        raise StatementError(
            f"{parameter.name} of {call.function}() is {found}, and is to be {parameter.least} to {parameter.most}."
        )
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        return None
    return tuple(value)


def _interval(value: Any) -> int | None:
    """Return microseconds; a month has none."""
    if isinstance(value, pa.MonthDayNano):
        found = value.days * _DAY_US + value.nanoseconds // 1000 if value.months == 0 else 0
    elif isinstance(value, timedelta):
        found = value // _US
    else:
        return None
    return found if found > 0 else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_KINDS: Mapping[ValueKind, tuple[Callable[[Any], Any], str]] = {
    "text": (_text, "a text"),
    "texts": (_texts, "a text or a list of texts"),
    "time": (microseconds, "a time: TIMESTAMP '2026-11-22 10:00:00'"),
    "interval": (_interval, "an interval above none, without months: INTERVAL 1 SECOND"),
    "count": (_count, "a whole number"),
    "any": (lambda value: value, "anything"),
}
