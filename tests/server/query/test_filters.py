"""What DuckDB pushes down is read for what it is, and what is not understood is taken for unknown."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.query.filters import (
    And,
    Compare,
    Filter,
    In,
    IsNull,
    Literal,
    Not,
    Or,
    Unknown,
    read_expression,
)

SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("timestamp", pa.timestamp("us")),
        ("seq", pa.int64()),
        ("price", pa.float64()),
        ("closed", pa.bool_()),
    ]
)
US = 1_767_225_600_000_000  # 2026-01-01


class Probe(ds.InMemoryDataset):
    def scanner(self, columns: Any = None, filter: Any = None, **kwargs: Any) -> Any:
        self.seen.append(filter)
        return super().scanner(columns=columns, filter=filter)


def pushed(where: str, parameters: list[Any] | None = None) -> Filter | None:
    """Return the filter that reaches the scan of ``SELECT * FROM t WHERE …``, None if none does."""
    probe = Probe(SCHEMA.empty_table())
    probe.seen = []
    with duckdb.connect() as connection:
        connection.register("t", probe)
        connection.sql(f"SELECT * FROM t WHERE {where}", params=parameters).to_arrow_table()
    (seen,) = probe.seen
    return None if seen is None else read_expression(seen)


def has_unknown(node: Filter) -> bool:
    match node:
        case And(left, right) | Or(left, right):
            return has_unknown(left) or has_unknown(right)
        case Not(operand):
            return has_unknown(operand)
    return isinstance(node, Unknown)


ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def evaluate(node: Filter, row: Mapping[str, Any]) -> bool | None:
    """Return what ``node`` says of a row, in SQL's three values."""
    match node:
        case And(left, right):
            both = evaluate(left, row), evaluate(right, row)
            return False if False in both else None if None in both else True
        case Or(left, right):
            both = evaluate(left, row), evaluate(right, row)
            return True if True in both else None if None in both else False
        case Not(operand):
            value = evaluate(operand, row)
            return None if value is None else not value
        case Literal(value):
            return value
        case IsNull(column):
            return row[column] is None
        case In(column, values):
            return row[column] in values
        case Compare(op, column, value):
            return None if row[column] is None else ORDERS[op](row[column], value)
    raise AssertionError(node)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("symbol = 'BTC-USDT'", Compare("=", "symbol", "BTC-USDT")),
        ("'BTC-USDT' = symbol", Compare("=", "symbol", "BTC-USDT")),
        ("seq < 5", Compare("<", "seq", 5)),
        ("timestamp >= TIMESTAMP '2026-01-01'", Compare(">=", "timestamp", US)),
        ("timestamp > DATE '2026-01-01'", Compare(">", "timestamp", US)),
        ("timestamp > TIMESTAMP '2026-01-01' + INTERVAL 1 SECOND", Compare(">", "timestamp", US + 1_000_000)),
        ("seq = 3::TINYINT", Compare("=", "seq", 3)),
        ("symbol = 'it''s'", Compare("=", "symbol", "it's")),
        ("symbol = 'a \"quoted\" one'", Compare("=", "symbol", 'a "quoted" one')),
        ("symbol = 'line\nfeed'", Compare("=", "symbol", "line\nfeed")),
        ("symbol = 'end: ''call'''", Compare("=", "symbol", "end: 'call'")),
        ("symbol = '比特币-€'", Compare("=", "symbol", "比特币-€")),
        ("symbol = ''", Compare("=", "symbol", "")),
    ],
)
def test_comparison_is_read_with_its_constant(where: str, expected: Filter) -> None:
    found = pushed(where)
    assert found == expected or (isinstance(found, And) and found.left == expected)


