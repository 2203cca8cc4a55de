"""What a SQL text that is no query is: rows or objects of the workspace, a setting, a transaction, or not for users.

The rule of this file: only what is known to be harmless passes. INSERT, UPDATE and DELETE are looked through in the
engine's own tree (as the body of a WITH, which it can print); of CREATE … AS the query is; what is left has no place
for a table or a query, and its words are looked through.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import duckdb

from tickflight_server.errors import PermissionDeniedError, StatementError, UnsupportedError
from tickflight_server.query.allowed import Found, check_file, check_function, check_internal, look
from tickflight_server.query.caps import CAPPED, FORMATS
from tickflight_server.query.own_functions import OwnCall
from tickflight_server.query.statement import Statement, StatementReader
from tickflight_server.query.system import TABLES as SYSTEM_TABLES
from tickflight_server.schemas import STORED

Kind = Literal["rows", "object", "setting", "transaction"]

_INGEST = "Rows come in by ingest: adbc_ingest in mode append, the client's writer, or a feed."
_ROWS = frozenset({"INSERT", "UPDATE", "DELETE"})
_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("INSERT", "UPDATE", "DELETE", "MERGE_INTO"), "rows"),
    **dict.fromkeys(("CREATE", "DROP", "ALTER"), "object"),
    "SET": "setting",
    "TRANSACTION": "transaction",
}
_OBJECTS = frozenset({"TABLE", "VIEW", "MACRO", "FUNCTION", "SCHEMA", "SEQUENCE", "INDEX", "TYPE", "COLUMN"})
# what is never for users, and what to do instead
_INSTEAD: Mapping[str, str] = {
    "COPY": "Fetch rows with a query and write them where you are; bring rows in with ingest.",
    "COPY_DATABASE": "Fetch rows with a query.",
    "EXPORT": "Use `tickflight-server export` on the server's machine, or fetch rows with a query.",
    "ATTACH": "Bring the other database's rows in with ingest into schema workspace.",
    "DETACH": "The server's databases stay attached.",
    "LOAD": "The operator of the server decides on extensions.",
    "UPDATE_EXTENSIONS": "The operator of the server decides on extensions.",
    "VACUUM": "The server looks after its tables; see `tickflight-server vacuum`.",
    "PRAGMA": "Use DESCRIBE, SHOW TABLES, or a table of schema system.",
    "CALL": "Use a query.",
    "PREPARE": "Prepare statements through the driver.",
    "EXECUTE": "Run prepared statements through the driver.",
}
# what a table's name follows
_ENGINES = frozenset({"main", "system", "pg_catalog", "market"})  # schemas in which a function of the engine is found
_NAMED_AFTER = frozenset({"table", "view", "exists", "into", "references"})
_CREATE = re.compile(r"CREATE(?: OR REPLACE)?( TEMP| TEMPORARY)?(?: PERSISTENT)?(?: UNIQUE)? (\w+)", re.IGNORECASE)
_DATA = re.compile(r"\bWITH\s+(NO\s+)?DATA\s*;?\s*\Z", re.IGNORECASE)
_WRAP = "WITH __writing AS (\n"


@dataclass(frozen=True)
class Writing:
    """A statement that is no query.

    ``tables`` are what it may read, as in ``Statement``; ``query`` is the query inside it, which says what it needs of
    them, None if there is none or it cannot be told apart. ``runs`` says whether that query runs now, and is not kept.
    ``temporary``: it makes something that is the session's.
    """

    kind: Kind
    verb: str
    sql: str
    reads: Statement
    query: Statement | None = None
    returning: bool = False
    temporary: bool = False
    runs: bool = True


class WritingReader:
    """Reads SQL texts that are no queries; not for use by two threads at once.

    Args:
        reader: reads the queries in them.
        macros: the users' own table functions.
    """

    def __init__(self, reader: StatementReader, macros: Collection[str] = ()) -> None:
        self._reader = reader
        self._macros = macros

    def read(self, sql: str) -> Writing:
        """Return what ``sql`` is, which the reader of queries took for none.

        Raises:
            StatementError: it does not parse, or is not exactly one statement.
            PermissionDeniedError: it is not for users.
            UnsupportedError: it is not offered.
        """
        verb = self._verb(sql)
        kind = _KINDS.get(verb)
        if verb == "EXPLAIN":
            raise UnsupportedError("EXPLAIN of what writes is not offered.", hint="EXPLAIN its query by itself.")
        if verb == "MULTI":
            raise UnsupportedError(
                "the engine makes several statements of this one, which is not offered.",
                hint="Send them one by one: ADD COLUMN without a DEFAULT, then UPDATE.",
            )
        if kind is None:
            raise PermissionDeniedError(
                f"{verb.replace('_', ' ')} is not for users of this server.",
                hint=_INSTEAD.get(verb, "Queries, and tables in schema workspace, are."),
            )
        if verb in _ROWS:
            return self._rows(sql, verb)
        words = list(_words(sql))
        if kind in ("setting", "transaction"):
            return Writing(kind, verb, sql, _nothing(sql))
        if words[0].lower == "deallocate":
            raise PermissionDeniedError("DEALLOCATE is not for users of this server.", hint=_INSTEAD["PREPARE"])
        _check_words(words)
        if verb == "MERGE_INTO":
            return self._merge(sql, words)
        if verb != "CREATE":
            _refuse_queries(verb, words)
            return Writing(kind, verb, sql, _nothing(sql))
        return self._create(sql, words)

    @staticmethod
    def _verb(sql: str) -> str:
        try:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1:
                raise UnsupportedError("more than one statement is not offered here.", hint="Send one at a time.")
            return str(statements[0].type.name)
        except duckdb.Error as error:
            raise StatementError(str(error).strip()) from None
        except ValueError as error:  # a kind that the Python package has no name for
            raise UnsupportedError("a statement of this kind is not offered here.") from error

    def _rows(self, sql: str, verb: str) -> Writing:
        tree = self._reader.parse(f"{_WRAP}{_without_end(sql)}\n) SELECT 1", sql)
        found = look(tree, self._macros, writing=True)
        if found.versions:
            raise UnsupportedError(f"{verb} with an AT clause is not offered.", hint="Read that version with a query.")
        _refuse_owns(verb, [own for _, own in found.owns])
        for schema, name in found.targets:
            _check_target(schema, name)
        # places in the tree count from the wrapping
        text = self._reader.qualify(sql, [p - len(_WRAP) for p in found.system])
        reads = replace(_reading(text, found, found.tables - found.targets), stored=self._reader.stored)
        query = self._inner(sql, _body_of_insert(sql)) if verb == "INSERT" else None
        return Writing("rows", verb, text, reads, query, found.returning)

    def _create(self, sql: str, words: list[_Word]) -> Writing:
        start = _CREATE.match(" ".join(w.text for w in words[:6]))
        what = start[2].upper() if start else ""
        if what not in _OBJECTS:
            raise PermissionDeniedError(
                f"CREATE {what or '…'} is not for users of this server.", hint=f"Make a {', '.join(sorted(_OBJECTS))}."
            )
        temporary = bool(start and start[1])
        body = next((w.end for w in words if w.depth == 0 and w.lower == "as"), None)
        if body is None or what in ("TYPE", "INDEX", "SEQUENCE", "SCHEMA"):
            _refuse_queries(f"CREATE {what}", words)
            return Writing("object", "CREATE", sql, _nothing(sql), temporary=temporary)
        text = _DATA.sub("", _without_end(sql.encode()[body:].decode()))
        if what in ("MACRO", "FUNCTION"):
            return self._macro(sql, text, temporary)
        query = self._reader.read(text)
        if query.travels:
            raise UnsupportedError("CREATE … AS with an AT clause is not offered.", hint="Ingest the query's result.")
        _refuse_owns("CREATE … AS", query.owns)
        head = sql.encode()[:body].decode()
        tail = sql.encode()[body + len(text.encode()) :].decode()
        runs = what == "TABLE"
        return Writing("object", "CREATE", f"{head}{query.sql}{tail}", query, query, temporary=temporary, runs=runs)

    def _macro(self, sql: str, text: str, temporary: bool) -> Writing:
        """Look through each overload's body: a query after TABLE, else an expression."""
        tables: set[tuple[str, str]] = set()
        for body in re.split(r",\s*\([^()]*\)\s*AS\b", text, flags=re.IGNORECASE):
            table = re.match(r"\s*TABLE\b", body, re.IGNORECASE)
            read = self._reader.read(body[table.end() :] if table else f"SELECT {body}")
            _refuse_owns("CREATE MACRO", read.owns)
            tables |= read.tables
        reads = Statement(sql, frozenset(tables), explain=False, probe_sql=sql, stored=self._reader.stored)
        return Writing("object", "CREATE", sql, reads, temporary=temporary, runs=False)

    def _merge(self, sql: str, words: list[_Word]) -> Writing:
        """Its tables are those whose names are among its words: some of them too many, none too few."""
        if any(w.lower in ("select", "from", "with") for w in words):
            raise UnsupportedError("MERGE with a query in it is not offered.", hint="Put the query into a table first.")
        _refuse_large("MERGE", words)
        source = next((w for before, w in pairwise(words) if before.lower == "using"), None)
        if source is not None and source.called:
            raise PermissionDeniedError(f"MERGE … USING {source.text}() is not offered.", hint="Name a table.")
        named = [w.lower.strip('"') for w in words]
        into = named.index("into")
        target = named[into + 1 : into + 4]
        schema, name = (target[0], target[2]) if target[1:2] == ["."] else ("", target[0])
        _check_target(schema, name)
        tables = frozenset(("", w) for w in named if w in STORED or w in SYSTEM_TABLES)
        returning = "returning" in named
        return Writing(
            "rows",
            "MERGE",
            sql,
            Statement(sql, tables, explain=False, probe_sql=sql, stored=self._reader.stored),
            returning=returning,
        )

    def _inner(self, sql: str, body: tuple[int, int] | None) -> Statement | None:
        if body is None:
            return None
        try:
            return self._reader.read(sql.encode()[body[0] : body[1]].decode())
        except (StatementError, UnsupportedError, UnicodeDecodeError):
            return None  # it was cut at the wrong place: then all of its tables is opened


