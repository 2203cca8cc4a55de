"""Reading the filters that DuckDB pushes down, which arrive as pyarrow expressions.

The rule of this file: what is not understood becomes ``Unknown``, which prunes nothing; so a misreading can cost time
and never a row. pyarrow offers no walk over an expression, but its pickled form is an Arrow IPC file whose schema
metadata spells the tree out in order (``call``, its arguments, ``end``; ``field_ref``; ``literal`` and ``options``,
which point to columns of the one batch inside).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Column:
    """A column by name."""

    name: str


@dataclass(frozen=True)
class Literal:
    """A constant: text, a number, a flag, None, or a timestamp in microseconds since 1970."""

    value: Any


@dataclass(frozen=True)
class Unknown:
    """Something that may be true or false."""


@dataclass(frozen=True)
class Compare:
    """``column op value`` with op one of = != < <= > >=."""

    op: str
    column: str
    value: Any


@dataclass(frozen=True)
class In:
    """Whether the column is one of the values."""

    column: str
    values: frozenset[Any]


@dataclass(frozen=True)
class IsNull:
    """Whether the column is null."""

    column: str


@dataclass(frozen=True)
class Not:
    """The opposite."""

    operand: Filter


@dataclass(frozen=True)
class And:
    """Both."""

    left: Filter
    right: Filter


@dataclass(frozen=True)
class Or:
    """Either."""

    left: Filter
    right: Filter


Filter = Unknown | Compare | In | IsNull | Not | And | Or | Literal

_COMPARISONS = {
    "equal": "=",
    "not_equal": "!=",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
}
_LINE = re.compile(r"^(call|end|field_ref|nested_field_ref|literal|options): '(.*)'$")


def conjuncts(node: Filter) -> Iterator[Filter]:
    """Yield conditions all of which ``node`` asks for."""
    if isinstance(node, And):
        yield from conjuncts(node.left)
        yield from conjuncts(node.right)
    else:
        yield node


def columns_of(expression: pc.Expression) -> frozenset[str] | None:
    """Return the columns that a pyarrow expression names, None if that is not known."""
    try:
        tokens, _ = _tokens(expression)
    except (ValueError, IndexError, TypeError, pa.ArrowException):
        return None
    if any(key == "nested_field_ref" for key, _ in tokens):
        return None
    return frozenset(value for key, value in tokens if key == "field_ref")


def _tokens(expression: pc.Expression) -> tuple[list[tuple[str, ...]], pa.RecordBatch]:
    """Return an expression's spelling, and the batch that its constants are in.

    Raises:
        ValueError: it is spelled in another way than is known here.
    """
    (buffer,) = expression.__reduce__()[1]
    with pa.ipc.open_file(buffer) as file:
        batch = file.get_batch(0)
    lines = batch.schema.to_string(truncate_metadata=False).splitlines()
    start = lines.index("-- schema metadata --") + 1
    tokens = [match.groups() for line in lines[start:] if (match := _LINE.match(line))]
    if len(tokens) != len(lines) - start:
        raise ValueError(lines)
    return tokens, batch


def read_expression(expression: pc.Expression) -> Filter:
    """Return the tree of a pyarrow expression."""
    try:
        tokens, batch = _tokens(expression)
        stream = iter(tokens)
        node = _read(next(stream), stream, batch)
    except (ValueError, IndexError, StopIteration, TypeError, RecursionError, pa.ArrowException):
        return Unknown()
    return node if not isinstance(node, Column) else Unknown()


def _read(token: tuple[str, ...], rest: Iterator[tuple[str, ...]], batch: pa.RecordBatch) -> Any:
    """Return the node that ``token`` begins, taking what belongs to it from ``rest``."""
    key, value = token
    if key == "literal":
        return Literal(_constant(batch.column(int(value))[0]))
    if key == "field_ref":
        return Column(value)
    if key == "nested_field_ref":
        for _ in range(int(value)):
            next(rest)
        return Unknown()
    if key != "call":
        raise ValueError(key)
    arguments: list[Any] = []
    options: Any = None
    while (token := next(rest)) != ("end", value):
        if token[0] == "options":
            options = batch.column(int(token[1]))[0]
        else:
            arguments.append(_read(token, rest, batch))
    return _call(value, arguments, options)


def _constant(scalar: pa.Scalar) -> Any:
    if not scalar.is_valid:
        return None
    if pa.types.is_timestamp(scalar.type):
        return scalar.cast(pa.timestamp("us")).value if scalar.type.tz is None else Unknown()
    value = scalar.as_py()
    return value if isinstance(value, str | int | float | bool) else Unknown()


def _call(name: str, arguments: list[Any], options: Any) -> Any:
    match name, arguments:
        case "and_kleene" | "and", [left, right]:
            return And(_truth(left), _truth(right))
        case "or_kleene" | "or", [left, right]:
            return Or(_truth(left), _truth(right))
        case "invert", [operand]:
            return Not(_truth(operand))
        case "is_valid", [Column(column)]:
            return Not(IsNull(column))
        case "is_null", [Column(column)]:
            return IsNull(column)
        case "if_else", [condition, yes, Literal(None)]:
            # DuckDB's form of an IN that stays null for a null row
            return And(_truth(condition), _truth(yes))
        case "is_in", [Column(column)] if options is not None:
            values = [_constant(v) for v in options["value_set"].values]
            known = not any(isinstance(v, Unknown) for v in values)
            return In(column, frozenset(v for v in values if v is not None)) if known else Unknown()
        case op, [Column(column), Literal(value)] if op in _COMPARISONS and not isinstance(value, Unknown):
            return Compare(_COMPARISONS[op], column, value) if value is not None else Literal(None)
    return Unknown()


def _truth(node: Any) -> Filter:
    return Unknown() if isinstance(node, Column) else node
