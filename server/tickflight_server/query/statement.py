"""What a SQL text is, before it may touch anything: one reading statement, and which tables and functions it names.

The rule of this file: only what is known to be harmless passes. DuckDB itself parses the text (``json_serialize_sql``),
so that this reading and the engine's are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb

from tickflight_server.errors import StatementError, TooLargeError, UnsupportedError
from tickflight_server.query.allowed import Found, is_rowwise, look, plain_columns, without_limit
from tickflight_server.query.conditions import Where, read_where
from tickflight_server.query.own_functions import OwnCall
from tickflight_server.query.rewriting import check_same, in_callers_words, rewrite
from tickflight_server.query.shape import Shape
from tickflight_server.query.top import Top, read_top
from tickflight_server.query.travel import Travel, no_versions
from tickflight_server.query.trees import CATALOG, walk
from tickflight_server.schemas import STORED, TableSchema

_COMMENTS = r"(?>\s+|--[^\n]*\n|/\*.*?\*/)*+"  # never tried a second way, so that no text takes long
_OPTION = r"(?:ANALYZE|FORMAT\s+\w+)"
_EXPLAIN = re.compile(
    rf"{_COMMENTS}(EXPLAIN(?:\s+ANALYZE\b|\s*\(\s*{_OPTION}(?:\s*,\s*{_OPTION})*\s*\)|\b))",
    re.IGNORECASE | re.DOTALL,
)
_ANALYZE = re.compile(r"ANALYZE", re.IGNORECASE)
_DESCRIBE_SYSTEM = re.compile(r"\b((?:DESCRIBE|DESC|SUMMARIZE)\s+)(\"?system\"?\s*\.)", re.IGNORECASE)
READING = "SELECT, WITH, VALUES, FROM, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN are taken."


Parameters = Sequence[Any] | Mapping[str, Any]


def view_name(schema: str, name: str) -> str:
    """Return the name of the temporary table that holds what a connection sees of a table."""
    return f"__{schema}_{name}"


class NoQueryError(UnsupportedError):
    """A text that is a statement, and no query."""


@dataclass(frozen=True)
class Reading:
    """A stored table that a statement reads, as it is or ``travel``s to a version, and the view that it has for it."""

    table: TableSchema
    travel: Travel | None = None

    @property
    def view(self) -> str:
        """What the engine reads."""
        return self.travel.view if self.travel else view_name(self.table.schema, self.table.name)

    @property
    def key(self) -> str:
        """Name in the statement: the table's, or the view's where it is a version."""
        return self.travel.view if self.travel else self.table.name

    def upto(self, cuts: Mapping[str, int] | None) -> int | None:
        """Return the last ``seq`` that is seen of the table, None for all; a table that is not in ``cuts`` has none."""
        return None if cuts is None else cuts.get(self.table.name, 0)


@dataclass(frozen=True)
class Statement:
    """A SQL text that may run.

    ``sql`` is the text for the engine: the caller's, but for ``system.x``, which is written ``tickflight.system.x``
    since the engine has a catalog of that name, for references with an AT clause, which are those of ``travels``, and
    for own table functions, which are those of ``owns``. ``tables`` are the other names it refers to, as (schema or
    "", table). ``explain`` says that it is an EXPLAIN; ``probe_sql`` is then the one that runs nothing, without
    ANALYZE. Parameters in ``spent`` are only theirs. ``words`` are what was written anew, with what stood there.
    ``functions`` are those that it calls, ``types`` those that it casts to; ``rowwise``: each row of the result comes
    from one row of one table, and of what may never end there are at most ``limit``. ``columns``, where it is rowwise
    and has no more to it than the choice of columns: what is taken of each row, as in ``plain_columns``. ``where``, if
    it is understood: what it asks of the rows of its one table; ``top``, if that is all of it but for an order and a
    LIMIT: which end of these rows it gives. Without ``asks_now`` nothing in it tells the time.
    ``stored`` are the stored tables that there are to its caller.
    """

    sql: str
    tables: frozenset[tuple[str, str]]
    explain: bool
    probe_sql: str
    travels: tuple[Travel, ...] = ()
    owns: tuple[OwnCall, ...] = ()
    spent: frozenset[str] = frozenset()
    words: tuple[tuple[str, str], ...] = ()
    functions: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    rowwise: bool = False
    columns: tuple[tuple[str, str], ...] | None = None
    limit: int | None = None
    where: Where | None = None
    top: Top | None = None
    asks_now: bool = True
    stored: Mapping[str, TableSchema] = field(default_factory=lambda: STORED, compare=False, repr=False)

    @property
    def streams(self) -> bool:
        """Whether it reads what may never end."""
        return any(call.known.kind == "stream" for call in self.owns)

    def readings(self) -> list[Reading]:
        """Return the stored tables that it may read; a name without a schema is looked up in both."""
        found = set()
        for schema, name in self.tables:
            table = self.stored.get(name)
            if table is not None and schema in ("", table.schema):
                found.add(name)
        tables = self.stored
        return [Reading(tables[n]) for n in sorted(found)] + [Reading(tables[t.table], t) for t in self.travels]

    def left(self, parameters: Parameters) -> Parameters:
        """Return the parameters that the engine's text still has."""
        if not self.spent:
            return parameters
        named = parameters if isinstance(parameters, Mapping) else {str(i): v for i, v in enumerate(parameters, 1)}
        return {name: value for name, value in named.items() if name.lower() not in self.spent}

    def in_callers_words(self, text: str) -> str:
        """Return an error's ``text`` with the caller's references in it, where it quotes what was written for them."""
        return in_callers_words(text, self.words)