def first_word(sql: str) -> str:
    """Return the first word of a statement, in lower case, comments left out."""
    return next(_words(sql)).lower


@dataclass(frozen=True)
class _Word:
    """A token with its place in bytes, and how many brackets it stands in; ``called``: a bracket follows."""

    text: str
    start: int
    end: int
    depth: int
    quoted: bool
    called: bool = False

    @property
    def lower(self) -> str:
        return self.text.lower()


def _words(sql: str) -> Iterator[_Word]:
    """Yield the tokens but comments."""
    data = sql.encode()
    tokens = [(place, kind) for place, kind in duckdb.tokenize(sql)]
    ends = [place for place, _ in tokens[1:]] + [len(data)]
    depth = 0
    pending: _Word | None = None
    for (place, kind), end in zip(tokens, ends, strict=True):
        if kind == duckdb.token_type.comment:
            continue
        text = data[place:end].decode(errors="replace").strip()
        if kind != duckdb.token_type.string_const and not text.startswith('"'):
            text = re.split(r"\s|--|/\*", text, maxsplit=1)[0]
        if pending is not None:
            yield _Word(*(pending.text, pending.start, pending.end, pending.depth, pending.quoted, text == "("))
        depth -= text == ")"
        quoted = kind == duckdb.token_type.string_const
        pending = _Word(text, place, place + len(text.encode()), depth, quoted)
        depth += text == "("
    if pending is not None:
        yield pending


