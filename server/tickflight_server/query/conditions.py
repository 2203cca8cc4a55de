"""What a query's WHERE says of its one table, read from the tree: then no run of the engine has to tell its filters.

The rule of this file: a query that is not understood whole is not read here, the engine is asked; and so is a value
that is not of its column's very type. What was understood is true of every row that the query's WHERE lets through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

from tickflight_server.query.filters import And, Compare, Filter, In
from tickflight_server.query.trees import CATALOG, walk
from tickflight_server.query.values import TypedValue, microseconds
from tickflight_server.schemas import STORED, TableSchema

LABELS = ("exchange", "symbol")
TIMES = ("timestamp", "receipt_timestamp")
_WEIGHED = (*TIMES, "seq", *LABELS)  # none of them is ever null
# what rows are compared with in memory, to the same answer as the engine's
_EXACT: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(LABELS, ("=", "in")),
    **dict.fromkeys((*TIMES, "seq"), ("=", "<", "<=", ">", ">=")),
}
_OPERATORS: Mapping[str, str] = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "!=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_TURNED: Mapping[str, str] = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NOW = frozenset({"now", "get_current_timestamp", "transaction_timestamp", "current_localtimestamp"})
_UNITS_US: Mapping[str, int] = {
    "microsecond": 1,
    "millisecond": 1000,
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
}
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_INSTANT = re.compile(r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?)?")
_INTERVAL = re.compile(r"([0-9]{1,9}) (\w+?)s?")
_OFFSET_MAX_US = 36_525 * 86_400_000_000  # a century from now is an instant to the engine, too
_YEARS = range(1900, 2200)  # the ends of Python's calendar are the engine's infinities
_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"})


@dataclass(frozen=True)
class Since:
    """``now()`` and so many microseconds."""

    offset_us: int


@dataclass(frozen=True)
class Given:
    """The value that is bound to a parameter, by its name in lower case."""

    name: str


Operand = str | int | Since | Given
"""A text, a number or an instant in microseconds since 1970, or what becomes one."""


@dataclass(frozen=True)
class Check:
    """``column op operand``, or with op "in" one of several."""

    column: str
    op: str
    operands: tuple[Operand, ...]


@dataclass(frozen=True)
class Where:
    """What a query says of the rows of ``table``, which is all that it reads, and reads once.

    Each row that it lets through meets all ``tests``; if they are ``exact``, any that does is let through. ``schema``
    is what the statement names before the table, or "". ``columns`` are those that it reads, and ``given`` those that
    it names outside of its WHERE, None for all. ``taken``, if there is no more to it than the choice of columns: what
    is taken of each row, as in ``plain_columns``. The types of its result follow from no parameter's value.
    """

    table: TableSchema
    schema: str
    tests: tuple[Check, ...]
    exact: bool
    columns: frozenset[str] | None
    given: frozenset[str] | None
    taken: tuple[tuple[str, str], ...] | None

    def filters(self, parameters: Sequence[Any] | Mapping[str, Any], now_us: int) -> Filter | None:
        """Return the tests as a filter for these values, None for no tests.

        Raises:
            ValueError: a value is of another type than its column, one is missing, or one is not asked for.
        """
        given = parameters if isinstance(parameters, Mapping) else dict(enumerate(parameters, 1))
        values = {str(name).lower(): value for name, value in given.items()}
        asked = {one.name for test in self.tests for one in test.operands if isinstance(one, Given)}
        if values.keys() != asked:
            raise ValueError(sorted(values.keys() ^ asked))
        # what tells instants apart is weighed first: it leaves out most
        ordered = sorted(self.tests, key=lambda test: _WEIGHED.index(test.column))
        found = [_filter(test, values, now_us) for test in ordered]
        return reduce(And, found) if found else None


def _filter(test: Check, values: Mapping[str, Any], now_us: int) -> Filter:
    known = [_value(test.column, operand, values, now_us) for operand in test.operands]
    return In(test.column, frozenset(known)) if test.op == "in" else Compare(test.op, test.column, known[0])


def _value(column: str, operand: Operand, values: Mapping[str, Any], now_us: int) -> str | int:
    if isinstance(operand, Since):
        return now_us + operand.offset_us
    if not isinstance(operand, Given):
        return operand
    value = values.get(operand.name)
    if column in LABELS and isinstance(value, str):
        return value
    if column in TIMES and type(value) is datetime and value.year in _YEARS:
        since = microseconds(value)
        assert since is not None
        return since
    if column == "seq":
        if isinstance(value, TypedValue) and value.sql_type in _INTEGERS:
            value = value.value
        if type(value) is int and value.bit_length() < 63:
            return value
    raise ValueError(operand.name)


# --- reading a tree


class _UnreadError(Exception):
    """Something is not understood."""


def read_where(
    tree: dict[str, Any], taken: tuple[tuple[str, str], ...] | None, tables: Mapping[str, TableSchema] = STORED
) -> Where | None:
    """Return what a query's tree says of its one table, one of ``tables``; None where the engine is to be asked."""
    node = tree.get("node", {})
    table = node.get("from_table") or {}
    if node.get("type") != "SELECT_NODE" or table.get("type") != "BASE_TABLE" or node["cte_map"]["map"]:
        return None
    # the engine tells more of these than their WHERE does
    if any(table.get(key) for key in ("sample", "at_clause", "column_name_alias")) or any(
        node.get(key) for key in ("having", "qualify", "sample")
    ):
        return None
    stored = tables.get(str(table["table_name"]).lower())
    schema = str(table["schema_name"]).lower()
    if stored is None or schema not in ("", stored.schema) or str(table["catalog_name"]).lower() not in ("", CATALOG):
        return None
    called = (table["alias"] or table["table_name"]).lower()
    parts = list(walk(node))
    if sum(part.get("type") in ("BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY") for part in parts) > 1:
        return None
    columns = _columns(parts, stored, called)
    if columns is not None and not columns:
        return None  # how it counts rows is the engine's
    reader = _Reader(stored, called)
    try:
        if node.get("where_clause"):
            reader.read(node["where_clause"])
    except (_UnreadError, KeyError, TypeError, IndexError):
        return None
    if reader.parameters != sum(part.get("class") == "PARAMETER" for part in parts):
        return None
    given = _columns(list(walk({**node, "where_clause": None})), stored, called)
    return Where(stored, schema, tuple(reader.tests), reader.exact, columns, given, taken)


