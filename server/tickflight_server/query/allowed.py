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
from tickflight_server.query.own_functions import OwnCall, read_call
from tickflight_server.query.travel import Travel
from tickflight_server.query.trees import CATALOG, walk

# Table functions that make rows of nothing or of their arguments, or tell about the catalog; none reads a file.
TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree", "test_all_types"),
        *("duckdb_columns", "duckdb_constraints", "duckdb_databases", "duckdb_functions", "duckdb_indexes"),
        *("duckdb_keywords", "duckdb_schemas", "duckdb_sequences", "duckdb_tables", "duckdb_types", "duckdb_views"),
        *("pragma_table_info", "pragma_version", "sql_auto_complete", "icu_calendar_names", "pg_timezone_names"),
    }
)
# Scalar functions that tell about the machine or the server's settings, bind another text, or hold a thread.
REFUSED_FUNCTIONS = frozenset(
    {
        *("current_setting", "getenv", "getvariable", "write_log", "query", "query_table"),
        *("json_serialize_plan", "sleep_ms", "pg_sleep"),
    }
)
# Views of the engine's own that show its settings, files and log.
REFUSED_TABLES = frozenset({"pg_settings", "pragma_database_list", "duckdb_logs", "pg_prepared_statements"})
# A WITH may also hold INSERT, UPDATE, DELETE and COPY TO, which are nodes of other types.
_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
# what INSERT, UPDATE and DELETE are in the tree
_ROW_NODES = frozenset({"INSERT_QUERY_NODE", "UPDATE_QUERY_NODE", "DELETE_QUERY_NODE"})
LIKE_FILES = r"[./\\:*?]"
"""What is in names that the engine may take for a file's, as an expression for re and for the engine."""
_STAR_CHANGES = ("exclude_list", "replace_list", "rename_list", "qualified_exclude_list", "alias")
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
    """Refuse a scalar function that is not for users.

    Raises:
        PermissionDeniedError: it is one.
    """
    if name.lower() in REFUSED_FUNCTIONS:
        raise PermissionDeniedError(
            f"function {name}() is not offered here.", hint="It tells about the machine, or acts on it."
        )


def _check(node: dict[str, Any], found: Found, macros: Collection[str], writing: bool) -> None:
    kind = node.get("type")
    if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _QUERY_NODES:
        _check_writing(node, kind, found, writing)
    elif kind == "BASE_TABLE":
        _check_table(node, found)
    elif kind == "SHOW_REF" and node.get("table_name") and node.get("show_type") != "SHOW_SPECIAL":
        found.tables.add((str(node.get("schema_name", "")).lower(), str(node["table_name"]).strip('"').lower()))
    elif kind == "TABLE_FUNCTION":
        own = read_call(node)
        if own is not None:
            found.owns.append((node, own))
            return
        function = str(node["function"].get("function_name", "")).lower()
        found.functions.add(function)
        if function not in TABLE_FUNCTIONS and function not in macros:
            raise PermissionDeniedError(f"table function {function}() is not offered here.", hint=_IMPORT)
    elif kind == "TYPE":
        found.types.add(str(node["type_name"]).lower())
    elif node.get("class") == "FUNCTION":
        name = str(node.get("function_name", ""))
        found.functions.add(name.lower())
        check_function(name)


def _check_table(node: dict[str, Any], found: Found) -> None:
    name = str(node.get("table_name", ""))
    if name.lower() in REFUSED_TABLES:
        raise PermissionDeniedError(f"table {name} is not offered here.", hint="See system.metrics and system.health.")
    check_file(name)
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