def _check_words(words: list[_Word]) -> None:
    """Refuse what is not for users by its name alone, wherever it stands; a table may have a function's name."""
    naming = False
    for before, word in zip([None, *words], words, strict=False):
        last = before.lower if before is not None else ""
        name = word.text.strip('"')
        starts = word.text != "." and (last in _NAMED_AFTER or (last == "on" and words[1].lower in ("index", "unique")))
        naming = starts or (naming and "." in (word.text, last))
        if word.quoted:
            if last in ("from", "join", "using", "into", "table"):
                check_file(word.text.strip("'"))
            continue
        check_internal(name)
        if word.called and not naming:
            check_function(name)


def _refuse_queries(verb: str, words: list[_Word]) -> None:
    if any(w.lower in ("select", "from") and not w.quoted for w in words):
        raise UnsupportedError(f"{verb} with a query in it is not offered.", hint="Make a table of the query first.")
    _refuse_large(verb, words)


def _refuse_large(verb: str, words: list[_Word]) -> None:
    """Refuse what makes much of little where no tree tells its arguments, and a definition could not hold the check."""
    names = [w.lower.strip('"') for w in words]
    for place, word in enumerate(words):
        name = names[place]
        if not word.called or word.quoted or not (name in CAPPED or name in FORMATS):
            continue
        path = names[place - 2] if place > 1 and names[place - 1] == "." else ""
        named = names[place - 1] in _NAMED_AFTER or (place > 1 and names[place - 1] == "." and path not in _ENGINES)
        plain = verb == "MERGE" and name in CAPPED and not path
        if not named and not plain:
            raise PermissionDeniedError(
                f"{verb} with {name}() is not offered here.", hint="Call it in the query whose rows are inserted."
            )


def _refuse_owns(verb: str, owns: Collection[OwnCall]) -> None:
    for own in owns:
        raise UnsupportedError(
            f"{verb} with {own.function}() is not offered.", hint="Use it in a query, and ingest the query's result."
        )


def _check_target(schema: str, name: str) -> None:
    """Refuse to write what is not the users'."""
    if schema in ("market", "system") or (not schema and (name in STORED or name in SYSTEM_TABLES)):
        raise PermissionDeniedError(f"{schema or 'market'}.{name} cannot be written by SQL.", hint=_INGEST)


def _without_end(sql: str) -> str:
    """Return ``sql`` without the semicolon, and what comments follow it."""
    ends = [w for w in _words(sql) if w.text == ";"]
    return sql.encode()[: ends[-1].start].decode() if ends else sql


def _body_of_insert(sql: str) -> tuple[int, int] | None:
    """Return where the query of an INSERT begins and ends, None if that cannot be told."""
    words = [w for w in _words(_without_end(sql)) if w.depth == 0]
    if not words or words[0].lower != "insert":
        return None
    start = next((w for w in words if w.lower in ("select", "with", "from", "values")), None)
    if start is None:
        return None
    ends = [
        a.start
        for a, b in zip(words, [*words[1:], None], strict=True)
        if a.start > start.start
        and (a.lower == "returning" or (a.lower == "on" and b is not None and b.lower == "conflict"))
    ]
    return start.start, ends[0] if ends else len(_without_end(sql).encode())


def _nothing(sql: str) -> Statement:
    return Statement(sql, frozenset(), explain=False, probe_sql=sql)


def _reading(sql: str, found: Found, tables: Collection[tuple[str, str]]) -> Statement:
    return Statement(sql, frozenset(tables), explain=False, probe_sql=sql, functions=frozenset(found.functions))
