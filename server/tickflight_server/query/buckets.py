"""Which queries can be kept by their time buckets, and the texts that ask for some of the buckets alone.

The rule of this file: the engine's own tree is read, and every text is one that the engine writes of a tree; a query
that is not wholly understood is not kept, and the reason says in words what stands in the way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from tickflight_server.query.binding import parse, unparse
from tickflight_server.query.stability import Stability
from tickflight_server.query.trees import CATALOG, walk
from tickflight_server.schemas import STORED, TableSchema

RANGES_MAX = 8
"""Runs of neighbouring buckets that are asked for at once; more of them are joined, with what lies between."""
_BUCKETS = frozenset({"time_bucket", "date_trunc", "datetrunc"})
_DIRECTIONS: Mapping[str, str] = {"ORDER_DEFAULT": "", "ASCENDING": " ASC", "DESCENDING": " DESC"}
_NULLS: Mapping[str, str] = {
    "ORDER_DEFAULT": "",
    "NULLS FIRST": " NULLS FIRST",
    "NULLS LAST": " NULLS LAST",
}
_CLASSES: Mapping[str, str] = {"WINDOW": "it has a window", "SUBQUERY": "it has a subquery"}


class NotKeptError(Exception):
    """The query cannot be kept; the text says why."""


@dataclass(frozen=True)
class Text:
    """A statement, and the names of the caller's parameters in it, as ``renamed`` gives them."""

    sql: str
    parameters: frozenset[str]


@dataclass(frozen=True)
class Buckets:
    """A query over the buckets of one table's time.

    ``whole`` is the query with columns behind its own, first the bucket, by which the rows are sorted, then what the
    caller orders by. ``touched`` gives the buckets of the rows after ``$__after``; ``some[n]`` is ``whole`` for ``n``
    ranges of buckets, ``$__first0`` to ``$__last0`` and so on, whose rows have times from ``$__from0`` to before
    ``$__until0``. ``width`` gives how long a bucket is: an interval, or the name of a part of dates. ``orders`` is an
    ORDER BY list over columns "c0", "c1", ….
    """

    table: TableSchema
    whole: Text
    touched: Text
    some: Mapping[int, Text]
    width: Text
    orders: str


def renamed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the caller's parameters under names that stand beside ours."""
    return {f"u_{name.lower()}": value for name, value in parameters.items()}


def read_buckets(
    connection: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema, stability: Stability, first_schema: str
) -> Buckets:
    """Return how the query ``sql``, whose result has ``schema``, is kept.

    ``first_schema`` is where the session looks names up first.

    Raises:
        NotKeptError: it cannot be.
    """
    answer = parse(connection, sql)
    if answer is None:
        raise NotKeptError("it is no SELECT")
    return _Reader(connection, answer["statements"][0]["node"], schema, stability, first_schema).read()


