"""The Arrow types of a statement's parameters, and of its result, before values are bound.

The rule of this file: the engine's binder decides. What it leaves open is asked again with a probe in the parameter's
place; what stays open is text, which every client can bind and the engine casts. Nothing here runs a statement, and
nothing raises for one that the engine takes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

from tickflight_server.query import parameter_probes as probing
from tickflight_server.query.binding import UNKNOWN, Bound, arrow_schema, bind, parse, unparse
from tickflight_server.query.parameter_probes import Node, Probe
from tickflight_server.query.trees import quoted, walk

UNTOLD = pa.string()
"""The type of a parameter of which nothing is known."""

ATTEMPTS_MAX = 48  # statements bound for one that has parameters the binder leaves open, about 1 ms each
ATTEMPTS_BYTES_MAX = 50_000  # together; a longer statement takes longer to bind
DEPTH_MAX = 200  # steps from a statement's top to a parameter, about 3 a bracket

_COMMENTS = r"(?>\s+|--[^\n]*\n|/\*.*?\*/)*+"
_FRONT = re.compile(
    rf"{_COMMENTS}(?:EXPLAIN\b(?:\s+ANALYZE\b|\s*\([^)]*\))?)?"
    rf"(?:{_COMMENTS}CREATE\b.*?\bAS\s++(?=[(\s]*+(?:SELECT|WITH|FROM|VALUES)\b))?",
    re.IGNORECASE | re.DOTALL,
)
# what a parameter of a time travel is, which the engine's tables know nothing of
_TRAVELS = {"VERSION": "BIGINT", "TIMESTAMP": "TIMESTAMP"}
_INSTANTS = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_SAMPLES: Mapping[str, str] = {
    "TIME": "00:00:00",
    "INTERVAL": "1 day",
    "BOOLEAN": "true",
    "UUID": "00000000-0000-0000-0000-000000000000",
    **dict.fromkeys(_INSTANTS, "2000-01-01"),
    **dict.fromkeys(("VARCHAR", "BLOB"), ""),
}


def parameter_schema(connection: duckdb.DuckDBPyConnection, sql: str, names: Sequence[str]) -> pa.Schema:
    """Return a field for each parameter in the order of ``names``, ``UNTOLD`` where its type cannot be told.

    ``connection`` has the tables that the statement names, with or without rows; nothing is run on it.
    """
    types = parameter_types(connection, sql) if names else {}
    arrow = {kind: _arrow(connection, kind) for kind in {UNKNOWN, *types.values()}}
    return pa.schema([pa.field(name, arrow[types.get(name.lower(), UNKNOWN)]) for name in names])


def result_schema(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Schema | None:
    """Return the schema of a statement's result without running it, also that of RETURNING.

    It has no columns where a statement returns no rows of its own. None: it does not bind, or not before values are
    bound; where they are text, its types follow from that.
    """
    bound = bind(connection, sql)
    if bound is None:
        return None
    if bound.parameters and not bound.complete:
        types = parameter_types(connection, sql)
        samples = {name: _sample(connection, types.get(name, UNKNOWN)) for name in bound.parameters}
        bound = bind(connection, sql, samples)
    if bound is None or not bound.complete:
        return None
    return arrow_schema(connection, bound.names, bound.types) if bound.rows else pa.schema([])


def parameter_types(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """Return the engine's name for each parameter's type by its name in lower case, of those that can be told."""
    bound = bind(connection, sql)
    if bound is not None and not _open(bound.parameters):
        return dict(bound.parameters)
    known = {} if bound is None else {n: t for n, t in bound.parameters.items() if UNKNOWN not in t}
    front = _FRONT.match(sql)
    assert front is not None, "it matches nothing too"
    tree = parse(connection, sql[front.end() :])
    if tree is None:
        return known
    try:
        known |= _settle_tables(tree)
        search = _Search(connection, tree, known, min(ATTEMPTS_MAX, ATTEMPTS_BYTES_MAX // (len(sql) + 1)))
        search.run({name for name, _ in probing.occurrences(tree)})
    except RecursionError:
        return known
    return search.known


def _settle_tables(tree: Any) -> dict[str, str]:
    """Take versions out of table references and name the schema ``system`` in full; return the versions' parameters."""
    found = {}
    for node in walk(tree):
        if node.get("type") != "BASE_TABLE":
            continue
        clause, node["at_clause"] = node.get("at_clause"), None
        if clause:
            for name, _ in probing.occurrences(clause["expr"]):
                found[name] = _TRAVELS.get(clause["unit"], UNKNOWN)
        if str(node.get("schema_name", "")).lower() == "system" and not node.get("catalog_name"):
            node["catalog_name"] = "tickflight"
            node["qualified_name"] = {"path": ["tickflight", "system", node["table_name"]]}
    return found


