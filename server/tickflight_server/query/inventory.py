"""What the installed engine offers to SQL, and how each of it is classified: may users name it, and why not.

The rule of this file: whatever the engine lists is in ``classified.txt`` under one verdict, which a person chose; what
is not in it is refused. ``python -m tickflight_server.query.inventory FILE`` writes the list anew for the installed
engine: verdicts stay, what is gone goes, what is new comes under ``unclassified`` for somebody to look at.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

FILE = Path(__file__).with_name("classified.txt")
UNCLASSIFIED = "unclassified"
VERDICTS: Mapping[str, str] = {
    # users may
    "pure": "makes its value of its arguments",
    "reads": "reads what its caller may see",
    "heavy": "makes much of little; memory and time limits end it",
    "catalog": "tells of the tables, types and functions that its caller's engine has",
    "writes": "changes the workspace",
    "session": "is the session's own",
    # users may not
    "instead": "is offered in another way",
    "files": "reads or writes files",
    "extensions": "brings code or connects to other systems",
    "settings": "tells or changes the engine's settings and variables",
    "others": "tells of other users' work, or changes it",
    "time": "holds a thread",
    "text": "runs or binds a text, or names a table by one",
    "inside": "is the engine's own: statistics, memory, raw states",
}
ALLOWED = frozenset({"pure", "reads", "heavy", "catalog", "writes", "session"})
_LISTS: Mapping[str, str] = {
    "setting": "SELECT unnest(list_append(aliases, name)) FROM duckdb_settings()",
    "type": "SELECT type_name FROM duckdb_types() WHERE database_name = 'system'",
    "view": "SELECT view_name FROM duckdb_views() WHERE database_name = 'system'",
    "collation": "SELECT collname FROM pragma_collations()",
    "extension": "SELECT extension_name FROM duckdb_extensions() WHERE loaded",
}
CALLED = ("scalar", "aggregate", "window", "macro")
"""Kinds of functions that stand in an expression."""
CALLED_FROM = ("table", "table_macro")
"""Kinds of functions that stand after FROM."""


@dataclass(frozen=True)
class Classes:
    """The verdict on each name, by kind; names as the engine writes them, those of functions in lower case."""

    verdicts: Mapping[tuple[str, str], str]

    def names(self, kinds: Iterable[str], verdicts: Iterable[str] = VERDICTS) -> frozenset[str]:
        """Return the names of some kinds that have one of ``verdicts``."""
        kinds, verdicts = frozenset(kinds), frozenset(verdicts)
        return frozenset(n for (kind, n), verdict in self.verdicts.items() if kind in kinds and verdict in verdicts)

    def reason(self, name: str, kinds: Iterable[str]) -> str:
        """Return why ``name`` is refused."""
        found = (self.verdicts.get((kind, name), UNCLASSIFIED) for kind in kinds)
        return next((VERDICTS[verdict] for verdict in found if verdict in VERDICTS), "is not known to be harmless")


@functools.cache
def classes() -> Classes:
    """Return what the package's list says."""
    return parse(FILE.read_text())


def parse(text: str) -> Classes:
    """Return the list that ``text`` is: a line ``[kind: verdict]``, then a name on each line."""
    verdicts: dict[tuple[str, str], str] = {}
    kind = verdict = ""
    for line in text.splitlines():
        if line.startswith("["):
            kind, _, verdict = line.strip("[]").partition(": ")
        elif line and not line.startswith("# "):
            assert (kind, line) not in verdicts, line
            verdicts[kind, line] = verdict
    return Classes(verdicts)


def serialize(found: Classes) -> str:
    """Return the text of a list, sorted."""
    order = [*VERDICTS, UNCLASSIFIED]
    heads = sorted(
        {(kind, verdict) for (kind, _), verdict in found.verdicts.items()}, key=lambda h: (h[0], order.index(h[1]))
    )
    lines = [f"# What DuckDB {duckdb.__version__} offers to SQL, and the verdict on each; see inventory.py"]
    for kind, verdict in heads:
        lines += ["", f"[{kind}: {verdict}]", *sorted(found.names([kind], [verdict]))]
    return "\n".join(lines) + "\n"


@functools.cache
def installed() -> frozenset[tuple[str, str]]:
    """Return kind and name of everything that the installed engine lists."""
    found = {("statement", name) for name in duckdb.StatementType.__members__}
    with duckdb.connect(":memory:") as database:
        functions = database.execute(
            "SELECT DISTINCT function_type, lower(function_name) FROM duckdb_functions() WHERE database_name = 'system'"
        )
        found |= set(functions.fetchall())
        for kind, sql in _LISTS.items():
            found |= {(kind, name) for (name,) in database.execute(sql).fetchall()}
    return frozenset(found)


def renewed(known: Classes) -> Classes:
    """Return the list for the installed engine, with the verdicts of ``known``."""
    return Classes({key: known.verdicts.get(key, UNCLASSIFIED) for key in installed()})


def main(path: Path) -> None:
    """Write the list at ``path`` anew, and say what is to be classified."""
    known = parse(path.read_text()) if path.exists() else Classes({})
    now = renewed(known)
    path.write_text(serialize(now))
    for kind, name in sorted(key for key, verdict in now.verdicts.items() if verdict == UNCLASSIFIED):
        print(f"unclassified: {kind} {name}")
    for kind, name in sorted(known.verdicts.keys() - now.verdicts.keys()):
        print(f"gone: {kind} {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