class _Reader:
    def __init__(
        self, connection: duckdb.DuckDBPyConnection, node: Any, schema: pa.Schema, stability: Stability, first: str
    ) -> None:
        self._connection = connection
        self._node = node
        self._schema = schema
        self._stability = stability
        self._first_schema = first

    def read(self) -> Buckets:
        node = self._node
        self._check_shape()
        table = self._table()
        names = {column.name for column in table.columns}
        unstable = self._stability.unstable(node)
        if unstable is not None:
            raise NotKeptError(f"it calls {unstable}, which may give another value for the same rows")
        where = node["where_clause"] or _condition(self._connection, "TRUE")
        for part in walk(where):
            if part.get("class") == "COLUMN_REF" and part["column_names"][-1].lower() not in names:
                raise NotKeptError(f"its WHERE names {part['column_names'][-1]}, which is no column of {table.name}")
        bucket = self._bucket(table)
        orders, hidden = self._orders()
        for part in walk(node):
            if part.get("class") == "PARAMETER":
                part["identifier"] = f"u_{part['identifier'].lower()}"
        # only now: a name that is looked up in several schemas could mean another table later
        full = {"catalog_name": CATALOG, "schema_name": table.schema, "table_name": table.name}
        path = {"path": [CATALOG, table.schema, table.name]}
        node["from_table"] |= {**full, "qualified_name": path, "alias": node["from_table"]["alias"] or table.name}
        put = {"__where": where, "__bucket": _as(bucket, ""), "__time": bucket["arguments"][1]["expression"]}
        place = f"SELECT 1 ORDER BY {len(self._schema) + 1} NULLS LAST"
        by_bucket = parse(self._connection, place)["statements"][0]["node"]["modifiers"]
        whole = {
            **node,
            "modifiers": by_bucket,
            "select_list": [*node["select_list"], _as(bucket, "__bucket"), *hidden],
        }
        some = {n: self._text({**whole, "where_clause": self._grafted(_ranges(n), put)}) for n in (1, RANGES_MAX)}
        return Buckets(table, self._text(whole), self._touched(put), some, self._width(bucket), ", ".join(orders))

    # --- what it is

    def _check_shape(self) -> None:
        node = self._node
        if node["type"] != "SELECT_NODE":
            raise NotKeptError("it is no single SELECT")
        if node["cte_map"]["map"]:
            raise NotKeptError("it has a WITH")
        for part in walk(node):
            if part.get("class") in _CLASSES:
                raise NotKeptError(_CLASSES[part["class"]])
        if node["qualify"]:
            raise NotKeptError("it has a QUALIFY")
        if node["sample"]:
            raise NotKeptError("it takes a sample")
        for modifier in node["modifiers"]:
            if modifier["type"] != "ORDER_MODIFIER":
                word = "DISTINCT" if modifier["type"] == "DISTINCT_MODIFIER" else "LIMIT or OFFSET"
                raise NotKeptError(f"it has a {word}")
        if any(pa.types.is_dictionary(field.type) for field in self._schema):
            raise NotKeptError("a column of its result is an ENUM")

    def _table(self) -> TableSchema:
        source = self._node["from_table"]
        if source["type"] != "BASE_TABLE":
            raise NotKeptError("it does not read one stored table alone")
        table = STORED.get(source["table_name"].lower())
        schema = source["schema_name"].lower()
        known = source["catalog_name"].lower() in ("", CATALOG)
        if table is None or not known or schema not in ("", table.schema):
            raise NotKeptError("it does not read one stored table alone")
        if not schema and self._first_schema not in ("workspace", table.schema):
            raise NotKeptError(f"schema {self._first_schema} may have a table {table.name} of its own")
        if source["sample"]:
            raise NotKeptError("it takes a sample")
        if source["column_name_alias"] or source["at_clause"]:
            raise NotKeptError("it renames the table's columns")
        return table

    def _bucket(self, table: TableSchema) -> Any:
        """Return the call that makes the time bucket which the groups are of."""
        node, names = self._node, {column.name for column in table.columns}
        selected = node["select_list"]
        keys = node["group_expressions"]
        if node["aggregate_handling"] == "FORCE_AGGREGATES":
            keys = selected
        elif not keys:
            raise NotKeptError("it has no GROUP BY over a time bucket")
        elif [sorted(one) for one in node["group_sets"]] != [list(range(len(keys)))]:
            raise NotKeptError("it has several grouping sets")
        times = {f.name for f in table.arrow("float64") if pa.types.is_timestamp(f.type)}
        stars = any(part.get("class") == "STAR" for part in selected)
        for key in keys:
            meant = key if stars and key.get("class") == "CONSTANT" else _meant(key, selected, names)
            if self._is_bucket(meant, times):
                return meant
        raise NotKeptError("it has no GROUP BY over a time bucket")

    @staticmethod
    def _is_bucket(node: Any, times: set[str]) -> bool:
        if node.get("class") != "FUNCTION" or node["function_name"].lower() not in _BUCKETS:
            return False
        width, *rest = [one["expression"] for one in node["arguments"]]
        if not rest or any(part.get("class") in ("COLUMN_REF", "STAR") for part in walk([width, *rest[1:]])):
            return False
        return rest[0].get("class") == "COLUMN_REF" and rest[0]["column_names"][-1].lower() in times

    def _orders(self) -> tuple[list[str], list[Any]]:
        """Return the terms of the ORDER BY over columns, and the columns that have to be added for it."""
        shown = [name.lower() for name in self._schema.names]
        aliases = {one["alias"].lower() for one in self._node["select_list"] if one["alias"]}
        terms: list[str] = []
        hidden: list[Any] = []
        for order in (one for modifier in self._node["modifiers"] for one in modifier["orders"]):
            suffix = _DIRECTIONS[order["type"]] + _NULLS[order["null_order"]]
            expression = order["expression"]
            kind = expression.get("class")
            if kind == "STAR":
                terms += [f"c{i}{suffix}" for i in range(len(shown))]
            elif kind == "CONSTANT" and expression["literal"]["kind"] == "INTEGER":
                terms.append(f"c{int(expression['literal']['text']) - 1}{suffix}")
            elif kind == "COLUMN_REF" and (name := ".".join(expression["column_names"]).lower()) in shown:
                terms.append(f"c{shown.index(name)}{suffix}")
            else:
                _check_order(expression, aliases)
                terms.append(f"c{len(shown) + 1 + len(hidden)}{suffix}")
                hidden.append(_as(expression, f"__order{len(hidden)}"))
        return terms, hidden

    # --- what is asked

    def _touched(self, put: Mapping[str, Any]) -> Text:
        answer = parse(
            self._connection, "SELECT __bucket AS __bucket FROM x WHERE __where AND seq > $__after GROUP BY ALL"
        )
        node = answer["statements"][0]["node"]
        node["from_table"] = self._node["from_table"]
        return self._text(_put(node, put))

    def _width(self, bucket: Any) -> Text:
        answer = parse(self._connection, "SELECT __width AS width")
        return self._text(_put(answer["statements"][0]["node"], {"__width": bucket["arguments"][0]["expression"]}))

    def _grafted(self, condition: str, put: Mapping[str, Any]) -> Any:
        return _put(_condition(self._connection, condition), put)

    def _text(self, node: Any) -> Text:
        tree = {"error": False, "statements": [{"node": node, "named_param_map": []}]}
        sql = unparse(self._connection, tree)
        if sql is None:
            raise NotKeptError("the engine cannot write it anew")
        found = {part["identifier"] for part in walk(node) if part.get("class") == "PARAMETER"}
        return Text(sql, frozenset(name for name in found if name.startswith("u_")))


