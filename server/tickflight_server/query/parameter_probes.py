"""Where a parameter stands in a statement, and what to put there so that the engine's binder tells its type.

The rule of this file: it rewrites the engine's own trees and knows no types but by name; what a rewritten statement
means does not matter, it is bound and never run.

The binder types a parameter that is compared with something, assigned or cast. It gives up where a function is still to
be chosen, as with ``price * ?`` and ``date_trunc(?, timestamp)``. There a probe stands in: ``coalesce(price, ?)`` has
the type of the column, and ``?::VARCHAR`` is tried as one of the function's overloads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Node = dict[str, Any]
Path = tuple[str | int, ...]
Overloads = Callable[[str], Sequence[tuple[str, ...]]]
"""The parameter types of each overload of a function, by its name."""

TRIED = ("TIMESTAMP", "DOUBLE", "BIGINT", "VARCHAR", "INTERVAL", "DATE", "TIME", "BOOLEAN", "INTEGER", "FLOAT")
"""Types in the order in which they are tried where a function takes several."""

_ARITHMETIC = frozenset({"+", "-", "*", "/", "//", "%"})
_UNITS = ("microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year", "decade")
_INTERVALS = frozenset({*(f"to_{unit}s" for unit in _UNITS), "to_centuries", "to_millennia"})
_TEMPORAL = ("TIMESTAMP", "DATE", "TIME")
# what is meant by most where a function takes several
_FIRST: Mapping[str, str] = {
    **dict.fromkeys(("range", "generate_series"), "BIGINT"),
    **dict.fromkeys(("->", "->>", "json_extract", "json_extract_path", "json_extract_string"), "VARCHAR"),
    **dict.fromkeys(("json_extract_path_text", "json_value", "json_type", "json_keys", "json_exists"), "VARCHAR"),
}


@dataclass(frozen=True)
class Probe:
    """A node to put at ``path``; ``finish`` makes the types of parameters of the type that ``witness`` then has.

    With ``known`` the witness has that type and nothing is asked.
    """

    path: Path
    node: Node
    witness: str
    finish: Mapping[str, Callable[[str], str]]
    known: str | None = None


def occurrences(tree: Any, path: Path = ()) -> Iterator[tuple[str, Path]]:
    """Yield the name in lower case and the path of every parameter."""
    if isinstance(tree, dict):
        if tree.get("class") == "PARAMETER":
            yield str(tree["identifier"]).lower(), path
        for key, child in tree.items():
            if isinstance(child, dict | list):
                yield from occurrences(child, (*path, key))
    elif isinstance(tree, list):
        for index, child in enumerate(tree):
            yield from occurrences(child, (*path, index))


def at(tree: Any, path: Path) -> Any:
    """Return what stands at ``path``."""
    for key in path:
        tree = tree[key]
    return tree


def put(tree: Any, path: Path, node: Node) -> None:
    """Put ``node`` at ``path``, with the name of what stood there."""
    parent = at(tree, path[:-1])
    parent[path[-1]] = {**node, "alias": parent[path[-1]].get("alias", "")}


def parameter(name: str) -> Node:
    """Return a parameter."""
    return {"class": "PARAMETER", "type": "VALUE_PARAMETER", "alias": "", "identifier": name}


def null() -> Node:
    """Return the constant NULL."""
    literal = {"kind": "NULL_LITERAL", "text": ""}
    return {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "literal": literal}


def cast(child: Node, type_expr: Node) -> Node:
    """Return a cast."""
    node = {"class": "CAST", "type": "OPERATOR_CAST", "alias": "", "child": child}
    return {**node, "type_expr": type_expr, "try_cast": False}


def type_expr(name: str) -> Node:
    """Return the type of a plain name."""
    return {"class": "TYPE", "type": "TYPE", "alias": "", "type_name": name, "children": []}


def inline(tree: Any) -> None:
    """Put parameters in the place of columns that are nothing else, as ``p.x`` in WITH p AS (SELECT ? AS x)."""
    aliases: dict[str, set[str]] = {}
    for _, node in _nodes(tree, "BASE_TABLE"):
        aliases.setdefault(str(node["table_name"]).lower(), set()).add(str(node.get("alias") or "").lower())
    references: dict[str, list[tuple[Path, Node]]] = {}
    for place, node in _nodes(tree, "COLUMN_REF"):
        references.setdefault(node["column_names"][-1].lower(), []).append((place, node))
    for _, path in list(occurrences(tree)):
        found = at(tree, path)
        column = _column(tree, path)
        if column is None:
            continue
        name, owner = column
        owners = {owner, *aliases.get(owner, ())}
        uses = [use for use, node in references.get(name, ()) if _means(node["column_names"], owners)]
        for use in uses:
            put(tree, use, found)
        if uses:
            put(tree, path, null())


def probes(tree: Any, path: Path, overloads: Overloads) -> list[Probe]:
    """Return what to try for the parameter at ``path``, the likeliest first; none where nothing is known to help."""
    name = str(at(tree, path)["identifier"]).lower()
    special = _special(tree, path, name)
    if special is not None:
        return [special]
    top = _top(tree, path)
    chain = at(tree, top)
    finish = {n: _finisher(tree, (*top, *p)) for n, p in occurrences(chain) if _reaches(tree, top, (*top, *p))}
    others = _leaves(chain) + _aligned(tree, top)
    found: list[Probe] = []
    if top != path or others:
        node = _coalesce([*copy.deepcopy(others), parameter(name)]) if others else parameter(name)
        found.append(Probe(top, node, name, finish))
    # a table function is bound with values alone
    value = null() if "function" in path else parameter(name)
    taken = _taken(tree, top, overloads)
    found += [Probe(top, cast(copy.deepcopy(value), type_expr(kind)), name, finish, kind) for kind in taken]
    weak = None if others else _weak(chain)
    if weak is not None:
        found.append(Probe(top, cast(parameter(name), type_expr(weak)), name, finish, weak))
    if others:
        mine = {name: _same}
        found += [Probe(path, cast(parameter(name), type_expr(k)), name, mine, k) for k in ("INTERVAL", *TRIED)]
    return found


def target_column(tree: Any, path: Path) -> tuple[Node, int, Callable[[str], str]] | None:
    """Return the INSERT, the place in its SELECT list and the finisher where that is what the parameter is for."""
    top = _top(tree, path)
    if top[-4:-1] != ("select_statement", "node", "select_list"):
        return None
    insert = at(tree, top[:-4])
    if insert.get("type") != "INSERT_QUERY_NODE":
        return None
    place = int(top[-1])
    if any(item["class"] == "STAR" for item in at(tree, top[:-1])[:place]):
        return None
    return insert, place, _finisher(tree, path)


def _nodes(tree: Any, kind: str, path: Path = ()) -> list[tuple[Path, Node]]:
    found: list[tuple[Path, Node]] = []
    if isinstance(tree, dict):
        if tree.get("type") == kind:
            found.append((path, tree))
        for key, child in tree.items():
            found += _nodes(child, kind, (*path, key))
    elif isinstance(tree, list):
        for index, child in enumerate(tree):
            found += _nodes(child, kind, (*path, index))
    return found


def _means(names: Sequence[str], owners: set[str]) -> bool:
    return len(names) == 1 or names[-2].lower() in owners


def _column(tree: Any, path: Path) -> tuple[str, str] | None:
    """Return the name and the owner of the column that a parameter alone is, None where it is none with a name."""
    if len(path) > 2 and path[-2] == "select_list":
        holder, place = path[:-2], int(path[-1])
    elif len(path) > 3 and path[-3] == "values":
        holder, place = path[:-3], int(path[-1])
        values = at(tree, holder)
        if values.get("column_name_alias"):
            return str(values["column_name_alias"][place]).lower(), str(values.get("alias")).lower()
        holder = holder[:-1]
    else:
        return None
    name, owner, names = str(at(tree, path).get("alias") or ""), "", []
    for end in range(len(holder) - 1, -1, -1):
        above = at(tree, holder[:end])
        if not isinstance(above, dict):
            continue
        if above.get("type") == "SUBQUERY" and "column_name_alias" in above:
            owner, names = above.get("alias") or "", above["column_name_alias"]
            break
        if "key" in above and "value" in above:
            owner, names = above["key"], above["value"].get("aliases") or []
            break
        if above.get("class"):
            return None
    name = str(names[place]) if place < len(names) else name
    return (name.lower(), str(owner).lower()) if name and owner else None


def _parent(tree: Any, path: Path) -> tuple[Path, Any]:
    """Return the nearest expression or query node around ``path``, and where it is."""
    for end in range(len(path) - 1, -1, -1):
        node = at(tree, path[:end])
        if isinstance(node, dict) and ("class" in node or str(node.get("type", "")).endswith(("_NODE", "_MODIFIER"))):
            return path[:end], node
    return (), tree


def _passes(node: Any, child: Sequence[str | int]) -> bool:
    """Return whether the expression at ``child`` below ``node`` is of the node's own type, or arithmetic."""
    kind = node.get("class")
    if kind == "FUNCTION":
        return node.get("function_name") in _ARITHMETIC
    if kind == "CASE":
        return "then_expr" in child or "else_expr" in child
    return bool(kind == "OPERATOR" and node["type"] == "OPERATOR_COALESCE")