def _columns(parts: list[dict[str, Any]], table: TableSchema, called: str) -> frozenset[str] | None:
    """Return the columns that are named, None for all."""
    every = {column.name for column in table.columns}
    found = set()
    for part in parts:
        if part.get("class") in ("STAR", "POSITIONAL_REFERENCE"):
            return None
        if part.get("class") == "COLUMN_REF":
            names = [name.lower() for name in part["column_names"]]
            if names[-1] == called and (len(names) > 1 or called not in every):
                return None  # a row as one value
            found.update(every.intersection(names))
    return frozenset(found)


class _Reader:
    """Reads the conditions on ``table``, which the statement calls ``called``."""

    def __init__(self, table: TableSchema, called: str) -> None:
        self._kinds = {column.name: column.kind for column in table.columns}
        self._called = called
        self.tests: list[Check] = []
        self.exact = True
        self.parameters = 0

    def read(self, node: dict[str, Any]) -> None:
        """Take the conditions of ``node``.

        Raises:
            _UnreadError: it is not understood.
        """
        match node:
            case {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "children": children}:
                for child in children:
                    self.read(child)
            case {"class": "COMPARISON", "type": kind, "left": left, "right": right} if kind in _OPERATORS:
                op = _OPERATORS[kind]
                if left.get("class") == "COLUMN_REF":
                    self._compare(op, left, right)
                else:
                    self._compare(_TURNED[op], right, left)
            case {"class": "BETWEEN", "type": "COMPARE_BETWEEN", "input": column, "lower": lower, "upper": upper}:
                self._compare(">=", column, lower)
                self._compare("<=", column, upper)
            case {"class": "OPERATOR", "type": "COMPARE_IN", "children": [column, *operands]}:
                name = self._column(column)
                self._add(name, "in", tuple(self._operand(name, operand) for operand in operands))
            case {"class": "OPERATOR", "type": "OPERATOR_IS_NULL" | "OPERATOR_IS_NOT_NULL", "children": [column]}:
                self._column(column)
                self.exact = False
            case _:
                raise _UnreadError

    def _compare(self, op: str, column: dict[str, Any], operand: dict[str, Any]) -> None:
        name = self._column(column)
        self._add(name, op, (self._operand(name, operand),))

    def _add(self, name: str, op: str, operands: tuple[Operand, ...]) -> None:
        if name in _WEIGHED:
            self.tests.append(Check(name, op, operands))
        # others leave out rows, too, which the engine has to do
        self.exact = self.exact and op in _EXACT.get(name, ())

    def _column(self, node: dict[str, Any]) -> str:
        if node.get("class") != "COLUMN_REF":
            raise _UnreadError
        *relations, name = (str(part).lower() for part in node["column_names"])
        if relations not in ([], [self._called]) or name not in self._kinds:
            raise _UnreadError
        return name

    def _operand(self, column: str, node: dict[str, Any]) -> Operand:
        """Return what ``column`` is compared with, which has its type."""
        kind = self._kinds[column]
        match node:
            case {"class": "PARAMETER", "identifier": name} if column in _WEIGHED:
                self.parameters += 1
                return Given(str(name).lower())
            case {"class": "CONSTANT", "literal": {"kind": "STRING", "text": text}} if kind in ("label", "text"):
                return str(text)
            case {"class": "CONSTANT", "literal": {"kind": "INTEGER", "text": text}} if kind == "int":
                if _INTEGER.fullmatch(text):
                    return int(text)
            case {"class": "CONSTANT", "literal": {"kind": "INTEGER" | "NUMERIC", "text": text}} if kind == "number":
                if _NUMBER.fullmatch(text):
                    return 0  # it is not weighed
        if kind == "time":
            return _instant(node)
        raise _UnreadError


