"""What was read of the texts that came last: programs send the same ones again and again.

The rule of this file: a text is read once for as long as what it is read with stays the same; what does not parse, or
is no query, is read again each time.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Generic, TypeVar

from tickflight_server.query.connections import Connections
from tickflight_server.query.statement import NoQueryError, Statement
from tickflight_server.query.workspace import Workspace
from tickflight_server.query.writing import Writing, WritingReader

T = TypeVar("T")
TEXTS_MAX = 1024
TEXT_CHARS_MAX = 8192  # what a longer text asks for takes longer than reading it
CHARS_MAX = 1 << 20  # of all texts that are kept; what is kept of a long list is some twenty times as large
# a text without these words calls nothing that tells the time, if no macro in it does
_CLOCK = re.compile(r"now|time|date|today|local|current|ago", re.IGNORECASE)
# what leaves something on the connection that it ran on
_STATEFUL = frozenset({"setseed"})


class Recent(Generic[T]):
    """Values by text and version; those of the longest unused texts go first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[int, T]] = OrderedDict()
        self._chars = 0

    def get(self, text: str, version: int) -> T | None:
        """Return what is kept for ``text`` in ``version``, None if nothing is."""
        with self._lock:
            kept = self._kept.get(text)
            if kept is None or kept[0] != version:
                return None
            self._kept.move_to_end(text)
            return kept[1]

    def put(self, text: str, version: int, value: T) -> None:
        """Keep ``value``, if the text is not too long."""
        if len(text) > TEXT_CHARS_MAX:
            return
        with self._lock:
            if self._kept.pop(text, None) is None:
                self._chars += len(text)
            self._kept[text] = (version, value)
            while len(self._kept) > TEXTS_MAX or self._chars > CHARS_MAX:
                oldest, _ = self._kept.popitem(last=False)
                self._chars -= len(oldest)


class Texts:
    """Reads texts on connections kept for it, with the views and macros of ``workspace``."""

    def __init__(self, connections: Connections, workspace: Workspace) -> None:
        self._connections = connections
        self._workspace = workspace
        self._statements: Recent[Statement] = Recent()
        self._names: Recent[tuple[str, ...]] = Recent()

    def parameter_names(self, sql: str) -> tuple[str, ...]:
        """Return the names of a statement's parameters; see ``Engine.parameter_names``."""
        names = self._names.get(sql, 0)
        if names is None:
            with self._connections.reader() as reader:
                names = reader.parameter_names(sql)
            self._names.put(sql, 0, names)
        return names

    def read(self, sql: str) -> Statement | Writing:
        """Return what ``sql`` is; see ``Engine.read``."""
        # before it is read: what changes meanwhile makes what is kept of it old
        version = self._workspace.version
        known = self._statements.get(sql, version)
        if known is not None:
            return known
        with self._connections.reader() as reader:
            try:
                statement = reader.read(sql)
            except NoQueryError:
                writing = WritingReader(reader, self._connections.macros).read(sql)
                return replace(writing, reads=self.resolved(writing.reads))
        statement = replace(self.resolved(statement), asks_now=self._asks_now(sql, statement))
        if self._workspace.names(statement):
            statement = replace(statement, where=None)
        self._statements.put(sql, version, statement)
        return statement

    def resolved(self, statement: Statement) -> Statement:
        """Return ``statement`` with the tables that it reads through views and macros, which may make many one."""
        tables = self._workspace.reads(statement)
        return statement if tables == statement.tables else replace(statement, tables=tables, rowwise=False, where=None)

    def _asks_now(self, sql: str, statement: Statement) -> bool:
        """Return whether the statement may tell the time: by a word of its text, a macro, or what users made."""
        expands = not statement.functions.isdisjoint(self._connections.expanding)
        return bool(_CLOCK.search(sql)) or expands or self._workspace.names(statement)


def leaves_nothing(statement: Statement) -> bool:
    """Return whether the connection that ``statement`` ran on was given nothing to see, and keeps nothing of it."""
    return is_small(statement) and statement.functions.isdisjoint(_STATEFUL)


def is_small(statement: Statement) -> bool:
    """Return whether planning ``statement``, or running it up to its first rows, may be taken for a moment's work."""
    return not statement.tables and not statement.travels and not statement.owns
