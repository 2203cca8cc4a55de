"""Time travel: ``FROM trades AT (VERSION => 3)``, which the engine parses and its views do not know.

The rule of this file: the engine's parser alone says where a reference stands and what it asks for. The reference is
replaced by a view of its own, in as many bytes and lines as it had; then the text is parsed again, and must say the
same as before but for these references, or it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from tickflight_server.errors import StatementError, TooLargeError, UnsupportedError
from tickflight_server.query.values import plain
from tickflight_server.schemas import STORED

CATALOG = "tickflight"
TRAVELS_MAX = 64  # versions in one statement; each is a table version that is read for it
_UNITS = {
    "VERSION": "Write AT (VERSION => 3), or bind the number.",
    "TIMESTAMP": "Write AT (TIMESTAMP => TIMESTAMP '2026-11-22 22:50:00'), or bind the time.",
}
# types that a value may be cast to without becoming another
_CASTS: Mapping[str, frozenset[str]] = {
    "VERSION": frozenset({"BIGINT", "INTEGER", "INT", "INT8", "INT4", "UBIGINT", "UINTEGER"}),
    "TIMESTAMP": frozenset({"TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE", "DATETIME"}),
}
_VERSION_MAX = (1 << 63) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# what a parsed text may differ in once its references are replaced
_PLACES = frozenset({"query_location", "query_location_length", "named_param_map"})


@dataclass(frozen=True)
class Travel:
    """A table as of one version: ``view`` is what the engine reads for it.

    Either ``parameter`` names the bound value that says which version, or ``literal`` is what the text says.
    """

    table: str
    unit: Literal["VERSION", "TIMESTAMP"]
    literal: str | None
    parameter: str | None
    view: str = ""

    def asked(self, parameters: Sequence[Any] | Mapping[str, Any]) -> int:
        """Return the version, or the time in microseconds since 1970 UTC.

        Raises:
            StatementError: the value is missing, or is none.
        """
        value = self.literal if self.parameter is None else _bound(parameters, self.parameter)
        found = _version(value) if self.unit == "VERSION" else _microseconds(value)
        if found is None:
            what = "number of a version" if self.unit == "VERSION" else "time"
            raise StatementError(f"AT ({self.unit} => {str(value)[:100]}) has no {what}.", hint=_UNITS[self.unit])
        return found


@dataclass(frozen=True)
class Rewritten:
    """A text in which every reference with an AT clause is a view's.

    ``spent`` are the names of parameters that stood nowhere else. ``words`` are what was put in place and what stood
    there, for errors in the caller's words.
    """

    sql: str
    travels: tuple[Travel, ...]
    spent: frozenset[str]
    words: tuple[tuple[str, str], ...]


def read_reference(node: Mapping[str, Any], catalog: str) -> Travel:
    """Return what a table reference with an AT clause asks for.

    Raises:
        UnsupportedError: the table has no versions, or the clause is no plain value.
    """
    name, schema = str(node["table_name"]).lower(), str(node.get("schema_name", "")).lower()
    stored = STORED.get(name)
    known = stored is not None and schema in ("", stored.schema)
    if not known or str(node.get("catalog_name", "")).lower() not in ("", catalog):
        full = f"{schema}.{name}" if schema else name
        raise UnsupportedError(
            f"{full} has no versions: it is no stored table.", hint=f"Tables with versions are {', '.join(STORED)}."
        )
    if node.get("sample"):
        raise UnsupportedError(
            f"AT and TABLESAMPLE on one reference to {name} are not offered.",
            hint=f"Sample a subquery: FROM (FROM {name} AT (VERSION => 3)) TABLESAMPLE 10%.",
        )
    unit, value = node["at_clause"]["unit"], node["at_clause"]["expr"]
    while value["class"] == "CAST" and str(value["type_expr"].get("type_name", "")).upper() in _CASTS[unit]:
        value = value["child"]
    if value["class"] == "PARAMETER":
        return Travel(name, unit, None, str(value["identifier"]))
    if value["class"] == "CONSTANT" and value["literal"]["kind"] in ("INTEGER", "STRING"):
        return Travel(name, unit, str(value["literal"]["text"]), None)
    raise UnsupportedError(f"AT ({unit} => …) takes a plain value and no expression here.", hint=_UNITS[unit])


def rewrite(sql: str, tree: Any, references: Sequence[tuple[Mapping[str, Any], Travel]]) -> Rewritten:
    """Return ``sql`` with a view in the place of each of ``references``, which are nodes of its ``tree``.

    ``?`` become ``$1``, ``$2``, … where a value is spent on a version, so that the others keep their numbers.

    Raises:
        TooLargeError: it asks for more than ``TRAVELS_MAX`` versions.
    """
    text = sql.encode()
    views: dict[Travel, str] = {}
    edits: list[tuple[int, int, str]] = []
    for node, travel in sorted(references, key=lambda pair: int(pair[0]["query_location"])):
        view = views.setdefault(travel, f"__at{len(views)}")
        start, length = int(node["query_location"]), int(node["query_location_length"])
        edits.append((start, start + length, _reference(node, view, text[start : start + length].decode())))
    if len(views) > TRAVELS_MAX:
        raise TooLargeError(f"the statement asks for {len(views)} versions, at most {TRAVELS_MAX} are read at once.")
    words = tuple((new, text[start:end].decode()) for start, end, new in edits)
    inside = [(start, end) for start, end, _ in edits]
    markers = {int(n["query_location"]): str(n["identifier"]) for n in walk(tree) if n.get("class") == "PARAMETER"}
    outside = {p: name for p, name in markers.items() if not any(start <= p < end for start, end in inside)}
    spent = frozenset(name.lower() for name in markers.values()) - {name.lower() for name in outside.values()}
    if spent:
        edits += [(p, p + 1, f"${name}") for p, name in outside.items() if text[p : p + 1] == b"?"]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new.encode() + text[end:]
    travels = tuple(Travel(t.table, t.unit, t.literal, t.parameter, view) for t, view in views.items())
    return Rewritten(text.decode(), travels, spent, words)


def _reference(node: Mapping[str, Any], view: str, before: str) -> str:
    """Return the reference to ``view`` under the name that ``node`` has, of the length and lines of ``before``."""
    alias = node.get("alias") or node["table_name"]
    columns = ", ".join(map(quoted, node.get("column_name_alias") or ()))
    text = f"{view} AS {quoted(str(alias))}" + (f"({columns})" if columns else "")
    lines = max(0, before.count("\n") - text.count("\n"))
    return text + " " * (len(before.encode()) - len(text.encode()) - lines) + "\n" * lines


def quoted(*names: str) -> str:
    """Return a name as SQL writes it whatever is in it, or several as a path."""
    return ".".join('"{}"'.format(name.replace('"', '""')) for name in names)


def check_same(before: Any, after: Any, views: Iterable[str]) -> None:
    """Make sure that the tree ``after`` says what ``before`` did, with a view wherever there was an AT clause.

    Raises:
        StatementError: it does not.
    """
    missing = object()
    ours = frozenset(views)
    old, new = _shape(before, frozenset()), _shape(after, ours)
    for one in old:
        if one != next(new, missing):
            break
    else:
        if next(new, missing) is missing:
            return
    raise StatementError("an AT clause cannot be read here.", hint="Put it in a query of its own: WITH t AS (FROM …).")


def _shape(tree: Any, views: frozenset[str]) -> Iterator[Any]:
    """Yield what a tree holds, in order and without places; a reference by AT and one to a view look alike."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if node.get("type") == "BASE_TABLE" and (node.get("at_clause") or node.get("table_name") in views):
                yield "AT", str(node.get("alias") or node["table_name"]), tuple(node.get("column_name_alias") or ())
                continue
            for key in sorted(node.keys() - _PLACES, reverse=True):
                pending += [node[key], key]
        elif isinstance(node, list):
            yield len(node)
            pending += node[::-1]
        else:
            yield node


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON tree, without recursion, so that depth is no matter."""
    pending = [tree]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _bound(parameters: Sequence[Any] | Mapping[str, Any], name: str) -> Any:
    if isinstance(parameters, Mapping):
        for key, value in parameters.items():
            if key.lower() == name.lower():
                return plain(value)
    elif name.isdigit() and int(name) <= len(parameters):
        return plain(parameters[int(name) - 1])
    raise StatementError(f"no value is bound to ${name}.", hint="Bind a row first.")


def _version(value: Any) -> int | None:
    """Return ``value`` as the number of a table version, None if it is none."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= _VERSION_MAX else None


def _microseconds(value: Any) -> int | None:
    """Return a time as microseconds since 1970, None if it is none; without a zone it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