@pytest.mark.parametrize(
    "where",
    [
        "symbol != 'A'",
        "NOT symbol = 'A'",
        "symbol IN ('A', 'B', 'C')",
        f"symbol IN ({', '.join(repr(f'S{i}') for i in range(100))})",
        "symbol NOT IN ('A', 'B', 'C')",
        "seq IN (1, 2, 3)",
        f"seq IN ({', '.join(map(str, range(0, 200, 2)))})",
        "seq BETWEEN 3 AND 7",
        "timestamp BETWEEN '2026-01-01' AND '2026-01-02'",
        "symbol = 'A' OR symbol = 'B'",
        "symbol = 'A' OR seq > 5",
        "(symbol = 'A' AND seq > 5) OR (symbol = 'B' AND seq < 5)",
        "symbol IS NULL",
        "symbol IS NOT NULL",
        "symbol >= 'A' AND symbol < 'B'",
        "symbol LIKE 'BTC%'",
        "starts_with(symbol, 'BTC')",
        "timestamp::DATE = DATE '2026-01-01'",
    ],
)
def test_nothing_of_a_pushed_filter_is_unknown(where: str) -> None:
    found = pushed(where)
    assert found is None or not has_unknown(found), found


def test_in_keeps_all_its_values() -> None:
    names = [f"S{i}" for i in range(100)]
    found = pushed(f"symbol IN ({', '.join(map(repr, names))})")
    assert found is not None
    for name in names:
        assert evaluate(found, {"symbol": name}) is True
    assert not evaluate(found, {"symbol": "other"})


@pytest.mark.parametrize("value", ["BTC", 5, 2**62, 1.5, True, datetime(2026, 1, 1)])
def test_bound_parameter_arrives_as_a_constant(value: Any) -> None:
    column = {str: "symbol", int: "seq", float: "price", bool: "closed", datetime: "timestamp"}[type(value)]
    found = pushed(f"{column} = ?", [value])
    constant = US if isinstance(value, datetime) else value
    assert found is not None
    assert evaluate(found, {column: constant}) is True


@pytest.mark.parametrize(
    "expression",
    [
        pc.match_like(pc.field("symbol"), "A%"),
        pc.field("symbol") == pc.field("price"),
        pc.field("a", "b") == 1,
        pc.field("symbol"),
        pc.field("timestamp") > pa.scalar(US, pa.timestamp("us", "UTC")),
        pc.field("timestamp") > pa.scalar(1_500, pa.timestamp("ns")),
        pc.field("price") == pa.scalar(b"x"),
        pc.field("symbol").isin(pa.array([b"x", b"y"])),
    ],
)
def test_what_is_not_understood_is_unknown(expression: pc.Expression) -> None:
    assert read_expression(expression) == Unknown()


def test_what_is_understood_beside_the_unknown_is_kept() -> None:
    found = read_expression((pc.field("symbol") == "A") & pc.match_like(pc.field("symbol"), "A%"))
    assert found == And(Compare("=", "symbol", "A"), Unknown())


def test_very_deep_expression_is_unknown() -> None:
    expression = pc.field("seq") == 0
    for i in range(2_000):
        expression = expression | (pc.field("seq") == i)
    assert isinstance(read_expression(expression), Unknown | Or)


texts = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=6)
leaves = st.one_of(
    st.builds(lambda op, v: op(pc.field("symbol"), v), st.sampled_from(list(ORDERS.values())), texts),
    st.builds(lambda op, v: op(pc.field("seq"), v), st.sampled_from(list(ORDERS.values())), st.integers(-5, 5)),
    st.builds(lambda vs: pc.field("symbol").isin(vs), st.lists(texts, min_size=1, max_size=4)),
    st.builds(lambda vs: pc.field("seq").isin(vs), st.lists(st.integers(-5, 5), min_size=1, max_size=4)),
    st.sampled_from([pc.field("symbol").is_null(), pc.field("seq").is_valid(), pc.scalar(True), pc.scalar(False)]),
)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(operator.and_, inner, inner), st.builds(operator.or_, inner, inner), st.builds(operator.invert, inner)
    ),
    max_leaves=8,
)


@given(expressions, st.lists(st.tuples(st.none() | texts, st.none() | st.integers(-5, 5)), min_size=1, max_size=8))
def test_reading_agrees_with_arrow_on_every_row(expression: Any, rows: list[tuple[str | None, int | None]]) -> None:
    table = pa.table(
        {"symbol": pa.array([r[0] for r in rows], pa.string()), "seq": pa.array([r[1] for r in rows], pa.int64())}
    )
    kept = table.append_column("n", pa.array(range(len(rows)))).filter(expression)["n"].to_pylist()
    node = read_expression(expression)
    assert not has_unknown(node)
    assert kept == [i for i, row in enumerate(table.to_pylist()) if evaluate(node, row) is True]
