"""Functions that make much of little, kept small: the engine's memory limit does not count single values.

The rule of this file: a function's arguments are taken once, and nothing is made before its size was looked at. What a
call makes for one row is at most ``query.value_mb_max``. All is in the engine's own words: a function of Python's could
count together what is made for many rows, but waits for Python's lock, which who gives a result up holds meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tickflight_server.config import MIB, QuerySettings
from tickflight_server.errors import PermissionDeniedError
from tickflight_server.query.trees import CATALOG

LIMIT = "query.value_mb_max"
REFUSED = f"resource exhausted ({LIMIT}): "
"""How the engine's error begins where a value would be too large."""
FORMATS: Mapping[str, re.Pattern[str]] = {
    # what is a field with a width, and one whose width is a value
    "printf": re.compile(r"%%|%(?P<field>[^a-zA-Z%]*)"),
    "format": re.compile(r"\{\{|\{(?P<field>[^}]*)"),
}
"""Functions whose first argument tells how long their text is."""
_WIDTHS_MAX = 10_000  # of all fields of a text together


@dataclass(frozen=True)
class Capped:
    """A function of the engine: what it takes, in each of its forms, and the bytes that it then makes."""

    name: str
    forms: tuple[tuple[str, str], ...]
    alike: bool = False
    """Whether the first two arguments are of one type: what is written as text becomes what the other one is."""

    def create(self, most_mb: int) -> str:
        """Return the statement that makes what is called in its place."""
        forms = (self._form(taken.split(), size, most_mb) for taken, size in self.forms)
        return f"CREATE OR REPLACE MACRO {CATALOG}.market.{self.name}" + ", ".join(forms)

    def _form(self, taken: list[str], size: str, most_mb: int) -> str:
        alike = f"[{', '.join(taken[:2])}]" if self.alike and len(taken) > 1 else ""
        given = ", ".join(
            f"'{name}': {f'{alike}[{place}]' if alike and place < 3 else name}" for place, name in enumerate(taken, 1)
        )
        passed = ", ".join(f"__v.{name}" for name in taken)
        size = re.sub(r"\$(\w+)", r"__v.\1", size)
        # a lambda takes each argument once, and the engine works nothing out in it before it is called; with error()
        # it would make what is of constants again for each row
        return (
            f"({', '.join(taken)}) AS list_transform([{{{given}}}], lambda __v: "
            f"CASE WHEN coalesce({size}, 0) <= {most_mb * MIB} THEN system.main.{self.name}({passed}) "
            f"WHEN '{REFUSED}{self.name}() would make a value of more than {most_mb:,} MB.'::BOOLEAN THEN NULL END)[1]"
        )


def _long(value: str) -> str:
    """Return how long a value is at most, of any type: as text, and that is short for a list."""
    return f"(strlen({value}::VARCHAR)::DOUBLE * if(typeof({value}) IN ('VARCHAR', 'BLOB'), 1, 8))"


def _as(kind: str) -> tuple[str, str, str]:
    """Return the three arguments of a series as values of one kind, NULL if they are of another."""
    first, last = (f"TRY_CAST(${name}::VARCHAR AS {kind})" for name in "ab")
    return first, last, "TRY_CAST($c::VARCHAR AS {})".format("INTERVAL" if kind == "TIMESTAMP" else kind)


_NUMBERS = "({1} - {0}) / nullif({2}, 0)".format(*_as("DOUBLE"))
_TIMES = "(epoch({1}) - epoch({0})) / nullif(epoch({2}), 0)".format(*_as("TIMESTAMP"))
_RESIZED = (("l n", "$n::DOUBLE * 16"), ("l n v", f"$n::DOUBLE * (16 + coalesce({_long('$v')}, 0))"))
_PADDED = (("s n c", "$n::DOUBLE * 4"),)  # a character has at most 4 bytes
_SERIES = (
    ("a", "$a::DOUBLE * 8"),
    ("a b", "($b::DOUBLE - $a::DOUBLE) * 8"),
    ("a b c", f"8 * coalesce({_NUMBERS}, {_TIMES})"),
)
CAPPED: Mapping[str, Capped] = {
    capped.name: capped
    for capped in (
        Capped("repeat", (("s n", f"{_long('$s')} * $n"),)),
        Capped("lpad", _PADDED),
        Capped("rpad", _PADDED),
        Capped("list_resize", _RESIZED),
        Capped("array_resize", _RESIZED),
        Capped("range", _SERIES, alike=True),
        Capped("generate_series", _SERIES, alike=True),
        Capped("bitstring", (("s n", "$n::DOUBLE / 8"),)),
    )
}
"""Functions in whose place a macro is called that looks at the size first."""


def macros(settings: QuerySettings) -> list[str]:
    """Return the statements that put the macros into schema ``market``."""
    return [capped.create(settings.value_mb_max) for capped in CAPPED.values()]


def check_call(node: Mapping[str, Any]) -> None:
    """Refuse a call of a function that makes much of little where its size would not be looked at.

    Raises:
        PermissionDeniedError: it names the engine's own, or the text of ``printf`` or ``format`` is none of the
            statement, or has wide fields.
    """
    name = str(node["function_name"]).lower()
    if name in CAPPED:
        schema = str(node.get("schema") or "").lower()
        if schema not in ("", "market"):
            raise PermissionDeniedError(f"{schema[:100]}.{name}() is not offered here.", hint=f"Call {name}().")
    elif name in FORMATS:
        _check_format(name, node)


def _check_format(name: str, node: Mapping[str, Any]) -> None:
    arguments = node["arguments"]
    if not arguments:
        return  # the engine says what is missing
    first = arguments[0]["expression"]
    if first.get("class") != "CONSTANT":
        raise PermissionDeniedError(
            f"the text of {name}() has to be written in the statement.", hint="Or join the parts with ||."
        )
    text = str(first["literal"]["text"])
    fields = [match["field"] for match in FORMATS[name].finditer(text) if match["field"]]
    if any("*" in field or "{" in field for field in fields):
        raise PermissionDeniedError(f"{name}() with the width as a value is not offered here.", hint="Use lpad().")
    wide = sum(int(number[:12]) for field in fields for number in re.findall(r"\d+", field))
    if wide > _WIDTHS_MAX:
        raise PermissionDeniedError(
            f"the fields of {name}() are {wide:,} wide together, {_WIDTHS_MAX:,} is the most.", hint="Use lpad()."
        )
