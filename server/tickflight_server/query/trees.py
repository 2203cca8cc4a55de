"""Small things about the engine's trees of statements and its names.

The rule of this file: it knows no statement and no table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

CATALOG = "tickflight"
"""The engine's name of the database that clients see."""


def quoted(*names: str) -> str:
    """Return a name as SQL writes it whatever is in it, or several as a path."""
    return ".".join('"{}"'.format(name.replace('"', '""')) for name in names)


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON tree, without recursion, so that depth is no matter."""
    pending = [tree]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)
