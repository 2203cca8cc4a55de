"""What random SQL is made of: tables, constants, and expressions over columns of a kind.

The rule of this file: an expression has one value, in whatever order rows come: sums are of columns of quarters, and
what chooses any row is not in the grammar.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

Kind = Literal["number", "int", "text", "time", "flag", "numbers"]
DEPTH = 3
OPERATORS = ("=", "<>", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class FuzzTable:
    """A table as the statements know it: its kinds by column, and its columns that have no two rows alike."""

    name: str
    columns: Mapping[str, Kind]
    unique: str | None = None
    versions: tuple[str, ...] = ()
    """What the oracle calls the table as of version 0, 1, …"""


@dataclass(frozen=True)
class FuzzSchema:
    """What statements are made of: tables, table functions (a call → its columns), and constants by kind."""

    tables: Sequence[FuzzTable]
    calls: Sequence[tuple[str, Mapping[str, Kind]]]
    constants: Mapping[str, Sequence[Any]]
    hidden: Sequence[tuple[str, str]] = ()
    """Pairs of a table and a column that it has not; of a table that is not there, "" is the column."""
    digits: Sequence[str] = ()
    """Columns of texts that all read as numbers, in the rows that are there."""


@dataclass
class Scope:
    """The columns that an expression may name, by their kind, and an order of rows without ties."""

    columns: list[tuple[str, Kind]]
    order: str | None = None

    def of(self, *kinds: Kind) -> list[str]:
        return [name for name, kind in self.columns if kind in kinds]


@dataclass
class Expressions:
    """Makes expressions over ``schema``."""

    schema: FuzzSchema
    chance: random.Random
    _values: list[Any] = field(default_factory=list)
    _bound: bool = False
    _aliases: int = 0
    _swaps: list[tuple[str, str]] = field(default_factory=list)

    # --- what queries read

    def _from(self, *, joins: bool = True) -> tuple[str, Scope]:
        table = self.chance.choice(self.schema.tables)
        alias = self._alias()
        scope = Scope([(f"{alias}.{name}", kind) for name, kind in table.columns.items()])
        if table.unique:
            scope.order = f"{alias}.{table.unique}"
        shape = self.chance.random()
        if shape < 0.1:
            inner = self._alias()
            condition = self._where(Scope([(f"{inner}.{n}", k) for n, k in table.columns.items()]))
            return f"(SELECT * FROM {self._reference(table, inner)}{condition}) AS {alias}", scope
        if shape < 0.2 and joins and len(self.schema.tables) > 1:
            other, second = self.chance.choice(self.schema.tables), self._alias()
            both = Scope([*scope.columns, *((f"{second}.{n}", k) for n, k in other.columns.items())])
            inner_scope = Scope([(f"{second}.{n}", k) for n, k in other.columns.items()])
            on = self._join_condition(scope, inner_scope)
            return f"{self._reference(table, alias)} JOIN {self._reference(other, second)} ON {on}", both
        return self._reference(table, alias), scope

    def _reference(self, table: FuzzTable, alias: str) -> str:
        if table.versions and self.chance.random() < 0.12:
            version = self.chance.randrange(len(table.versions))
            text = f"{table.name} AS {alias} AT (VERSION => {version})"
            self._swaps.append((text, f"{table.versions[version]} AS {alias}"))
            return text
        return f"{table.name} AS {alias}"

    def _alias(self) -> str:
        self._aliases += 1
        return f"t{self._aliases}"

    def _where(self, scope: Scope) -> str:
        if self.chance.random() < 0.4:
            return ""
        return f" WHERE {self._condition(scope, DEPTH - 1)}"

    # --- expressions

    def _any(self, scope: Scope, depth: int = DEPTH) -> str:
        kinds: list[Kind] = [k for k in ("number", "text", "time", "flag", "int") if scope.of(k)] or ["number"]
        return self._expression(self.chance.choice(kinds), scope, depth)

    def _expression(self, kind: Kind, scope: Scope, depth: int) -> str:
        columns = scope.of(kind)
        if depth <= 1 or self.chance.random() < 0.35:
            return self.chance.choice(columns) if columns and self.chance.random() < 0.85 else self._literal(kind)
        make = {
            "number": self._number,
            "int": self._int,
            "text": self._text,
            "time": self._time,
            "flag": self._condition,
            "numbers": self._number,
        }[kind]
        return make(scope, depth - 1)

    def _number(self, scope: Scope, depth: int) -> str:
        one = self._expression("number", scope, depth)
        shape = self.chance.randrange(9)
        if shape == 0 and scope.of("numbers"):
            lists = self.chance.choice(scope.of("numbers"))
            return self.chance.choice((f"{lists}[1]", f"list_sum({lists})", f"{lists}[-1]", f"list_max({lists})"))
        if shape == 1:
            return self._scalar_subquery("number", scope)
        if shape == 2:
            return f"CASE WHEN {self._condition(scope, depth - 1)} THEN {one} ELSE {self._literal('number')} END"
        if shape == 3 and self.schema.digits:
            texts = [c for c in scope.of("text") if c.partition(".")[2] in self.schema.digits]
            if texts:
                return f"{self.chance.choice(texts)}::{self.chance.choice(('BIGINT', 'DOUBLE', 'HUGEINT'))}"
        two = self._expression("number", scope, depth)
        return self.chance.choice(
            (
                f"({one} + {two})",
                f"({one} - {two})",
                f"({one} * 2)",
                f"({one} / {two})",
                f"round({one}, 1)",
                f"abs({one})",
                f"greatest({one}, {two})",
                f"coalesce({one}, {two})",
                f"nullif({one}, {two})",
                f"({one})::DOUBLE",
            )
        )

    def _int(self, scope: Scope, depth: int) -> str:
        if scope.of("text") and self.chance.random() < 0.4:
            return f"length({self._expression('text', scope, depth)})"
        if scope.of("time") and self.chance.random() < 0.5:
            part = self.chance.choice(("hour", "minute", "dow", "day"))
            return f"extract({part} FROM {self.chance.choice(scope.of('time'))})"
        one = self._expression("int", scope, depth)
        return self.chance.choice((f"({one} + 1)", f"({one} % 7)", f"abs({one})", f"coalesce({one}, 0)"))

    def _text(self, scope: Scope, depth: int) -> str:
        one = self._expression("text", scope, depth)
        if self.chance.random() < 0.15:
            return self._scalar_subquery("text", scope)
        return self.chance.choice(
            (
                f"upper({one})",
                f"lower({one})",
                f"({one} || '-' || {self._expression('text', scope, depth)})",
                f"substr({one}, 2, 4)",
                f"reverse({one})",
                f"coalesce({one}, 'none')",
                f"left({one}, 3)",
                f"regexp_replace({one}, '[A-M]+', '#')",
                f"({self._expression('number', scope, depth)})::VARCHAR",
            )
        )

    def _time(self, scope: Scope, depth: int) -> str:
        one = self._expression("time", scope, depth)
        hours = self.chance.choice((1, 24, 48))
        return self.chance.choice(
            (
                f"({one} + INTERVAL {hours} HOUR)",
                f"({one} - INTERVAL {hours} HOUR)",
                f"date_trunc('{self.chance.choice(('hour', 'day', 'month'))}', {one})",
                f"time_bucket(INTERVAL {hours} HOUR, {one})",
                f"coalesce({one}, {self._literal('time')})",
            )
        )

    def _condition(self, scope: Scope, depth: int) -> str:
        if depth <= 0:
            return self._comparison(scope)
        shape = self.chance.randrange(10)
        if shape == 0:
            return f"NOT ({self._condition(scope, depth - 1)})"
        if shape in (1, 2):
            word = self.chance.choice(("AND", "OR"))
            return f"({self._condition(scope, depth - 1)} {word} {self._condition(scope, depth - 1)})"
        if shape == 3:
            return self._exists(scope)
        if shape == 4:
            kind: Kind = self.chance.choice(("number", "text"))
            one = self._expression(kind, scope, 1)
            source, inner = self._from(joins=False)
            word = self.chance.choice(("IN", "NOT IN"))
            return f"{one} {word} (SELECT {self._expression(kind, inner, 1)} FROM {source})"
        return self._comparison(scope)

    def _comparison(self, scope: Scope) -> str:
        kinds: list[Kind] = [k for k in ("number", "text", "time", "int") if scope.of(k)] or ["number"]
        kind = self.chance.choice(kinds)
        one = self._expression(kind, scope, 2)
        shape = self.chance.randrange(8)
        if shape == 0:
            return f"{one} IS {self.chance.choice(('NULL', 'NOT NULL'))}"
        if shape == 1:
            return f"{one} BETWEEN {self._literal(kind)} AND {self._literal(kind)}"
        if shape == 2:
            return f"{one} IN ({self._literal(kind)}, {self._literal(kind)}, {self._literal(kind)})"
        if shape == 3 and kind == "text":
            return f"{one} {self.chance.choice(('LIKE', 'NOT LIKE', 'ILIKE'))} {self._text_pattern()}"
        other = self._literal(kind) if self.chance.random() < 0.6 else self._expression(kind, scope, 1)
        return f"{one} {self.chance.choice(OPERATORS)} {other}"

    def _text_pattern(self) -> str:
        return self.chance.choice(("'%-USDT'", "'B%'", "'%A%'", "'_R%'", "'%x%'"))

    def _exists(self, scope: Scope) -> str:
        source, inner = self._from(joins=False)
        kinds: list[Kind] = [k for k in ("text", "number", "time", "int") if inner.of(k) and scope.of(k)]
        if not kinds:
            return f"EXISTS (FROM {source})"
        kind = self.chance.choice(kinds)
        on = (
            f"{self.chance.choice(inner.of(kind))} {self.chance.choice(OPERATORS)} {self.chance.choice(scope.of(kind))}"
        )
        return f"{self.chance.choice(('', 'NOT '))}EXISTS (SELECT 1 FROM {source} WHERE {on})"

    def _scalar_subquery(self, kind: Kind, scope: Scope) -> str:
        source, inner = self._from(joins=False)
        if not inner.of(kind):
            return self._literal(kind)
        where = ""
        kinds: list[Kind] = [k for k in ("text", "time") if inner.of(k) and scope.of(k)]
        if kinds and self.chance.random() < 0.6:
            shared = self.chance.choice(kinds)
            where = f" WHERE {self.chance.choice(inner.of(shared))} = {self.chance.choice(scope.of(shared))}"
        function = self.chance.choice(("max", "min"))
        return f"(SELECT {function}({self.chance.choice(inner.of(kind))}) FROM {source}{where})"

    # --- aggregates

    def _aggregate(self, scope: Scope) -> str:
        if self.chance.random() < 0.5:
            return self._aggregate_number(scope)
        column = self._any(scope, 2)
        texts = scope.of("text")
        if texts and self.chance.random() < 0.3:
            text = self.chance.choice(texts)
            return f"string_agg(DISTINCT {text}, ',' ORDER BY {text})"
        flags = f"bool_or({self._comparison(scope)})"
        return self.chance.choice(
            (f"max({column})", f"min({column})", f"count({column})", f"count(DISTINCT {column})", flags)
        )

    def _aggregate_number(self, scope: Scope) -> str:
        columns = scope.of("number", "int")
        if not columns:
            return "count(*)"
        column = self.chance.choice(columns)
        which = f" FILTER (WHERE {self._comparison(scope)})" if self.chance.random() < 0.2 else ""
        # of columns as they are: quarters, whose sums are exact
        name = self.chance.choice(("sum", "avg", "count", "max", "median", "sum"))
        return f"{name}({column}){which}"

    # --- constants

    def _literal(self, kind: Kind) -> str:
        value = self.chance.choice(self.schema.constants["number" if kind == "numbers" else kind])
        if self._bound and kind in ("number", "text", "time") and self.chance.random() < 0.3 and len(self._values) < 8:
            self._values.append(value)
            return f"${len(self._values)}"
        return written(value)


def written(value: Any) -> str:
    """Return a constant in SQL."""
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, timedelta):
        return f"INTERVAL {int(value.total_seconds())} SECOND"
    return str(value)