def _instant(node: dict[str, Any]) -> int | Since:
    match node:
        case {"class": "CONSTANT", "literal": {"kind": "STRING", "text": text}}:
            return _told(text)
        case {"class": "CAST", "child": {"class": "CONSTANT", "literal": {"kind": "STRING", "text": text}}}:
            kind = _cast(node)
            if kind == "TIMESTAMP" or (kind == "DATE" and len(text) == len("2000-01-01")):
                return _told(text)
        case {"class": "FUNCTION"}:
            name, arguments = _call(node)
            if name in _NOW and not arguments:
                return Since(0)
            if name in ("+", "-") and len(arguments) == 2 and _instant(arguments[0]) == Since(0):
                offset_us = _interval(arguments[1]) * (1 if name == "+" else -1)
                if abs(offset_us) <= _OFFSET_MAX_US:
                    return Since(offset_us)
    raise _UnreadError


def _told(text: str) -> int:
    since = microseconds(text) if _INSTANT.fullmatch(text) else None
    if since is None:
        raise _UnreadError
    return since


def _cast(node: dict[str, Any]) -> str:
    kind = node["type_expr"]
    if node["try_cast"] or kind["class"] != "TYPE" or kind["children"] or kind["schema"] or kind["catalog"]:
        raise _UnreadError
    return str(kind["type_name"]).upper()


def _call(node: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    if node["schema"] or node["catalog"] or node["filter"] or node["distinct"] or node["order_bys"]["orders"]:
        raise _UnreadError
    return str(node["function_name"]).lower(), [argument["expression"] for argument in node["arguments"]]


def _interval(node: dict[str, Any]) -> int:
    """Return the microseconds of an interval without months."""
    match node:
        case {"class": "CAST", "child": {"class": "CONSTANT", "literal": {"kind": "STRING", "text": text}}}:
            told = _INTERVAL.fullmatch(text)
            if _cast(node) == "INTERVAL" and told and told[2].lower() in _UNITS_US:
                return int(told[1]) * _UNITS_US[told[2].lower()]
        case {"class": "FUNCTION"}:
            name, arguments = _call(node)
            unit = name.removeprefix("to_").removesuffix("s")
            if name == f"to_{unit}s" and unit in _UNITS_US and len(arguments) == 1:
                return _amount(arguments[0]) * _UNITS_US[unit]
    raise _UnreadError


def _amount(node: dict[str, Any]) -> int:
    """Return the integer that the parser wraps where it writes INTERVAL as a call."""
    while node.get("class") != "CONSTANT":
        if node["class"] == "CAST" and _cast(node) in ("DOUBLE", "BIGINT", "INTEGER"):
            node = node["child"]
        elif node["class"] == "FUNCTION" and _call(node)[0] == "trunc":
            (node,) = _call(node)[1]
        else:
            raise _UnreadError
    literal = node["literal"]
    if literal["kind"] not in ("INTEGER", "STRING") or not _INTEGER.fullmatch(literal["text"]):
        raise _UnreadError
    return int(literal["text"])