def _ranges(count: int) -> str:
    # the engine pushes down the times by themselves, and nothing of a condition that mixes them with buckets
    times = " OR ".join(f"(__time >= $__from{i} AND __time < $__until{i})" for i in range(count))
    buckets = " OR ".join(f"(__bucket BETWEEN $__first{i} AND $__last{i})" for i in range(count))
    return f"__where AND ({times}) AND ({buckets})"


def _meant(key: Any, selected: list[Any], names: set[str]) -> Any:
    """Return the expression that a key of GROUP BY stands for: a place and an alias are those of the SELECT list."""
    if key.get("class") == "CONSTANT" and key["literal"]["kind"] == "INTEGER":
        place = int(key["literal"]["text"])
        return selected[place - 1] if 0 < place <= len(selected) else key
    if key.get("class") == "COLUMN_REF" and len(key["column_names"]) == 1:
        name = key["column_names"][0].lower()
        if name not in names:  # a column comes before an alias
            return next((one for one in selected if one["alias"].lower() == name), key)
    return key


def _check_order(expression: Any, aliases: set[str]) -> None:
    for part in walk(expression):
        if part.get("class") == "COLLATE":
            raise NotKeptError("it orders by a COLLATE")
        if part.get("class") == "COLUMN_REF" and part["column_names"][-1].lower() in aliases:
            raise NotKeptError("it orders by an expression over its own columns")


def _condition(connection: duckdb.DuckDBPyConnection, text: str) -> Any:
    return parse(connection, f"SELECT 1 FROM x WHERE {text}")["statements"][0]["node"]["where_clause"]


def _put(tree: Any, put: Mapping[str, Any]) -> Any:
    """Return ``tree`` with what ``put`` has for a column of its name in that column's place."""
    if isinstance(tree, list):
        return [_put(one, put) for one in tree]
    if not isinstance(tree, dict):
        return tree
    names = tree.get("column_names") if tree.get("class") == "COLUMN_REF" else None
    if names and names[0] in put:
        return _as(put[names[0]], tree["alias"])
    return {key: _put(value, put) for key, value in tree.items()}


def _as(node: Any, alias: str) -> Any:
    return {**copy.deepcopy(node), "alias": alias}
