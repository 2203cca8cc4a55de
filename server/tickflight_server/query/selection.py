"""What a client chooses of one stored table: its rows by exchange, symbol and a condition, and its columns.

The rule of this file: a condition is one and nothing else. It is read twice, by itself and in brackets, and only a text
that both times ends the query as a condition passes; so it cannot widen what stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tickflight_server.errors import InputError, StatementError
from tickflight_server.query.engine import Engine
from tickflight_server.query.session import DEFAULTS, Options
from tickflight_server.query.statement import Reading, Statement
from tickflight_server.query.trees import quoted
from tickflight_server.schemas import NumericType, TableSchema, stored

_LINE = re.compile(r"\bLINE (\d+):")
_HINT = "Write a condition on the table's columns, such as price > 50000 AND side = 'buy'."


@dataclass(frozen=True)
class Choice:
    """Rows and columns of ``table`` that were looked through by ``check``; without a filter it is every row."""

    table: TableSchema
    exchanges: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    where: str = ""

    def schema(self, numeric: NumericType) -> pa.Schema:
        """Return the chosen columns in order, in the types of the wire."""
        whole = self.table.arrow(numeric)
        return pa.schema([whole.field(name) for name in self.columns])

    def select(self, items: str, *conditions: str, then: str = "") -> str:
        """Return a query for ``items`` of the chosen rows that meet ``conditions`` too, with ``then`` at its end.

        Its parameters are those of ``parameters`` and what the conditions have.
        """
        parts = list(conditions)
        for column, values in (("exchange", self.exchanges), ("symbol", self.symbols)):
            if values:
                parts.append(f"{column} IN ({', '.join(f'${column}_{i}' for i in range(len(values)))})")
        if self.where:
            parts.append(f"(\n{self.where}\n)")
        rows = f" WHERE {' AND '.join(parts)}" if parts else ""
        return f"SELECT {items} FROM {self.table.schema}.{self.table.name}{rows} {then}".rstrip()

    def parameters(self) -> Mapping[str, str]:
        """Return the values that every query of ``select`` has, by name."""
        found: dict[str, str] = {}
        for column, values in (("exchange", self.exchanges), ("symbol", self.symbols)):
            found |= {f"{column}_{i}": value for i, value in enumerate(values)}
        return found


def check(
    engine: Engine,
    table: str,
    exchanges: Sequence[str] = (),
    symbols: Sequence[str] = (),
    columns: Sequence[str] = (),
    where: str = "",
    *,
    options: Options = DEFAULTS,
) -> Choice:
    """Return what was asked for, looked through; without ``columns`` it is all of them.

    ``where`` calls no macros of the users, which may read other tables.

    Raises:
        NotFoundError: there is no such table.
        InputError: a column is not there, or is named twice.
        StatementError: ``where`` is not a condition on the table's columns; the message has the engine's place marker.
        PermissionDeniedError, UnsupportedError: it names what is not for users.
    """
    schema = stored(table, engine.store.schemas)
    names = tuple(c.name for c in schema.columns)
    for place, name in enumerate(columns):
        if name not in names:
            raise InputError(f"{table[:100]} has no column {name[:100]!r}.", hint=f"It has {', '.join(names)}.")
        if name in columns[:place]:
            raise InputError(f"column {name!r} is named twice.", hint=f"{schema.name} has {', '.join(names)}.")
    for name, values in (("exchange", exchanges), ("symbol", symbols)):
        if values:
            need(schema, (name,))
    choice = Choice(
        schema,
        tuple(dict.fromkeys(exchanges)),
        tuple(dict.fromkeys(symbols)),
        tuple(columns) or names,
        where if where.strip() else "",
    )
    if choice.where:
        _check_condition(engine, choice, options)
    return choice


def need(table: TableSchema, columns: Iterable[str]) -> None:
    """Refuse what cannot be asked of a table without ``columns``, which its caller may not see.

    Raises:
        InputError: one is not there.
    """
    there = [column.name for column in table.columns]
    for name in columns:
        if name not in there:
            raise InputError(f"{table.name} has no column {name!r}.", hint=f"It has {', '.join(there)}.")


def _check_condition(engine: Engine, choice: Choice, options: Options) -> None:
    """Refuse a condition that does not read as one by itself and in brackets, or does not bind."""
    head = f"SELECT {quoted(*choice.columns[:1])} FROM {choice.table.schema}.{choice.table.name} WHERE"
    try:
        for sql in (f"{head}\n{choice.where}", f"{head} (\n{choice.where}\n)"):
            statement = engine.read(sql)
            if engine.parameter_names(sql):
                raise StatementError("where has parameters, and there is nothing to bind to them.", hint=_HINT)
            if not isinstance(statement, Statement) or not _is_plain(statement, choice.table):
                raise StatementError("where is more than a condition on the rows of its table.", hint=_HINT)
        engine.plan(sql, options=options)
    except StatementError as error:
        # the place is told in the caller's lines: ours stands before them
        error.message = _LINE.sub(lambda m: f"LINE {max(1, int(m[1]) - 1)}:", error.message)
        raise


def _is_plain(statement: Statement, table: TableSchema) -> bool:
    return statement.rowwise and len(statement.tables) == 1 and statement.readings() == [Reading(table)]
