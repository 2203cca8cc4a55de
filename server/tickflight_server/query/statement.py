"""What a SQL text is, before it may touch anything: one reading statement, and which tables and functions it names.

The rule of this file: only what is known to be harmless passes. DuckDB itself parses the text (``json_serialize_sql``),
so that this reading and the engine's are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb

from tickflight_server.errors import StatementError, TooLargeError, UnsupportedError
from tickflight_server.query import travel
from tickflight_server.query.travel import Travel, walk
from tickflight_server.schemas import STORED, TableSchema

CATALOG = "tickflight"
# Table functions that make rows of nothing or of their arguments, or tell about the catalog; none reads a file.
TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree", "test_all_types"),
        *("duckdb_columns", "duckdb_constraints", "duckdb_databases", "duckdb_functions", "duckdb_indexes"),
        *("duckdb_keywords", "duckdb_schemas", "duckdb_sequences", "duckdb_tables", "duckdb_types", "duckdb_views"),
        *("pragma_table_info", "pragma_version", "sql_auto_complete", "icu_calendar_names", "pg_timezone_names"),
    }
)
# Scalar functions that tell about the machine or the server's settings, bind another text, or hold a thread.
REFUSED_FUNCTIONS = frozenset(
    {
        *("current_setting", "getenv", "getvariable", "write_log", "query", "query_table"),
        *("json_serialize_plan", "sleep_ms", "pg_sleep"),
    }
)
# Views of the engine's own that show its settings, files and log.
REFUSED_TABLES = frozenset({"pg_settings", "pragma_database_list", "duckdb_logs", "pg_prepared_statements"})
# A WITH may also hold INSERT, UPDATE, DELETE and COPY TO, which are nodes of other types.
_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_COMMENTS = r"(?>\s+|--[^\n]*\n|/\*.*?\*/)*+"  # never tried a second way, so that no text takes long
_OPTION = r"(?:ANALYZE|FORMAT\s+\w+)"
_EXPLAIN = re.compile(
    rf"{_COMMENTS}(EXPLAIN(?:\s+ANALYZE\b|\s*\(\s*{_OPTION}(?:\s*,\s*{_OPTION})*\s*\)|\b))",
    re.IGNORECASE | re.DOTALL,
)
_ANALYZE = re.compile(r"ANALYZE", re.IGNORECASE)
_DESCRIBE_SYSTEM = re.compile(r"\b((?:DESCRIBE|DESC|SUMMARIZE)\s+)(\"?system\"?\s*\.)", re.IGNORECASE)
_READING = "SELECT, WITH, VALUES, FROM, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN are taken."


Parameters = Sequence[Any] | Mapping[str, Any]


def view_name(schema: str, name: str) -> str:
    """Return the name of the temporary table that holds what a connection sees of a table."""
    return f"__{schema}_{name}"


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


@dataclass(frozen=True)
class Statement:
    """A SQL text that may run.

    ``sql`` is the text for the engine: the caller's, but for ``system.x``, which is written ``tickflight.system.x``
    since the engine has a catalog of that name, and for references with an AT clause, which are those of ``travels``.
    ``tables`` are the other names it refers to, as (schema or "", table). ``explain`` says that it is an EXPLAIN;
    ``probe_sql`` is then the one that runs nothing, without ANALYZE. Parameters in ``spent`` are only ``travels``'.
    ``words`` are what was written anew, with what stood there.
    """

    sql: str
    tables: frozenset[tuple[str, str]]
    explain: bool
    probe_sql: str
    travels: tuple[Travel, ...] = ()
    spent: frozenset[str] = frozenset()
    words: tuple[tuple[str, str], ...] = ()

    def readings(self) -> list[Reading]:
        """Return the stored tables that it may read; a name without a schema is looked up in both."""
        found = set()
        for schema, name in self.tables:
            table = STORED.get(name)
            if table is not None and schema in ("", table.schema):
                found.add(name)
        return [Reading(STORED[n]) for n in sorted(found)] + [Reading(STORED[t.table], t) for t in self.travels]

    def left(self, parameters: Parameters) -> Parameters:
        """Return the parameters that the engine's text still has."""
        if not self.spent:
            return parameters
        named = parameters if isinstance(parameters, Mapping) else {str(i): v for i, v in enumerate(parameters, 1)}
        return {name: value for name, value in named.items() if name.lower() not in self.spent}

    def in_callers_words(self, text: str) -> str:
        """Return an error's ``text`` with the caller's references in it, where it quotes what was written for them."""
        for ours, theirs in self.words:
            text = text.replace(ours, theirs)
        return text