def _top(tree: Any, path: Path) -> Path:
    """Return where the largest expression begins whose type follows from the one at ``path``, or the other way."""
    while True:
        above, node = _parent(tree, path)
        if _passes(node, path[len(above) :]):
            path = above
        elif _bare(node) and above[-2:] == ("subquery", "node") and _scalar(at(tree, above[:-2])):
            path = above[:-2]
        else:
            return path


def _bare(node: Any) -> bool:
    """Return whether a query is only SELECT and one expression."""
    plain = node.get("type") == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY"
    return plain and len(node["select_list"]) == 1


def _scalar(node: Any) -> bool:
    return bool(node.get("class") == "SUBQUERY" and node.get("subquery_type") == "SCALAR")


def _reaches(tree: Any, top: Path, path: Path) -> bool:
    return _top(tree, path) == top


def _operands(node: Node) -> list[Node]:
    if node["class"] == "FUNCTION":
        return [argument["expression"] for argument in node["arguments"]]
    if node["class"] == "CASE":
        return [*(check["then_expr"] for check in node["case_checks"]), node["else_expr"]]
    if node["class"] == "SUBQUERY":
        return [node["subquery"]["node"]["select_list"][0]]
    return list(node["children"])


def _leaves(node: Node) -> list[Node]:
    """Return the operands of a chain of arithmetic and choices that tell its type: no parameters and constants."""
    through = _passes(node, ("then_expr",)) or (_scalar(node) and _bare(node["subquery"]["node"]))
    if through:
        return [leaf for operand in _operands(node) for leaf in _leaves(operand)]
    return [] if node["class"] in ("PARAMETER", "CONSTANT") or _is_interval(node) else [node]