class StatementReader:
    """Reads SQL texts with an engine connection of its own; not for use by two threads at once."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        sql_bytes_max: int,
        aggregates: Collection[str] = (),
        stored: Mapping[str, TableSchema] = STORED,
        shape: Shape = Shape(),  # noqa: B008 - it never changes
    ) -> None:
        self._connection = connection
        self._shape = shape
        self.stored = stored
        """The stored tables that there are."""
        self._sql_bytes_max = sql_bytes_max
        self._aggregates = aggregates
        self.macros: Collection[str] = ()
        """The users' own table functions."""

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def read(self, sql: str) -> Statement:
        """Return what ``sql`` is.

        Raises:
            TooLargeError: the text is longer than ``query.sql_bytes_max``, or deeper than ``query.nesting_max``.
            StatementError: it does not parse, or is not exactly one statement.
            UnsupportedError: it is something else than a query, or names a function that is not offered.
        """
        self._check_size(sql)
        explain = _EXPLAIN.match(sql)
        text = sql[explain.end() :] if explain else sql
        tree = self.parse(text, sql)
        found = look(tree, self.macros)
        for _, travel in found.versions:
            if travel.table not in self.stored:
                raise no_versions(travel.table)
        rowwise = explain is None and is_rowwise(tree, found.functions, self._aggregates)
        taken = plain_columns(tree) if rowwise else None
        where = None if explain or found.versions or found.owns else read_where(tree, taken, self.stored)
        statement = Statement(
            text,
            frozenset(found.tables),
            explain=False,
            probe_sql=text,
            functions=frozenset(found.functions),
            types=frozenset(found.types),
            rowwise=rowwise,
            columns=None if tree.get("node", {}).get("where_clause") else taken,
            where=where,
            top=self._top(tree, found) if where is not None and where.exact else None,
            stored=self.stored,
        )
        if found.versions or found.owns:
            text, tree, found, statement = self._rewrite(text, tree, found, statement)
        text = self.qualify(text, found.system)
        if any(node.get("type") == "SHOW_REF" for node in walk(tree)):
            # the parser gives no place for what DESCRIBE and SUMMARIZE name
            text = _DESCRIBE_SYSTEM.sub(rf"\1{CATALOG}.\2", text)
        if explain is None:
            return replace(statement, sql=text, probe_sql=text)
        # what was in front is left out but for its lines: the engine gets the very text that was looked through
        lines = "\n" * sql[: explain.start(1)].count("\n")
        without = "" if _ANALYZE.search(explain[1]) else explain[1][len("EXPLAIN") :]
        whole, probe_sql = f"{lines}{explain[1]}{text}", f"{lines}EXPLAIN{without}{text}"
        return replace(statement, sql=whole, explain=True, probe_sql=probe_sql)

    def _top(self, tree: dict[str, Any], found: Found) -> Top | None:
        node = tree["node"]
        plain = {**tree, "node": {**node, "modifiers": []}}
        taken = plain_columns(plain) if is_rowwise(plain, found.functions, self._aggregates) else None
        return None if taken is None else read_top(node, taken)

    def _rewrite(self, text: str, tree: Any, found: Found, statement: Statement) -> tuple[str, Any, Found, Statement]:
        """Put views in the place of references of ours; what is then there is looked through again."""
        rewritten = rewrite(text, tree, [*found.versions, *found.owns])
        after = self.parse(rewritten.sql, rewritten.sql)
        travels, owns = rewritten.travels, rewritten.owns
        check_same(tree, after, [*(t.view for t in travels), *(call.view for call in owns)])
        seen = look(after, self.macros)
        statement = replace(statement, travels=travels, owns=owns, spent=rewritten.spent, words=rewritten.words)
        if statement.streams:
            limit, plain = without_limit(after)
            rowwise = is_rowwise(plain, seen.functions, self._aggregates)
            statement = replace(statement, rowwise=rowwise, limit=limit)
        return rewritten.sql, after, seen, statement

    def parameter_names(self, sql: str) -> tuple[str, ...]:
        """Return the names of the statement's parameters: numbers by value, names as they first appear.

        Raises:
            TooLargeError: the text is too long.
            StatementError: it does not parse.
        """
        self._check_size(sql)
        try:
            statements = duckdb.extract_statements(sql)
        except duckdb.Error as error:
            raise StatementError(str(error).strip()) from None
        names = {name for statement in statements for name in statement.named_parameters}
        if all(name.isdigit() for name in names):
            return tuple(sorted(names, key=int))
        explain = _EXPLAIN.match(sql)
        places: dict[str, int] = {}
        for node in walk(self.parse(sql[explain.end() :] if explain else sql, sql)):
            if node.get("class") == "PARAMETER":
                name, place = node["identifier"].lower(), node["query_location"]
                places[name] = min(place, places.get(name, place))
        return tuple(sorted(names, key=lambda name: (places.get(name.lower(), 0), name)))

    def _check_size(self, sql: str) -> None:
        try:
            size = len(sql.encode())
        except UnicodeEncodeError:
            raise StatementError("the SQL text is not valid Unicode.") from None
        if size > self._sql_bytes_max:
            raise TooLargeError(
                f"the SQL text has {size} bytes, query.sql_bytes_max is {self._sql_bytes_max}.",
                hint="Bind long lists as parameters, or join with VALUES.",
            )
        self._shape.check(sql)

    def parse(self, text: str, whole: str) -> Any:
        """Return the engine's tree of ``text``, a part of or all of the caller's ``whole``.

        Raises:
            NoQueryError: it is a statement of another kind.
            StatementError: it does not parse, or is not one statement.
        """
        try:
            row = self._connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchone()
        except duckdb.Error as error:
            raise StatementError(str(error).strip()) from None
        assert row is not None
        try:
            answer = json.loads(row[0])
        except RecursionError:
            raise StatementError("the SQL text is nested too deeply.", hint="Use WITH, or fewer brackets.") from None
        if not answer["error"]:
            statements = answer["statements"]
            if len(statements) != 1:
                what = "is empty" if not statements else f"holds {len(statements)} statements"
                raise StatementError(f"the SQL text {what}.", hint="Send one statement at a time.")
            return statements[0]
        if answer["error_type"] == "parser":
            self._raise_place(whole)
        if self._kind(text) == "MULTI":
            raise UnsupportedError("PIVOT without a list of values is not offered.", hint="Write ON column IN (…).")
        raise NoQueryError("the statement is no query.", hint=READING)

    def _raise_place(self, sql: str) -> None:
        """Let the engine say what is wrong with ``sql``, with its marker under the place."""
        try:
            duckdb.extract_statements(sql)
        except duckdb.Error as error:
            raise StatementError(str(error).strip()) from None
        raise StatementError("the SQL text cannot be read.")

    def _kind(self, sql: str) -> str:
        try:
            statements = duckdb.extract_statements(sql)
            return statements[0].type.name if len(statements) == 1 else ""
        except duckdb.Error as error:
            raise StatementError(str(error).strip()) from None
        except ValueError:  # a kind that the Python package has no name for
            return ""

    @staticmethod
    def qualify(sql: str, places: list[int]) -> str:
        """Return ``sql`` with the catalog's name before every reference to schema ``system`` at byte ``places``."""
        text = sql.encode()
        for place in sorted(places, reverse=True):
            if place < len(text):
                text = text[:place] + f"{CATALOG}.".encode() + text[place:]
        return text.decode()
