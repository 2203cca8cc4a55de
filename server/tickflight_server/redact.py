"""Secrets taken out of texts that are written down or sent: logs, the audit, errors.

The rule of this file: what stands in the place of a secret says nothing of it; a text without one is unchanged.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable

HIDDEN = "***"
KNOWN_MIN = 6  # a shorter secret is a part of too many other words
_SENSITIVE = re.compile(
    r"password|passwd|passphrase|(?<![a-z])(?:pass|pwd|sas)(?![a-z])|secret|token|credential"
    r"|(?:api|access|private|account|master)[_-]?key|key[_-]?id",
    re.IGNORECASE,
)
# nothing here is tried a second way (possessive quantifiers), so that no text takes long
_VALUE = r"(?:'(?:[^']|'')*+'?|\"(?:[^\"\\]|\\.)*+\"?|[^\s,;&)}\]'\"]++)"
_PAIR = re.compile(
    rf"(?<![\w-])((?=[\w-]*?(?:{_SENSITIVE.pattern}))[\w-]++['\"]?\s*+(?:=>|:=|[=:])\s*+)"
    rf"(?!\*\*\*|(?:None|null|true|false)\b){_VALUE}",
    re.IGNORECASE,
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # JSON web tokens and the like
    (re.compile(r"\beyJ[\w-]{5,}+\.[\w-]{5,}+(?:\.[\w-]*+)?"), HIDDEN),
    (re.compile(r"\b(Basic|Bearer)(\s++)[\w.~+/=-]{4,}+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    # user and password in an address
    (re.compile(r"(\b\w++://)[^\s/@'\"]++@"), rf"\1{HIDDEN}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
)
# without any of these there is nothing to look for: most texts are done with here
_MAYBE = re.compile(r"pass|pwd|sas|secret|token|credential|key|basic|bearer|://|eyJ", re.IGNORECASE)
_LITERAL = re.compile(r"'(?:[^']|'')*+'?|(\$\w*+\$).*?(?:\1|\Z)", re.DOTALL)

_lock = threading.Lock()
_known: set[str] = set()
_known_pattern: re.Pattern[str] | None = None


def learn(secrets: Iterable[str]) -> None:
    """Take ``secrets`` out of every text from now on; those under six characters are not looked for."""
    global _known_pattern
    with _lock:
        _known.update(secret for secret in secrets if len(secret) >= KNOWN_MIN)
        if _known:
            # of two that begin alike the longer goes first
            _known_pattern = re.compile("|".join(re.escape(s) for s in sorted(_known, key=len, reverse=True)))


def is_sensitive(name: str) -> bool:
    """Return whether a value of this name is a secret."""
    return _SENSITIVE.search(name) is not None


def hide(text: str) -> str:
    """Return ``text`` without the secrets that are known, and without what looks like one."""
    pattern = _known_pattern
    if pattern is not None:
        text = pattern.sub(HIDDEN, text)
    if _MAYBE.search(text) is None:
        return text
    for each, instead in _PATTERNS:
        text = each.sub(instead, text)
    # name = value, "name": value, and what SQL has in their place
    return _PAIR.sub(rf"\1{HIDDEN}", text)


def speaks_of_secrets(sql: str) -> bool:
    """Return whether a statement names a secret outside of its texts in quotes, or has what looks like one in them."""
    return is_sensitive(_LITERAL.sub("", sql)) or hide(sql) != sql


def hide_in_sql(sql: str) -> str:
    """Return a statement without secrets; all texts in quotes are one if a name beside them speaks of secrets."""
    if _MAYBE.search(sql) is not None and is_sensitive(_LITERAL.sub("", sql)):
        sql = _LITERAL.sub(f"'{HIDDEN}'", sql)
    return hide(sql)


def hide_in_error(error: str, sql: str) -> str:
    """Return what went wrong with a statement; it may quote any part of it, so of one with secrets nothing is told."""
    return HIDDEN if speaks_of_secrets(sql) else hide(error)
