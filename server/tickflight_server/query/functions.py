"""What ``system.functions`` tells: the server's own table functions and its macros, in one list.

The rule of this file: it is made of the literals that make the functions.
"""

from __future__ import annotations

from tickflight_server.query.macros import MARKET_MACROS, Macro
from tickflight_server.query.own_functions import OWN_FUNCTIONS, OwnFunction


def _row(function: OwnFunction | Macro) -> dict[str, str]:
    kind = function.kind if isinstance(function, Macro) else "table"
    described = {"description": function.description, "example": function.example}
    return {"name": function.name, "kind": kind, "signature": function.signature, **described}


_ALL: tuple[OwnFunction | Macro, ...] = (*OWN_FUNCTIONS.values(), *MARKET_MACROS.values())
FUNCTIONS = sorted(map(_row, _ALL), key=lambda row: (row["kind"], row["name"]))
"""A row of ``system.functions`` for each."""
