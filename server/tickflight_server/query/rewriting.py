"""Views in the place of what the engine's tables do not know: references with an AT clause, and to own functions.

The rule of this file: the engine's parser alone says where a reference stands and what it asks for. The reference is
replaced by a view of its own, in as many bytes and lines as it had where it was long enough; then the text is parsed
again, and must say the same as before but for these references, or it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tickflight_server.errors import StatementError, TooLargeError
from tickflight_server.query.own_functions import OWN_FUNCTIONS, OwnCall
from tickflight_server.query.travel import Travel
from tickflight_server.query.trees import quoted, walk

VIEWS_MAX = 64
"""Views in one statement; each is a table version that is read for it, or a function that makes rows."""

Asked = Travel | OwnCall
# what a parsed text may differ in once its references are replaced
_PLACES = frozenset({"query_location", "query_location_length", "named_param_map"})
# a line of the statement in an error of the engine, and the marker below it
_MARKED = re.compile(r"^(?P<line>LINE \d+: .*)\n(?P<marker> *\^.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Rewritten:
    """A text in which every reference with an AT clause, or to an own function, is a view's.

    ``spent`` are the names of parameters that stood nowhere else. ``words`` are what was put in place and what stood
    there, for errors in the caller's words.
    """

    sql: str
    travels: tuple[Travel, ...]
    owns: tuple[OwnCall, ...]
    spent: frozenset[str]
    words: tuple[tuple[str, str], ...]


def rewrite(sql: str, tree: Any, references: Sequence[tuple[Mapping[str, Any], Asked]]) -> Rewritten:
    """Return ``sql`` with a view in the place of each of ``references``, which are nodes of its ``tree``.

    ``?`` become ``$1``, ``$2``, … where a value is spent on a reference, so that the others keep their numbers.

    Raises:
        TooLargeError: it asks for more than ``VIEWS_MAX`` of them.
    """
    text = sql.encode()
    views: list[Asked] = []
    edits: list[tuple[int, int, str]] = []
    for node, asked in sorted(references, key=lambda pair: int(pair[0]["query_location"])):
        view = _view_of(asked, views)
        start, length = int(node["query_location"]), int(node["query_location_length"])
        edits.append((start, start + length, _reference(node, view, text[start : start + length].decode())))
    if len(views) > VIEWS_MAX:
        raise TooLargeError(
            f"the statement asks for {len(views)} versions and calls, at most {VIEWS_MAX} are read at once."
        )
    words = tuple((new, text[start:end].decode()) for start, end, new in edits)
    inside = [(start, end) for start, end, _ in edits]
    markers = {int(n["query_location"]): str(n["identifier"]) for n in walk(tree) if n.get("class") == "PARAMETER"}
    outside = {p: name for p, name in markers.items() if not any(start <= p < end for start, end in inside)}
    spent = frozenset(name.lower() for name in markers.values()) - {name.lower() for name in outside.values()}
    if spent:
        edits += [(p, p + 1, f"${name}") for p, name in outside.items() if text[p : p + 1] == b"?"]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new.encode() + text[end:]
    travels = tuple(view for view in views if isinstance(view, Travel))
    owns = tuple(view for view in views if isinstance(view, OwnCall))
    return Rewritten(text.decode(), travels, owns, spent, words)


def _view_of(asked: Asked, views: list[Asked]) -> str:
    """Return the view for what a reference asks for, one of ``views`` where one is the same and can be read again."""
    once = isinstance(asked, OwnCall) and OWN_FUNCTIONS[asked.function].kind == "stream"
    for view in () if once else views:
        if replace(view, view="") == asked:
            return view.view
    kind = "__at" if isinstance(asked, Travel) else "__own"
    name = f"{kind}{sum(isinstance(view, type(asked)) for view in views)}"
    views.append(replace(asked, view=name))
    return name


def _reference(node: Mapping[str, Any], view: str, before: str) -> str:
    """Return the reference to ``view`` under the name that ``node`` has, of the length and lines of ``before``.

    It is longer where ``before`` is too short for it.
    """
    columns = ", ".join(map(quoted, node.get("column_name_alias") or ()))
    text = f"{view} AS {quoted(_name(node))}" + (f"({columns})" if columns else "")
    lines = max(0, before.count("\n") - text.count("\n"))
    return text + " " * (len(before.encode()) - len(text.encode()) - lines) + "\n" * lines


def _name(node: Mapping[str, Any]) -> str:
    """Return the name that a reference goes by."""
    name = node.get("alias") or (node["function"]["function_name"] if "function" in node else node["table_name"])
    return str(name)


def in_callers_words(text: str, words: Iterable[tuple[str, str]]) -> str:
    """Return an error's ``text`` with the caller's references in it, its markers where they belong."""
    for ours, theirs in words:
        grown = len(theirs) - len(ours)

        def moved(match: re.Match[str], ours: str = ours, grown: int = grown) -> str:
            line, marker = match["line"], match["marker"]
            place = line.find(ours)
            before = 0 <= place < marker.index("^") and "\n" not in ours
            if not before or grown == 0:
                return match[0]
            return f"{line}\n{' ' * grown}{marker}" if grown > 0 else f"{line}\n{marker[-grown:]}"

        text = _MARKED.sub(moved, text).replace(ours, theirs)
    return text


def check_same(before: Any, after: Any, views: Iterable[str]) -> None:
    """Make sure that the tree ``after`` says what ``before`` did, with a view wherever there was a reference of ours.

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
    raise StatementError(
        "an AT clause, or one of the server's table functions, cannot be read here.",
        hint="Put it in a query of its own: WITH t AS (FROM …).",
    )


def _shape(tree: Any, views: frozenset[str]) -> Iterator[Any]:
    """Yield what a tree holds, in order and without places; a reference of ours and one to a view look alike."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if _is_ours(node, views):
                yield "AT", _name(node), tuple(node.get("column_name_alias") or ())
                continue
            for key in sorted(node.keys() - _PLACES, reverse=True):
                pending += [node[key], key]
        elif isinstance(node, list):
            yield len(node)
            pending += node[::-1]
        else:
            yield node


def _is_ours(node: Mapping[str, Any], views: frozenset[str]) -> bool:
    if node.get("type") == "TABLE_FUNCTION":
        return str(node["function"].get("function_name", "")).lower() in OWN_FUNCTIONS
    return node.get("type") == "BASE_TABLE" and (bool(node.get("at_clause")) or node.get("table_name") in views)
