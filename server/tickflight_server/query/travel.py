"""Time travel: ``FROM trades AT (VERSION => 3)``, which the engine parses and its views do not know.

The rule of this file: the engine's parser alone says what a reference asks for, and what is no plain value is refused.
Views are put in the place of such references by ``rewriting``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tickflight_server.errors import StatementError, UnsupportedError
from tickflight_server.query.values import microseconds, plain
from tickflight_server.schemas import STORED

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
        found = _version(value) if self.unit == "VERSION" else microseconds(value)
        if found is None:
            what = "number of a version" if self.unit == "VERSION" else "time"
            raise StatementError(f"AT ({self.unit} => {str(value)[:100]}) has no {what}.", hint=_UNITS[self.unit])
        return found


def read_reference(node: Mapping[str, Any], catalog: str) -> Travel:
    """Return what a table reference with an AT clause asks for.

    Raises:
        UnsupportedError: the table has no versions, or the clause is no plain value.
    """
    name, schema = str(node["table_name"]).lower(), str(node.get("schema_name", "")).lower()
    stored = STORED.get(name)
    known = stored is not None and schema in ("", stored.schema)
    if not known or str(node.get("catalog_name", "")).lower() not in ("", catalog):
        raise no_versions(f"{schema}.{name}" if schema else name)
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


def no_versions(name: str) -> UnsupportedError:
    """Return the error for a table that is not stored, or not to be seen."""
    return UnsupportedError(
        f"{name} has no versions: it is no stored table.", hint="Tables with versions are those of system.tables."
    )


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
