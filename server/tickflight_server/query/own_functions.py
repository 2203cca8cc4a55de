"""The server's own table functions, ``FROM book_at('BINANCE', 'BTC-USDT', now())``: what there is, and what is asked.

The rule of this file: a function is a row of ``OWN_FUNCTIONS``, and nothing else says which there are. Arguments are
values: constants, parameters, and what the engine makes of these without a table; their names and number are checked
when the statement is read, what is in them (``own_values``) when it is planned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from tickflight_server.errors import StatementError, UnsupportedError
from tickflight_server.query.trees import CATALOG, walk
from tickflight_server.schemas import STORED, TIMESTAMP, Column, NumericType, TableSchema, stored

Stored = Mapping[str, TableSchema]
Values = Mapping[str, Any]
"""A call's values by parameter; None where one has no default, or its value is not bound yet."""

ValueKind = Literal["text", "texts", "time", "count", "interval", "any"]
REQUIRED: Any = object()
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function.

    ``kind`` says what its value is in ``Values``: ``text`` a str; ``texts`` a tuple of them, one or more; ``time`` and
    ``interval`` an int of microseconds, since 1970 UTC or more than none; ``count`` an int from ``least`` to ``most``;
    ``any`` what the engine gives, as Python has it. ``null`` says that NULL is taken, too.
    """

    name: str
    kind: ValueKind
    default: Any = REQUIRED
    least: int = 1
    most: int = 1_000_000
    null: bool = False

    @property
    def required(self) -> bool:
        """Whether a call has to give it."""
        return self.default is REQUIRED

    def __str__(self) -> str:
        return self.name if self.required else f"{self.name} := {_literal(self.default)}"


@dataclass(frozen=True)
class OwnFunction:
    """A table function. ``schema`` gives its columns for a call's values, of which some may be None then.

    ``kind``: ``rows`` come to an end; a ``stream`` may not, and is read once a reference. ``description`` and
    ``example`` are for ``system.functions``; a test runs the example.
    """

    name: str
    parameters: tuple[Parameter, ...]
    schema: Callable[[Values, NumericType, Stored], pa.Schema]
    kind: Literal["rows", "stream"] = "rows"
    description: str = ""
    example: str = ""

    @property
    def signature(self) -> str:
        """How it is called."""
        return f"{self.name}({', '.join(map(str, self.parameters))})"


@dataclass(frozen=True)
class Argument:
    """What a call gives for a parameter: the engine's tree of it as JSON, and the names of bound values in it.

    ``bound`` is the name of a bound value that is all of it.
    """

    name: str
    tree: str
    needs: frozenset[str] = frozenset()
    bound: str | None = None


@dataclass(frozen=True)
class OwnCall:
    """A reference to an own function; ``view`` is what the engine reads for it."""

    function: str
    arguments: tuple[Argument, ...]
    view: str = ""

    @property
    def known(self) -> OwnFunction:
        """What is called."""
        return OWN_FUNCTIONS[self.function]


def book_at_schema(_: Values, numeric: NumericType, __: Stored = STORED) -> pa.Schema:
    """Return the columns of ``book_at``."""
    number = _number(numeric)
    names = ("bid_price", "bid_size", "ask_price", "ask_size")
    tail = [("timestamp", TIMESTAMP), ("seq", pa.int64()), ("stale", pa.bool_())]
    return pa.schema([("level", pa.int32()), *((name, number) for name in names), *tail])


def books_schema(_: Values, numeric: NumericType, __: Stored = STORED) -> pa.Schema:
    """Return the columns of ``books``."""
    numbers = pa.list_(_number(numeric))
    names = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
    head = [("t", TIMESTAMP), ("timestamp", TIMESTAMP), ("seq", pa.int64()), ("stale", pa.bool_())]
    return pa.schema([*head, *((name, numbers) for name in names)])


def _number(numeric: NumericType) -> pa.DataType:
    return Column("", "number").arrow_type(numeric)


def tail_schema(values: Values, numeric: NumericType, tables: Stored) -> pa.Schema:
    """Return the columns of ``tail``: those of its table, one of ``tables``."""
    if values["table"] is None:
        raise StatementError("tail() has to be told its table when it is prepared.", hint="Write tail('trades').")
    return stored(values["table"], tables).arrow(numeric)


def cancel_query_schema(*_: Any) -> pa.Schema:
    """Return the columns of ``cancel_query``."""
    return pa.schema([("id", pa.string()), ("cancelled", pa.bool_())])


_WHICH = (Parameter("exchange", "text"), Parameter("symbol", "text"))
_DEPTH = Parameter("depth", "count", 10)

OWN_FUNCTIONS: Mapping[str, OwnFunction] = {
    f.name: f
    for f in (
        OwnFunction(
            "book_at",
            (*_WHICH, Parameter("t", "time"), _DEPTH),
            book_at_schema,
            description="The order book at an instant, a row a level, best first.",
            example="FROM book_at('BINANCE', 'BTC-USDT', now() - INTERVAL 1 MINUTE, 5)",
        ),
        OwnFunction(
            "books",
            (*_WHICH, Parameter("start", "time"), Parameter("end", "time"), Parameter("step", "interval"), _DEPTH),
            books_schema,
            description="The order book at each instant of a grid, from start to end, both included; a row an instant.",
            example="FROM books('BINANCE', 'BTC-USDT', now() - INTERVAL 1 MINUTE, now(), INTERVAL 10 SECONDS, 5)",
        ),
        OwnFunction(
            "cancel_query",
            (Parameter("id", "text"),),
            cancel_query_schema,
            description="Ends a statement, by its id in system.queries: one's own, or as an admin anybody's.",
            example="FROM cancel_query('0123456789abcdef')",
        ),
        OwnFunction(
            "tail",
            (
                Parameter("table", "text"),
                Parameter("symbols", "texts", None, null=True),
                Parameter("exchanges", "texts", None, null=True),
                Parameter("since", "time", None, null=True),
                Parameter("after_seq", "count", None, least=0, most=2**63 - 1, null=True),
                Parameter("on_lag", "text", "end"),
            ),
            tail_schema,
            "stream",
            description="A table's rows after a seq or since a time, and then new ones as they come, until cancelled.",
            example="SELECT symbol, price, seq FROM tail('trades', after_seq => 0) WHERE price > 0 LIMIT 10",
        ),
    )
}
"""Every own table function by name."""


def read_call(node: Mapping[str, Any]) -> OwnCall | None:
    """Return what a TABLE_FUNCTION node of the engine's tree asks for, None if it calls no function of the server's.

    Raises:
        StatementError: its arguments are not those of the function.
        UnsupportedError: it is used in a way that is not offered.
    """
    called = node["function"]
    name = str(called.get("function_name", "")).lower()
    function = OWN_FUNCTIONS.get(name)
    if function is None:
        return None
    schema, catalog = str(called.get("schema", "")).lower(), str(called.get("catalog", "")).lower()
    if schema not in ("", "market") or catalog not in ("", CATALOG):
        raise StatementError(f"there is no function {schema}.{name}().", hint=f"Write {function.signature}.")
    if node.get("sample") or node.get("with_ordinality", "WITHOUT_ORDINALITY") != "WITHOUT_ORDINALITY":
        raise UnsupportedError(
            f"TABLESAMPLE and WITH ORDINALITY on {name}() itself are not offered.",
            hint=f"Use them on a subquery: FROM (FROM {name}(…)).",
        )
    return OwnCall(name, _arguments(function, called["arguments"]))


def _arguments(function: OwnFunction, given: list[Mapping[str, Any]]) -> tuple[Argument, ...]:
    parameters = {p.name: p for p in function.parameters}
    found: dict[str, Argument] = {}
    hint = f"Write {function.signature}."
    for place, argument in enumerate(given):
        name = str(argument.get("name") or "").lower()
        if not name:
            if place >= len(function.parameters):
                raise StatementError(
                    f"{function.name}() has {len(given)} arguments, at most {len(parameters)} are taken.", hint=hint
                )
            name = function.parameters[place].name
        if name not in parameters:
            raise StatementError(f"{function.name}() has no parameter {name[:100]}.", hint=hint)
        if name in found:
            raise StatementError(f"{function.name}() is given {name} twice.", hint=hint)
        found[name] = _argument(function, name, argument["expression"])
    missing = [p.name for p in function.parameters if p.required and p.name not in found]
    if missing:
        raise StatementError(f"{function.name}() is not given {' and '.join(missing)}.", hint=hint)
    return tuple(found[p] for p in parameters if p in found)


def _argument(function: OwnFunction, name: str, expression: dict[str, Any]) -> Argument:
    needs = set()
    for node in walk(expression):
        if node.get("class") in ("COLUMN_REF", "SUBQUERY", "STAR"):
            raise UnsupportedError(
                f"{name} of {function.name}() is no value: it names a column or a query.",
                hint="Give a constant or an expression of constants, or bind a value.",
            )
        if node.get("class") == "PARAMETER":
            needs.add(str(node["identifier"]).lower())
    bound = str(expression["identifier"]).lower() if expression.get("class") == "PARAMETER" else None
    tree = json.dumps({**_without_places(expression), "alias": ""}, sort_keys=True)
    return Argument(name, tree, frozenset(needs), bound)


def _without_places(tree: Any) -> Any:
    """Return a tree that is the same wherever it stands in a text."""
    if isinstance(tree, dict):
        return {k: _without_places(v) for k, v in tree.items() if not k.startswith("query_location")}
    return [_without_places(v) for v in tree] if isinstance(tree, list) else tree


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
