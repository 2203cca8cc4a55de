"""The first rows in the order of time or ``seq``: what of a query's tree asks for them.

The rule of this file: a query that asks for more than the rows of one table in an order is not read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ORDERED = ("seq", "timestamp")


@dataclass(frozen=True)
class Top:
    """ORDER BY ``column`` first, and of these at most ``rows``; ``newest`` says that it is in falling order."""

    column: str
    newest: bool
    rows: int


def read_top(node: dict[str, Any], taken: Sequence[tuple[str, str]]) -> Top | None:
    """Return what a query's ORDER BY and LIMIT ask for, None where they ask for something else.

    ``taken`` is what it takes of each row of its one table, as in ``allowed.plain_columns``.
    """
    match node["modifiers"]:
        case [
            {"type": "ORDER_MODIFIER", "orders": [{"type": order, "expression": expression}, *_]},
            {"type": "LIMIT_MODIFIER", "limit": limit, "offset": offset, "limit_type": "ROW_COUNT"},
        ] if expression.get("class") == "COLUMN_REF":
            *relations, column = (str(part).lower() for part in expression["column_names"])
            table = node["from_table"]
            called = (table["alias"] or table["table_name"]).lower()
            counted = _count(limit), 0 if offset is None else _count(offset)
            named = {own.lower() for own, name in taken if name.lower() == column}
            plain = column in _ORDERED and relations in ([], [called]) and named <= {column}
            if plain and counted[0] is not None and counted[1] is not None:
                return Top(column, order == "DESCENDING", counted[0] + counted[1])
    return None


def _count(node: Any) -> int | None:
    match node:
        case {"class": "CONSTANT", "literal": {"kind": "INTEGER", "text": text}} if text.isdigit() and len(text) < 10:
            return int(text)
    return None
