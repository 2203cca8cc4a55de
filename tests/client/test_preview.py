"""A preview is small whatever the rows are, and nothing in it acts as HTML or on a terminal."""

from __future__ import annotations

import decimal
import re
from datetime import datetime

import pyarrow as pa
import pytest

from tickflight.preview import CELL_CHARS, COLUMNS_SHOWN, WIDTH_CHARS, Preview


def one(value: object, kind: pa.DataType | None = None) -> str:
    """Return how one value looks."""
    table = pa.table({"x": pa.array([value], kind)})
    return Preview(table, 1).text().splitlines()[3].strip()


def test_text_is_names_types_rows_and_their_number() -> None:
    table = pa.table({"symbol": ["BTC-USDT", None], "price": [65000.5, 1.0]})
    assert Preview(table, 2000).text().splitlines() == [
        "symbol      price",
        "string     double",
        "--------  -------",
        "BTC-USDT  65000.5",
        "null          1.0",
        "2,000 rows (the first 2 are shown), 2 columns",
    ]


def test_number_of_rows_is_told_only_if_it_is_known() -> None:
    table = pa.table({"x": [1]})
    assert Preview(table, 1).caption() == "1 row, 1 column"
    assert Preview(table, None, "more follow").caption() == "the first 1 row, 1 column; more follow"
    assert Preview(table.slice(0, 0), 0).caption() == "0 rows, 1 column"
    assert Preview(table.slice(0, 0), None, "closed").caption() == "1 column; closed"


def test_table_without_columns_has_a_caption_alone() -> None:
    empty = pa.schema([]).empty_table()
    assert Preview(empty, 0).text() == "0 rows, 0 columns"
    assert Preview(empty, 0).html() == "<div><small>0 rows, 0 columns</small></div>"


def test_line_is_never_wider_than_its_limit_and_shows_both_ends() -> None:
    table = pa.table({f"column{i}": ["x" * (i % 40)] for i in range(50)})
    lines = Preview(table, 1).text().splitlines()
    assert max(map(len, lines)) <= WIDTH_CHARS
    assert lines[0].startswith("column0  column1 ")
    assert lines[0].endswith("column49")
    assert "  …  " in lines[0]


def test_html_has_a_bounded_number_of_columns() -> None:
    html = Preview(pa.table({f"column{i}": [i] for i in range(500)}), 1).html()
    assert html.count("<th>") == COLUMNS_SHOWN + 1
    assert "column499" in html


@pytest.mark.parametrize(
    "value", ["y" * 10_000, ["z" * 10_000] * 10_000, {"a": "w" * 10_000}, b"\x00" * 10_000, [[1.5] * 9999] * 99]
)
def test_wide_values_are_cut(value: object) -> None:
    assert len(one(value)) <= CELL_CHARS
    assert one(value).endswith(("…", "'"))


def test_html_is_escaped_in_names_values_types_and_notes() -> None:
    evil = "<script>alert('x')</script>"
    table = pa.table([pa.array([evil]), pa.array([{evil: 1}])], names=[evil, "s"])
    html = Preview(table, None, evil).html()
    assert set(re.findall(r"<(\w+)", html)) == {"div", "table", "thead", "tbody", "tr", "th", "td", "small"}
    assert "&lt;script&gt;" in html


def test_nothing_moves_the_terminals_cursor() -> None:
    table = pa.table({"a\x1b[2J": ["b\n\r\x1b]0;title\x07", "é"], "c": [["\x1b"], []]})
    text = Preview(table, 2, "\x1b[31m").text()
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 6
    assert "é" in text


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, pa.float64(), "null"),
        (float("nan"), None, "nan"),
        ("", None, ""),
        (decimal.Decimal("1.50"), None, "1.50"),
        ([1.5, None], None, "[1.5, null]"),
        (datetime(2026, 1, 2, 3, 4, 5, 6), None, "2026-01-02 03:04:05.000006"),
        (2**62, pa.timestamp("us"), str(2**62)),
        ("a", pa.dictionary(pa.int32(), pa.string()), "a"),
    ],
)
def test_value_reads_as_it_is(value: object, kind: pa.DataType | None, expected: str) -> None:
    assert one(value, kind) == expected


def test_two_columns_may_have_one_name() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    assert Preview(table, 1).text().splitlines()[0] == "    x      x"