@dataclass
class _Found:
    """What a walk over a statement's tree came across."""

    tables: set[tuple[str, str]] = field(default_factory=set)
    system: list[int] = field(default_factory=list)
    versions: list[tuple[dict[str, Any], Travel]] = field(default_factory=list)


class StatementReader:
    """Reads SQL texts with an engine connection of its own; not for use by two threads at once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, sql_bytes_max: int) -> None:
        self._connection = connection
        self._sql_bytes_max = sql_bytes_max

    def read(self, sql: str) -> Statement:
        """Return what ``sql`` is.

        Raises:
            TooLargeError: the text is longer than ``query.sql_bytes_max``.
            StatementError: it does not parse, or is not exactly one statement.
            UnsupportedError: it is something else than a query, or names a function that is not offered.
        """
        self._check_size(sql)
        explain = _EXPLAIN.match(sql)
        text = sql[explain.end() :] if explain else sql
        tree = self._parse(text, sql)
        found = _look(tree)
        statement = Statement(text, frozenset(found.tables), explain=False, probe_sql=text)
        if found.versions:
            text, tree, found, statement = self._travel(text, tree, found, statement)
        text = _qualify(text, found.system)
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

    def _travel(self, text: str, tree: Any, found: _Found, statement: Statement) -> tuple[str, Any, _Found, Statement]:
        """Put views in the place of the references with an AT clause; what is then there is looked through again."""
        rewritten = travel.rewrite(text, tree, found.versions)
        after = self._parse(rewritten.sql, rewritten.sql)
        views = [t.view for t in rewritten.travels]
        travel.check_same(tree, after, views)
        seen = _look(after)
        statement = replace(statement, travels=rewritten.travels, spent=rewritten.spent, words=rewritten.words)
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
        for node in walk(self._parse(sql[explain.end() :] if explain else sql, sql)):
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

    def _parse(self, text: str, whole: str) -> Any:
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
        kind = self._kind(text)
        raise UnsupportedError(f"{kind} is not offered here: tables are read-only by SQL.", hint=_READING)

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
        except duckdb.Error as error:
            raise StatementError(str(error).strip()) from None
        if len(statements) != 1:
            return "more than one statement"
        kind = statements[0].type.name
        return "PIVOT without a list of values (ON column IN (…))" if kind == "MULTI" else kind


def _look(tree: Any) -> _Found:
    """Return what a statement refers to.

    Raises:
        UnsupportedError: something in it is not offered.
    """
    found = _Found()
    for node in walk(tree):
        _check(node, found)
    return found


def _qualify(sql: str, places: list[int]) -> str:
    """Return ``sql`` with the catalog's name before every reference to schema ``system`` at byte ``places``."""
    text = sql.encode()
    for place in sorted(places, reverse=True):
        if place < len(text):
            text = text[:place] + f"{CATALOG}.".encode() + text[place:]
    return text.decode()


def _check(node: dict[str, Any], found: _Found) -> None:
    kind = node.get("type")
    if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _QUERY_NODES:
        raise UnsupportedError(f"{kind.split('_')[0]} is not offered here: tables are read-only by SQL.", hint=_READING)
    if kind == "BASE_TABLE":
        name = str(node.get("table_name", ""))
        if name.lower() in REFUSED_TABLES:
            raise UnsupportedError(f"table {name} is not offered here.")
        if re.search(r"[./\\:*?]", name):
            raise UnsupportedError(f"files cannot be read by SQL: {name!r}.", hint="Name a table.")
        schema = str(node.get("schema_name", "")).lower()
        if node.get("at_clause"):
            found.versions.append((node, travel.read_reference(node, CATALOG)))
            return
        found.tables.add((schema, name.lower()))
        if schema == "system" and not node.get("catalog_name"):
            found.system.append(node["query_location"])
    elif kind == "SHOW_REF" and node.get("table_name") and node.get("show_type") != "SHOW_SPECIAL":
        found.tables.add((str(node.get("schema_name", "")).lower(), str(node["table_name"]).strip('"').lower()))
    elif kind == "TABLE_FUNCTION":
        function = str(node["function"].get("function_name", "")).lower()
        if function not in TABLE_FUNCTIONS:
            raise UnsupportedError(f"table function {function}() is not offered here.", hint="Name a table.")
    elif node.get("class") == "FUNCTION" and str(node.get("function_name", "")).lower() in REFUSED_FUNCTIONS:
        raise UnsupportedError(f"function {node['function_name']}() is not offered here.")