class _Search:
    """Finds the types that the binder leaves open, in a tree that it may change."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, tree: Any, known: dict[str, str], attempts: int) -> None:
        self._connection = connection
        self._tree = tree
        self.known = known
        self._attempts = attempts
        self._places: dict[str, list[probing.Path]] = {}
        self._nulls: dict[str, Node | None] = {}

    def run(self, names: Iterable[str]) -> None:
        """Find what can be found."""
        if any(len(path) > DEPTH_MAX for _, path in probing.occurrences(self._tree)):
            return
        self._targets()
        probing.inline(self._tree)
        for name, path in probing.occurrences(self._tree):
            self._places.setdefault(name, []).append(path)
        if self._left(names):
            self._together(names)
        for name in sorted(self._left(names)):
            if self._attempts > 0:
                self._alone(name)
        left = self._left(names)
        bare = {name for name in left if self._only_selected(name)}
        if left - bare:
            # a column that is only a parameter keeps the binder from looking at the others
            self._take(self._ask([], nulls=bare))

    def _left(self, names: Iterable[str]) -> set[str]:
        return {name for name in names if name not in self.known}

    def _only_selected(self, name: str) -> bool:
        return all(path[-2] == "select_list" for path in self._places.get(name, ()))

    def _targets(self) -> None:
        """Take the types of the columns into which an INSERT puts what it selects."""
        columns: dict[int, Bound | None] = {}
        for name, path in probing.occurrences(self._tree):
            target = None if name in self.known else probing.target_column(self._tree, path)
            if target is None:
                continue
            insert, place, finish = target
            if id(insert) not in columns:
                columns[id(insert)] = self._columns(insert)
            bound = columns[id(insert)]
            if bound is not None and place < len(bound.types):
                self._learn(name, finish(bound.types[place]))

    def _columns(self, insert: Node) -> Bound | None:
        """Return the columns that an INSERT fills, in its order."""
        if insert["column_order"] == "INSERT_BY_NAME":
            names = [item.get("alias") or item.get("column_names", [""])[-1] for item in _selected(insert)]
        else:
            names = list(insert["columns"])
        table = quoted(*map(str, insert["qualified_name"]["path"]))
        return bind(self._connection, f"SELECT {', '.join(map(quoted, map(str, names))) or '*'} FROM {table}")

    def _probes(self, name: str) -> list[list[Probe]]:
        """Return what to try at each place where the parameter stands."""
        return [probing.probes(self._tree, path, _overloads) for path in self._places.get(name, ())]

    def _together(self, names: Iterable[str]) -> None:
        """Ask for all that is open at once, with what is likeliest."""
        chosen: list[Probe] = []
        covered: set[str] = set()
        for name in sorted(self._left(names)):
            found = [] if name in covered else [tried[0] for tried in self._probes(name) if tried]
            chosen += found
            covered.update(other for probe in found for other in probe.finish)
        self._take(self._ask(chosen), chosen)

    def _alone(self, name: str) -> None:
        """Ask for one parameter with all that may help, the others being known or NULL."""
        for tried in self._probes(name):
            for probe in tried:
                if name not in self.known and self._attempts > 0:
                    self._take(self._ask([probe], self._places.keys() - {name}), [probe], only=name)

    def _ask(self, probes: Sequence[Probe], nulls: Set[str] = frozenset()) -> Bound | None:
        """Bind the statement with the probes in it, NULL in the place of ``nulls`` and of parameters that are known."""
        self._attempts -= 1
        tree = copy.deepcopy(self._tree)
        done: set[probing.Path] = set()
        for probe in sorted(probes, key=lambda p: len(p.path)):
            if not any(probe.path[:end] in done for end in range(len(probe.path) + 1)):
                probing.put(tree, probe.path, copy.deepcopy(probe.node))
                done.add(probe.path)
        for name, path in list(probing.occurrences(tree)):
            if name in self.known:
                typed = self._typed(self.known[name])
                if typed is not None:
                    probing.put(tree, path, typed)
            elif name in nulls:
                probing.put(tree, path, probing.null())
        text = unparse(self._connection, tree)
        return None if text is None else bind(self._connection, text)

    def _typed(self, kind: str) -> Node | None:
        """Return NULL of a type."""
        if kind.isidentifier():
            return probing.cast(probing.null(), probing.type_expr(kind))
        if kind not in self._nulls:
            tree = parse(self._connection, f"SELECT NULL::{kind}")
            self._nulls[kind] = None if tree is None else tree["statements"][0]["node"]["select_list"][0]
        return copy.deepcopy(self._nulls[kind])

    def _take(self, bound: Bound | None, probes: Sequence[Probe] = (), only: str | None = None) -> None:
        """Learn from an answer."""
        if bound is None:
            return
        for probe in probes:
            kind = probe.known or bound.parameters.get(probe.witness, UNKNOWN)
            if UNKNOWN in kind or kind == '"NULL"':
                continue
            for name, finish in probe.finish.items():
                if only in (None, name):
                    self._learn(name, finish(kind))
        probed = {name for probe in probes for name in probe.finish}
        for name, kind in bound.parameters.items():
            if name not in probed:
                self._learn(name, kind)

    def _learn(self, name: str, kind: str) -> None:
        if UNKNOWN not in kind and kind != '"NULL"':
            self.known.setdefault(name, kind)


def _selected(insert: Node) -> list[Node]:
    node = insert["select_statement"]["node"]
    return list(node["select_list"]) if node.get("type") == "SELECT_NODE" else []


def _open(types: Mapping[str, str]) -> bool:
    return any(UNKNOWN in kind for kind in types.values())


def _sample(connection: duckdb.DuckDBPyConnection, kind: str) -> Any:
    """Return a value of a type; None where there is none at hand."""
    if UNKNOWN in kind:
        return ""
    text = _SAMPLES.get(kind, "[]" if kind.endswith("[]") else "0")
    try:
        return duckdb.Value(text, connection.sqltype(kind))
    except duckdb.Error:
        return None


@cache
def _functions() -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Return the parameter types of all overloads of the engine's functions; they are the same in every database."""
    found: dict[str, list[tuple[str, ...]]] = {}
    with duckdb.connect(":memory:") as connection:
        rows = connection.execute("SELECT function_name, parameter_types FROM duckdb_functions()").fetchall()
    for name, types in rows:
        found.setdefault(name.lower(), []).append(tuple(str(kind) for kind in types or ()))
    return {name: tuple(overloads) for name, overloads in found.items()}


def _overloads(name: str) -> tuple[tuple[str, ...], ...]:
    return _functions().get(name.lower(), ())


def _arrow(connection: duckdb.DuckDBPyConnection, kind: str) -> pa.DataType:
    """Return the Arrow type of values that clients can make and bind."""
    if UNKNOWN in kind:
        return UNTOLD
    schema = arrow_schema(connection, ["v"], [kind])
    return UNTOLD if schema is None else _plain(schema.field(0).type)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type without encodings and the engine's own extensions."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_null(kind) or pa.types.is_union(kind):
        return UNTOLD
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    return pa.list_(_plain(kind.value_type)) if pa.types.is_list(kind) else kind
