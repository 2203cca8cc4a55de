"""What SQL may name: the one place where tables, files, functions and kinds of statements are let through or refused.

The rule of this file: only what is known to be harmless passes; a refusal is told as one, with what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tickflight_server.errors import PermissionDeniedError, UnsupportedError
from tickflight_server.query import travel
from tickflight_server.query.builtins import builtins
from tickflight_server.query.caps import check_call
from tickflight_server.query.inventory import ALLOWED, CALLED, CALLED_FROM, classes
from tickflight_server.query.own_functions import OwnCall, read_call
from tickflight_server.query.travel import Travel
from tickflight_server.query.trees import CATALOG, walk

TABLE_FUNCTIONS = classes().names(CALLED_FROM, ALLOWED)
FUNCTIONS = classes().names((*CALLED, *CALLED_FROM), ALLOWED)
REFUSED_TABLES = classes().names(["view"]) - classes().names(["view"], ALLOWED)
"""The engine's own views that are not for users."""
_SETTINGS = frozenset(n.lower() for n in classes().names(["setting"]) - classes().names(["setting"], ALLOWED))
_SHOWN = frozenset({"tables", "databases", "schemas", "__show_tables_expanded"})  # SHOW of what is no table's name
# what a connection was given to see of a table: parts of it may have rows beyond a cut
_INTERNAL = re.compile(r"__(market|system)_")
_EXPRESSIONS = frozenset(
    {
        *("BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "DEFAULT"),
        *("FUNCTION", "LAMBDA", "OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "TYPE", "WINDOW"),
    }
)
_REFERENCES = frozenset(
    {
        *("BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY", "TABLE_FUNCTION"),
    }
)
# A WITH may also hold INSERT, UPDATE, DELETE and COPY TO, which are nodes of other types.
_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
# what INSERT, UPDATE and DELETE are in the tree
_ROW_NODES = frozenset({"INSERT_QUERY_NODE", "UPDATE_QUERY_NODE", "DELETE_QUERY_NODE"})
LIKE_FILES = r"[./\\:*?]"
"""What is in names that the engine may take for a file's, as an expression for re and for the engine."""
_STAR_CHANGES = ("exclude_list", "replace_list", "rename_list", "qualified_exclude_list", "alias")
_TOLD_WITHOUT_PATHS = frozenset({"duckdb_databases"})
_ELSEWHERE = frozenset({"getenv"})  # of the engine's shell
_IMPORT = "Name a table; bring rows in with ingest, or `tickflight-server import`."


@dataclass
class Found:
    """What a walk over a statement's tree came across; ``targets`` are the tables that it writes."""

    tables: set[tuple[str, str]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    targets: set[tuple[str, str]] = field(default_factory=set)
    returning: bool = False
    system: list[int] = field(default_factory=list)
    versions: list[tuple[dict[str, Any], Travel]] = field(default_factory=list)
    owns: list[tuple[dict[str, Any], OwnCall]] = field(default_factory=list)


def look(tree: Any, macros: Collection[str] = (), *, writing: bool = False) -> Found:
    """Return what a statement refers to; ``macros`` are the users' own table functions.

    Raises:
        PermissionDeniedError: it names a file, a setting, or something else that is not for users.
        UnsupportedError: something in it is not offered.
    """
    found = Found()
    for node in walk(tree):
        _check(node, found, macros, writing)
    return found


def check_file(name: str) -> None:
    """Refuse a table's name that the engine may take for a file's.

    Raises:
        PermissionDeniedError: it looks like one.
    """
    if re.search(LIKE_FILES, name):
        raise PermissionDeniedError(f"files cannot be read by SQL: {name[:200]!r}.", hint=_IMPORT)


def check_function(name: str) -> None:
    """Refuse a function of the engine's that is not known to be harmless; it may also be a macro, or nothing.

    Raises:
        PermissionDeniedError: it is not for users.
    """
    lower = name.lower()
    if lower in FUNCTIONS or (lower not in builtins().functions and lower not in _ELSEWHERE):
        return
    reason = classes().reason(lower, (*CALLED, *CALLED_FROM))
    raise PermissionDeniedError(f"function {name[:100]}() is not offered here.", hint=f"It {reason}.")


def check_internal(name: str) -> None:
    """Refuse the name of what a connection was given to see of a table.

    Raises:
        PermissionDeniedError: it is one.
    """
    if _INTERNAL.match(name.lower()):
        raise PermissionDeniedError(f"{name[:100]} is the server's own.", hint="Name the table of schema market.")


def _check(node: dict[str, Any], found: Found, macros: Collection[str], writing: bool) -> None:
    kind = node.get("type")
    if "class" in node:
        _check_expression(node, found)
    elif isinstance(kind, str) and kind.endswith("_NODE"):
        if kind not in _QUERY_NODES:
            _check_writing(node, kind, found, writing)
    elif kind == "BASE_TABLE":
        _check_table(node, found)
    elif kind == "SHOW_REF":
        _check_show(node, found)
    elif kind == "TABLE_FUNCTION":
        own = read_call(node)
        if own is not None:
            found.owns.append((node, own))
            return
        function = str(node["function"].get("function_name", "")).lower()
        found.functions.add(function)
        _check_schema(function, str(node["function"].get("schema", "")).lower())
        if function not in TABLE_FUNCTIONS and function not in macros:
            hint = _IMPORT
            if function in builtins().functions:
                hint = f"It {classes().reason(function, CALLED_FROM)}. {_IMPORT}"
            raise PermissionDeniedError(f"table function {function[:100]}() is not offered here.", hint=hint)
    elif "sample" in node and "alias" in node and kind not in _REFERENCES:
        raise UnsupportedError(f"{kind} after FROM is not offered here.")


def _check_schema(function: str, schema: str) -> None:
    """Refuse the engine's function where the server has one of the same name that tells less."""
    if function in _TOLD_WITHOUT_PATHS and schema not in ("", "market"):
        raise PermissionDeniedError(f"{schema}.{function}() is not offered here.", hint=f"Call {function}().")


def _check_expression(node: dict[str, Any], found: Found) -> None:
    kind = node["class"]
    if kind not in _EXPRESSIONS:
        raise UnsupportedError(f"an expression of kind {kind} is not offered here.")
    if kind == "TYPE":
        found.types.add(str(node["type_name"]).lower())
    elif "function_name" in node:
        name = str(node["function_name"])
        found.functions.add(name.lower())
        check_function(name)
        check_call(node)
        if node.get("export_state"):
            raise UnsupportedError("EXPORT_STATE is not offered here.", hint="Take the aggregate's value.")


def _check_show(node: dict[str, Any], found: Found) -> None:
    """Let DESCRIBE, SUMMARIZE and SHOW of a table pass; what the engine takes for a setting's name does not."""
    kind, name = node.get("show_type"), str(node.get("table_name") or "").strip('"').lower()
    if kind == "SHOW_SPECIAL":
        if name not in _SHOWN:
            raise PermissionDeniedError(f"SHOW {name.upper()[:100]} is not offered here.", hint="Use SHOW TABLES.")
        return
    if kind == "SHOW" and name in _SETTINGS:
        raise PermissionDeniedError(
            f"SHOW {name}: the engine's settings are not told.", hint="A table of this name is shown by DESCRIBE."
        )
    if name:
        _check_name(name)
        found.tables.add((str(node.get("schema_name", "")).lower(), name))


def _check_name(name: str) -> None:
    """Refuse a table's name that is not for users."""
    if name.lower() in REFUSED_TABLES:
        raise PermissionDeniedError(f"table {name} is not offered here.", hint="See system.metrics and system.health.")
    check_file(name)
    check_internal(name)


def _check_table(node: dict[str, Any], found: Found) -> None:
    name = str(node.get("table_name", ""))
    _check_name(name)
    schema = str(node.get("schema_name", "")).lower()
    if node.get("at_clause"):
        found.versions.append((node, travel.read_reference(node, CATALOG)))
        return
    found.tables.add((schema, name.lower()))
    if schema == "system" and not node.get("catalog_name"):
        found.system.append(node["query_location"])


def _check_writing(node: dict[str, Any], kind: str, found: Found, writing: bool) -> None:
    if not writing or kind not in _ROW_NODES:
        verb = kind.split("_")[0]
        raise UnsupportedError(f"{verb} inside a query is not offered here.", hint="Send it as a statement of its own.")
    table = node.get("table")
    if isinstance(table, dict):
        found.targets.add((str(table.get("schema_name", "")).lower(), str(table.get("table_name", "")).lower()))
    else:
        found.targets.add((str(node.get("schema", "")).lower(), str(table).lower()))
    found.returning = found.returning or bool(node.get("returning_list"))


def is_rowwise(tree: dict[str, Any], functions: set[str], aggregates: Collection[str]) -> bool:
    """Return whether each row of a query's result comes from one row of its one table, whatever the others are."""
    node = tree.get("node", {})
    table = node.get("from_table") or {}
    plain = node.get("type") == "SELECT_NODE" and table.get("type") == "BASE_TABLE" and not table.get("sample")
    if not plain or node["modifiers"] or node["cte_map"]["map"] or not functions.isdisjoint(aggregates):
        return False
    if any(node.get(key) for key in ("group_expressions", "group_sets", "having", "qualify", "sample")):
        return False
    if node.get("aggregate_handling") != "STANDARD_HANDLING":  # GROUP BY ALL names no groups
        return False
    return not any(part.get("class") in ("WINDOW", "SUBQUERY") for part in walk(node))


def plain_columns(tree: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """Return what a query takes of each row of its one table, as (column, name in the result), if it does no more.

    None where it does more. ("*", "") is every column. Its WHERE is not looked at.
    """
    node = tree["node"]
    table = node["from_table"]
    if table.get("column_name_alias") or table.get("at_clause"):
        return None
    called = (table["alias"] or table["table_name"]).lower()
    found = []
    for item in node["select_list"]:
        match item:
            case {"class": "STAR", "columns": False, "expr": None, "relation_name": relation}:
                if any(item.get(key) for key in _STAR_CHANGES) or relation.lower() not in ("", called):
                    return None
                found.append(("*", ""))
            case {"class": "COLUMN_REF", "column_names": [*relations, name], "alias": alias}:
                if relations and [r.lower() for r in relations] != [called]:
                    return None
                found.append((name, alias or name))
            case _:
                return None
    return tuple(found)


def without_limit(tree: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """Return the number of a query's LIMIT, None without one, and its tree without it.

    A tree whose LIMIT is no plain number, or has more with it, is returned as it is.
    """
    node = tree.get("node", {})
    match node.get("modifiers"):
        case [{"type": "LIMIT_MODIFIER", "limit": {"class": "CONSTANT", "literal": value}, "offset": None}]:
            if str(value["text"]).isdigit():
                return int(value["text"]), {**tree, "node": {**node, "modifiers": []}}
    return None, tree
