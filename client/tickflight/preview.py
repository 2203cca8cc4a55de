"""How a result looks in a notebook and at a prompt: its first rows, as text or HTML.

The rule of this file: it draws what it is given and reads nothing; what comes out is bounded in rows, columns and
characters, whatever the values are, and no value can act as HTML or move a terminal's cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import pyarrow as pa

ROWS_SHOWN = 10
COLUMNS_SHOWN = 24  # of HTML, which scrolls
WIDTH_CHARS = 120  # of text, which does not
CELL_CHARS = 32
_ITEMS_READ = 16  # of a list: more would not fit into a cell

_Cells = list[str]


@dataclass(frozen=True)
class Preview:
    """The first rows of a result.

    ``table`` has at most ``ROWS_SHOWN`` rows. ``rows`` is how many there are in all, None if nobody knows yet; ``note``
    is what else there is to say, such as an error.
    """

    table: pa.Table
    rows: int | None
    note: str = ""

    def text(self) -> str:
        """Return a table of at most ``WIDTH_CHARS`` characters a line: names, types, rows."""
        columns = [_column(self.table, i) for i in range(self.table.num_columns)]
        widths = [max(map(len, cells)) for cells, _ in columns]
        chosen = _fitting(widths)
        lines = []
        for line in range(2 + self.table.num_rows):
            cells = []
            for i in chosen:
                text, right = ("…", False) if i is None else (columns[i][0][line], columns[i][1])
                width = 1 if i is None else widths[i]
                cells.append(text.rjust(width) if right else text.ljust(width))
            lines.append("  ".join(cells).rstrip())
        lines.insert(2, "  ".join("-" * (1 if i is None else widths[i]) for i in chosen))
        return "\n".join([*lines, self.caption()] if columns else [self.caption()])

    def html(self) -> str:
        """Return the same as an HTML table; every name and value is escaped."""
        chosen = _middle_out(self.table.num_columns, COLUMNS_SHOWN)
        columns = [(["…"] * (2 + self.table.num_rows), False) if i is None else _column(self.table, i) for i in chosen]
        head = "".join(f"<th>{escape(cells[0])}</th>" for cells, _ in columns)
        types = "".join(f"<td><small>{escape(cells[1])}</small></td>" for cells, _ in columns)
        rows = []
        for line in range(2, 2 + self.table.num_rows):
            cells = (f'<td style="text-align: {_side(right)}">{escape(text[line])}</td>' for text, right in columns)
            rows.append(f"<tr>{''.join(cells)}</tr>")
        table = f"<table><thead><tr>{head}</tr><tr>{types}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        return f"<div>{table if columns else ''}<small>{escape(self.caption())}</small></div>"

    def caption(self) -> str:
        """Return the line below: how many rows there are, as far as it is known."""
        shown, columns = self.table.num_rows, _count(self.table.num_columns, "column")
        if self.rows is not None:
            first = f" (the first {shown} are shown)" if self.rows > shown else ""
            said = f"{_count(self.rows, 'row')}{first}, {columns}"
        else:
            said = f"the first {_count(shown, 'row')}, {columns}" if shown else columns
        return f"{said}; {printable(self.note)}" if self.note else said


def cut(text: str, most: int) -> str:
    """Return ``text`` in at most ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _side(right: bool) -> str:
    return "right" if right else "left"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _column(table: pa.Table, index: int) -> tuple[_Cells, bool]:
    """Return a column's name, type and values as texts, and whether they stand on the right."""
    field = table.schema.field(index)
    numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
    heads = [cut(printable(field.name), CELL_CHARS), cut(str(field.type), CELL_CHARS)]
    return [*heads, *(_cell(scalar) for scalar in table.column(index))], numeric


def _cell(scalar: pa.Scalar) -> str:
    """Return a value as text; of a list only as much is read as can be seen."""
    if not scalar.is_valid:
        return "null"
    kind = scalar.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = [_cell(item) for item in scalar.values.slice(0, _ITEMS_READ)]
        more = ", …" if len(scalar.values) > _ITEMS_READ else ""
        return cut(f"[{', '.join(inner)}{more}]", CELL_CHARS)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return cut(str(scalar.as_buffer()[:CELL_CHARS].to_pybytes()), CELL_CHARS)
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError, ImportError, pa.ArrowException):
        # what Python's own types cannot hold, such as nanoseconds or a year of five digits
        return cut(str(scalar.value) if hasattr(scalar, "value") else f"<{kind}>", CELL_CHARS)
    return cut(printable(value[: CELL_CHARS + 1] if isinstance(value, str) else str(value)), CELL_CHARS)


def printable(text: str) -> str:
    """Return ``text`` with what a terminal would obey written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _fitting(widths: Sequence[int]) -> list[int | None]:
    """Return the columns that fit into a line; None stands for those left out of the middle."""
    for most in range(len(widths), 0, -1):
        chosen = _middle_out(len(widths), most)
        if sum(1 if i is None else widths[i] for i in chosen) + 2 * (len(chosen) - 1) <= WIDTH_CHARS:
            return chosen
    return []


def _middle_out(count: int, most: int) -> list[int | None]:
    """Return ``most`` of ``count`` columns, from both ends, with None for the others between them."""
    if count <= most:
        return list(range(count))
    return [*range((most + 1) // 2), None, *range(count - most // 2, count)]