def _constants(node: Node) -> list[Node]:
    if node["class"] == "CONSTANT" or _is_interval(node):
        return [node]
    return [c for o in _operands(node) for c in _constants(o)] if _passes(node, ("then_expr",)) else []


def _is_interval(node: Node) -> bool:
    if node["class"] == "CAST":
        return str(node["type_expr"].get("type_name", "")).upper() == "INTERVAL"
    if node["class"] == "FUNCTION" and node["function_name"] == "*":
        return any(_is_interval(operand) for operand in _operands(node))
    return node["class"] == "FUNCTION" and node["function_name"] in _INTERVALS


def _weak(chain: Node) -> str | None:
    """Return a type for a chain of which only constants are known, wider than theirs."""
    constants = _constants(chain)
    if any(_is_interval(c) for c in constants):
        only = chain["class"] == "FUNCTION" and chain["function_name"] in ("*", "/")
        return "INTERVAL" if only else "TIMESTAMP"
    kinds = {c["literal"]["kind"] for c in constants}
    if not kinds:
        signed = chain["class"] == "FUNCTION" and chain["function_name"] in _ARITHMETIC
        return "DOUBLE" if signed else None
    if kinds <= {"INTEGER", "NULL_LITERAL"}:
        return "BIGINT"
    return "VARCHAR" if "STRING" in kinds else "DOUBLE"


def _same(kind: str) -> str:
    return kind


def _finisher(tree: Any, path: Path) -> Callable[[str], str]:
    """Return what makes the type of the parameter at ``path`` of its chain's type: an interval to add to a time."""
    above, node = _parent(tree, path)
    if node.get("class") != "FUNCTION" or node.get("function_name") not in _ARITHMETIC or len(node["arguments"]) != 2:
        return _same
    place = int(path[len(above) + 1])
    sibling, operator = node["arguments"][1 - place]["expression"], node["function_name"]

    def finish(kind: str) -> str:
        if operator in ("*", "/") and (_is_interval(sibling) or kind.startswith((*_TEMPORAL, "INTERVAL"))):
            return "BIGINT"
        if not kind.startswith(_TEMPORAL) or _is_interval(sibling) or operator not in ("+", "-"):
            return kind
        if place == 0 and (sibling["class"] == "PARAMETER" or operator == "-"):
            return kind
        return "INTEGER" if kind == "DATE" else "INTERVAL"

    return finish


