"""How deep and how long a SQL text is, before the engine's parser sees it: some short texts take that for ever.

The rule of this file: it reads strings, names and comments as the engine does, or as less than they are, so that
nothing is hidden in them; it stops at the first limit that is passed, and costs nothing where none can be.

With the engine of version 2.0.0, eight times ``WITH a AS (`` takes nine seconds to be refused, each further one seven
times as long; a thousand open brackets take five.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tickflight_server.errors import TooLargeError

_TOKEN = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*+'?|'(?:[^']|'')*+'?|"(?:[^"]|"")*+"?|--[^\r\n]*|/\*.*?(?:\*/|\Z)"""
    r"""|\$([^\W\d]\w*|)\$.*?(?:\$\1\$|\Z)|\d[\w.]*|[^\W\d][\w$]*|\S""",
    re.DOTALL,
)
_CLAUSES = frozenset({"select", "from", "join", "when", "union", "intersect", "except"})
_OPEN, _CLOSE, _SEPARATORS = "([{", ")]}", ",;"
_HINT = "Bind long lists as parameters, put rows into a table and join it, or send several statements."


@dataclass(frozen=True)
class Shape:
    """What a text may be; see section ``query`` of the configuration."""

    nesting_max: int = 100
    with_nesting_max: int = 4
    clauses_max: int = 2000
    chain_max: int = 10_000

    def check(self, sql: str) -> None:
        """Refuse a text that is deeper or longer than the limits.

        Raises:
            TooLargeError: it is; the message names the limit.
        """
        if self._may_pass(sql):
            self._scan(sql)

    def _may_pass(self, sql: str) -> bool:
        """Return whether any limit may be passed at all; takes a microsecond or two for an ordinary text."""
        lower = sql.lower()
        return (
            sum(map(sql.count, _OPEN)) > self.nesting_max
            or sql.count(".") > self.nesting_max
            or lower.count("with") > self.with_nesting_max
            or len(sql) > min(self.chain_max, self.clauses_max * len("from"))
        )

    def _scan(self, sql: str) -> None:
        chain = clauses = path = withs = 0
        levels = [False]  # of open brackets: whether a WITH stands in it
        after_dot = False
        for match in _TOKEN.finditer(sql):
            text = match[0]
            first = text[0]
            if first in _OPEN and len(text) == 1:
                levels.append(False)
                chain = 0 if first != "[" else chain + 1  # x[1][1]… is a chain, too
                self._check("nesting_max", len(levels) - 1, "brackets within each other")
            elif first in _CLOSE:
                if len(levels) > 1:
                    withs -= levels.pop()
                chain = 0 if first != "]" else chain + 1
            elif first in _SEPARATORS:
                chain = 0
            elif text.startswith(("--", "/*")):
                continue
            else:
                chain += 1
                self._check("chain_max", chain, "words and operators without a comma or bracket")
                word = text.lower() if len(text) <= len("intersect") else ""
                if word == "with" and not levels[-1]:
                    levels[-1] = True
                    withs += 1
                    self._check("with_nesting_max", withs, "WITH within each other")
                elif word in _CLAUSES:
                    clauses += 1
                    self._check("clauses_max", clauses, "SELECT, FROM, JOIN, WHEN and set operations")
                if text == ".":
                    path += 1
                    self._check("nesting_max", path, "names in one path")
                elif not after_dot:
                    path = 0
            after_dot = text == "."

    def _check(self, limit: str, found: int, what: str) -> None:
        most = getattr(self, limit)
        if found > most:
            raise TooLargeError(f"the SQL text has more than {most} {what} (query.{limit}).", hint=_HINT)
