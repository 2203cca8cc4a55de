"""A query that hit a limit is told which condition on which table would have left how much, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flight_here import START_US
from sql_here import SqlHere

from tickflight_server.errors import ResourceExhaustedError
from tickflight_server.query.engine import Engine
from tickflight_server.query.filters import And, Compare, Filter, In, IsNull, Literal, Not, Or, Unknown
from tickflight_server.query.narrowing import has_condition, opened_tables, what_to_narrow
from tickflight_server.store import Store

DAY_US = 86_400_000_000
START_DAY_US = START_US // DAY_US * DAY_US
SYMBOLS = {"BTC-USDT": 2500, "ETH-USDT": 1500, "SOL-USDT": 500}


@pytest.fixture(params=["memory", "parts"])
def filled(
    request: pytest.FixtureRequest, store: Store, make_trades: Callable[..., Any], release: Callable[[], None]
) -> Store:
    for day in range(2):
        for symbol, rows in SYMBOLS.items():
            batch = make_trades(rows, symbol, start_us=START_DAY_US + day * DAY_US)
            store.append("trades", batch).result()
    store.append("trades", make_trades(100, exchange="OKX", start_us=START_DAY_US)).result()
    if request.param == "parts":
        release()
    return store


def test_hint_says_what_each_missing_condition_would_have_left(filled: Store, engine: Engine) -> None:
    hint = what_to_narrow(engine.plan("SELECT * FROM trades ORDER BY price"), engine.store)
    assert hint.startswith("market.trades is read with 9,100 rows in ")
    assert "without a condition on exchange, symbol and timestamp: " in hint
    assert "one of its 2 exchanges has at most 9,000 rows" in hint
    assert "one of its 3 symbols has at most 5,100 rows" in hint
    assert "one of its 2 days has at most 4,600 rows" in hint


def test_condition_that_is_there_is_not_asked_for(filled: Store, engine: Engine) -> None:
    sql = "SELECT * FROM trades WHERE symbol IN ('BTC-USDT', 'ETH-USDT') AND exchange = 'BINANCE'"
    hint = what_to_narrow(engine.plan(sql), engine.store)
    assert "without a condition on timestamp: " in hint
    assert "symbols" not in hint


def test_with_all_conditions_the_time_is_what_is_left(filled: Store, engine: Engine) -> None:
    sql = (
        "SELECT * FROM trades WHERE symbol = 'BTC-USDT' AND exchange = 'BINANCE' AND timestamp > TIMESTAMP '2000-01-01'"
    )
    hint = what_to_narrow(engine.plan(sql), engine.store)
    assert "without a condition" not in hint
    assert "from 2026-09-21 00:00 to 2026-09-22 00:41: one of its 2 days has at most 2,500 rows" in hint


def test_rows_after_the_cut_are_not_told(filled: Store, engine: Engine) -> None:
    (seen,) = opened_tables(engine.plan("SELECT * FROM trades"), filled, {"trades": 2500})
    assert seen.rows == 2500


def test_statement_without_a_stored_table_is_asked_for_less(engine: Engine, store: Store) -> None:
    assert (
        what_to_narrow(engine.plan("SELECT * FROM range(10)"), engine.store) == "Ask for fewer rows, columns or groups."
    )


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Compare("=", "symbol", "A"), True),
        (Compare("!=", "symbol", "A"), False),
        (Not(Compare("!=", "symbol", "A")), True),
        (Not(In("symbol", frozenset("A"))), False),
        (In("symbol", frozenset("A")), True),
        (IsNull("symbol"), True),
        (And(Unknown(), Compare(">", "symbol", "A")), True),
        (Or(Unknown(), Compare("=", "symbol", "A")), False),
        (Or(Compare("=", "symbol", "B"), Compare("=", "symbol", "A")), True),
        (Compare("=", "exchange", "A"), False),
        (Literal(False), True),
        (Literal(True), False),
        (Unknown(), False),
        (None, False),
    ],
)
def test_condition_is_one_that_leaves_values_out(node: Filter | None, expected: bool) -> None:
    assert has_condition(node, "symbol") is expected


@pytest.mark.parametrize(
    ("sql", "write"),
    [
        ("SELECT list(t ORDER BY price) FROM trades t, range(400) GROUP BY seq % 3", False),
        ("CREATE TABLE workspace.much AS SELECT list(t ORDER BY price) FROM trades t, range(400) GROUP BY ALL", True),
    ],
)
def test_query_out_of_memory_names_the_limit_and_what_to_narrow(
    filled: Store, make_engine: Callable[..., Engine], sql: str, write: bool
) -> None:
    here = SqlHere(make_engine(memory_mb=64))
    before = filled.metrics.read().get("queries_out_of_memory", 0)
    with pytest.raises(ResourceExhaustedError) as raised:
        (here.write if write else here.rows)(sql)
    assert raised.value.limit == "query.memory_mb"
    assert raised.value.hint is not None
    assert "market.trades is read with 9,100 rows" in raised.value.hint
    assert raised.value.hint.endswith("The operator may raise query.memory_mb.")
    assert filled.metrics.read()["queries_out_of_memory"] == before + 1