def _coalesce(children: list[Node]) -> Node:
    return {"class": "OPERATOR", "type": "OPERATOR_COALESCE", "alias": "", "children": children}


def _equal(left: Node, right: Node) -> Node:
    return {"class": "COMPARISON", "type": "COMPARE_EQUAL", "alias": "", "left": left, "right": right}


def _aligned(tree: Any, top: Path) -> list[Node]:
    """Return the same column of the other queries of a UNION, as scalar subqueries."""
    if len(top) < 4 or top[-2] != "select_list" or top[-4] != "children":
        return []
    found = []
    for place, query in enumerate(at(tree, top[:-3])):
        if place == top[-3] or query.get("type") != "SELECT_NODE" or len(query["select_list"]) <= int(top[-1]):
            continue
        items = query["select_list"]
        if any(item["class"] in ("STAR", "PARAMETER") for item in items[: int(top[-1]) + 1]):
            continue
        node = {**copy.deepcopy(query), "select_list": [copy.deepcopy(items[int(top[-1])])], "modifiers": []}
        subquery = {"node": node, "named_param_map": []}
        scalar = {"class": "SUBQUERY", "type": "SUBQUERY", "alias": "", "subquery_type": "SCALAR"}
        found.append({**scalar, "subquery": subquery, "child": None, "comparison_type": "INVALID"})
    return found


def _special(tree: Any, path: Path, name: str) -> Probe | None:
    """Return the probe for a parameter that is a list to search in, a subquery's only column, or part of a row."""
    above, node = _parent(tree, path)
    if node.get("class") == "FUNCTION" and node["function_name"] == "contains" and path[len(above) + 1] == 0:
        other = node["arguments"][1]["expression"]
        return Probe(above, _equal(copy.deepcopy(other), parameter(name)), name, {name: lambda kind: f"{kind}[]"})
    if node.get("class") == "FUNCTION" and node["function_name"] == "row":
        return _row(tree, above, name)
    finish = _same
    if node.get("class") == "FUNCTION" and node["function_name"] == "unnest":
        finish = "{}[]".format
        above, node = _parent(tree, above)
    if above[-2:] == ("subquery", "node") and _bare(node):
        subquery = at(tree, above[:-2])
        if subquery.get("subquery_type") == "ANY":
            return Probe(above[:-2], _equal(copy.deepcopy(subquery["child"]), parameter(name)), name, {name: finish})
    return None


def _row(tree: Any, path: Path, name: str) -> Probe | None:
    """Return the probe that compares row by row what stands in ``(a, b) = (?, ?)`` or in an IN list of such."""
    above, node = _parent(tree, path)
    rows = [node["left"], node["right"]] if node.get("class") == "COMPARISON" else node.get("children", [])
    if not rows or any(r.get("class") != "FUNCTION" or r["function_name"] != "row" for r in rows):
        return None
    first, *others = [_operands(row) for row in rows]
    pairs = [pair for other in others for pair in zip(first, other, strict=False)]
    both = [_equal(copy.deepcopy(left), copy.deepcopy(right)) for left, right in pairs]
    whole = {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "alias": "", "children": both}
    return Probe(above, whole, name, {name: _same})


def _taken(tree: Any, top: Path, overloads: Overloads) -> list[str]:
    """Return the types that a function may take where ``top`` is its argument, in the order to try them."""
    above, node = _parent(tree, top)
    if node.get("class") not in ("FUNCTION", "WINDOW") or "arguments" not in top[len(above) :]:
        return []
    if node["function_name"] == "||":
        return ["VARCHAR"]
    place, count = int(top[len(above) + 1]), len(node["arguments"])
    kinds = {o[place] for o in overloads(node["function_name"]) if len(o) == count}
    order = (_FIRST[node["function_name"]], *TRIED) if node["function_name"] in _FIRST else TRIED
    # a macro takes what its body does, of which nothing is told
    taken = [kind for kind in order if kind in kinds or kinds == {"None"}]
    return taken or (["VARCHAR"] if kinds & {"ANY", "T"} else [])
