"""What is read of a WHERE without the engine: what the engine finds by a run, and the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from flight_here import START_US

from tickflight_server.errors import StatementError
from tickflight_server.query.conditions import Check, Since
from tickflight_server.query.engine import Engine
from tickflight_server.query.filters import And, Compare
from tickflight_server.query.session import Options
from tickflight_server.query.statement import Statement
from tickflight_server.query.values import TypedValue
from tickflight_server.store import Store

MINUTE_US = 60_000_000
SYMBOLS = ("BTC-USDT", "ETH-USDT")
MINUTE_AGO = Check("timestamp", ">", (Since(-MINUTE_US),))


@pytest.fixture
def filled(store: Store, make_trades: Callable[..., Any], release: Callable[[], None]) -> Store:
    """Parts of two symbols from the first minute, segments of both from the 59th and 60th."""
    for minute in (0, 58, 59):
        for number, symbol in enumerate(SYMBOLS):
            start_us = START_US + minute * MINUTE_US + 17 * number
            exchange = ("BINANCE", "OKX")[minute % 2]
            store.append("trades", make_trades(20, symbol, start_us=start_us, exchange=exchange)).result()
        if minute == 0:
            release()
    return store


def _where(engine: Engine, sql: str) -> Any:
    statement = engine.read(sql)
    assert isinstance(statement, Statement)
    return statement.where


@pytest.mark.parametrize(
    ("sql", "test"),
    [
        ("symbol = 'a'", Check("symbol", "=", ("a",))),
        ("'a' = t.Symbol", Check("symbol", "=", ("a",))),
        ("5 > seq", Check("seq", "<", (5,))),
        ("exchange IN ('a', 'b')", Check("exchange", "in", ("a", "b"))),
        ("timestamp > now() - INTERVAL 1 MINUTE", MINUTE_AGO),
        ("timestamp > now() - INTERVAL '60 seconds'", MINUTE_AGO),
        ("timestamp > now() - to_minutes(1)", MINUTE_AGO),
        ("timestamp < now() + INTERVAL 2 HOURS", Check("timestamp", "<", (Since(120 * MINUTE_US),))),
        ("timestamp = '1970-01-01 00:00:01.5'", Check("timestamp", "=", (1_500_000,))),
        ("timestamp >= DATE '1970-01-02'", Check("timestamp", ">=", (86_400_000_000,))),
        ("timestamp >= '1970-01-01T00:00:00'::TIMESTAMP", Check("timestamp", ">=", (0,))),
    ],
)
def test_condition_is_read(engine: Engine, sql: str, test: Check) -> None:
    where = _where(engine, f"SELECT * FROM trades t WHERE {sql}")
    assert (where.tests, where.exact) == ((test,), True)


@pytest.mark.parametrize(
    "sql",
    [
        "symbol = 'a' OR seq = 5",
        "NOT symbol = 'a'",
        "symbol = 5",
        "symbol LIKE 'B%'",
        "symbol = upper('a')",
        "symbol IN ('a', NULL)",
        "seq = 1.5",
        "seq = '5'",
        "seq = 12345678901234567890",
        "timestamp > '2026-02-30'",
        "timestamp > '2026-9-21'",
        "timestamp > '2026-09-21 00:00:00+02'",
        "timestamp > TIMESTAMPTZ '2026-09-21'",
        "timestamp > '2026-09-21 10:00:00'::DATE",
        "timestamp > now() - INTERVAL 1 MONTH",
        "timestamp > now() - INTERVAL '1 minute 5 seconds'",
        "timestamp > now() + INTERVAL 200000 DAYS",
        "timestamp > now() - INTERVAL '\u0663 days'",
        "timestamp > '2\u0660\u0662\u0666-01-01'",
        "timestamp > now() - INTERVAL (price) SECOND",
        "timestamp::DATE = '2026-09-21'",
        "price = ?",
        "price > 'a'",
        "seq = (SELECT 5)",
        "symbol = 'a' AND random() > 0.5",
    ],
)
def test_what_is_not_understood_is_the_engines(engine: Engine, sql: str) -> None:
    assert _where(engine, f"SELECT * FROM trades WHERE {sql}") is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM trades a JOIN trades b USING (seq) WHERE a.symbol = 'a'",
        "SELECT (SELECT max(seq) FROM trades) FROM trades WHERE symbol = 'a'",
        "WITH t AS (SELECT * FROM trades) SELECT * FROM t WHERE symbol = 'a'",
        "SELECT symbol FROM trades GROUP BY symbol HAVING symbol = 'a'",
        "SELECT * FROM trades AS t(a, b) WHERE a = 'a'",
        "SELECT * FROM trades TABLESAMPLE 10 PERCENT WHERE symbol = 'a'",
        "SELECT ? + seq FROM trades WHERE symbol = 'a'",
        "EXPLAIN SELECT * FROM trades WHERE symbol = 'a'",
        "SELECT count(*) FROM trades",
    ],
)
def test_other_queries_are_the_engines(engine: Engine, sql: str) -> None:
    assert _where(engine, sql) is None


def test_columns_are_those_that_are_named(engine: Engine) -> None:
    sql = "SELECT t.price, count(*) FROM trades t WHERE symbol = 'a' AND amount > 1 GROUP BY ALL"
    assert _where(engine, sql).columns == {"price", "symbol", "amount"}
    assert _where(engine, "SELECT t FROM trades t WHERE symbol = 'a'").columns is None
    assert _where(engine, "SELECT market.trades, price FROM trades WHERE symbol = 'a'").columns is None
    assert _where(engine, "SELECT *, 1 FROM trades WHERE symbol = 'a'").columns is None
    assert _where(engine, "SELECT #3, price FROM trades WHERE symbol = 'a'").columns is None


def test_bound_values_are_filters_if_they_have_the_columns_types(engine: Engine) -> None:
    where = _where(engine, "SELECT * FROM trades WHERE timestamp >= $from AND symbol = $name AND seq < $seq")
    moment = datetime(1970, 1, 1, 1, tzinfo=UTC)
    filters = where.filters({"name": "a", "FROM": moment, "seq": TypedValue(7, "BIGINT")}, 0)
    times, named, seq = Compare(">=", "timestamp", 3_600_000_000), Compare("=", "symbol", "a"), Compare("<", "seq", 7)
    assert filters == And(And(times, seq), named)
    for wrong in ({"name": None}, {"seq": 7.0}, {"seq": True}, {"from": datetime.max}, {"from": "1970-01-01"}):
        with pytest.raises(ValueError):
            where.filters({"name": "a", "from": moment, "seq": 7, **wrong}, 0)


@pytest.mark.parametrize("sql", ["SELECT seq FROM trades", "SELECT seq FROM trades WHERE symbol = 'a'"])
def test_a_value_that_nobody_asked_for_is_refused_as_the_engine_refuses_it(engine: Engine, sql: str) -> None:
    for _ in range(2):
        assert engine.plan(sql).schema.names == ["seq"]
        with pytest.raises(StatementError, match="count mismatch"):
            engine.plan(sql, (5,))
        with pytest.raises(StatementError, match="excess parameters"):
            engine.plan("SELECT seq FROM trades WHERE symbol = ?", ("a", 5))
        with pytest.raises(StatementError, match="not provided"):
            engine.plan("SELECT seq FROM trades WHERE symbol = ?")


def _conditions(chance: random.Random) -> Iterator[str]:
    seconds = chance.randint(0, 3600)
    instant = datetime.fromtimestamp(START_US / 1e6 + seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    op = chance.choice(["=", "<", "<=", ">", ">=", "!="])
    yield f"symbol {op} '{chance.choice(SYMBOLS)}'"
    yield f"exchange IN ('{chance.choice(['OKX', 'nix'])}', 'KRAKEN')"
    yield f"timestamp {op} '{instant}'"
    yield f"'{instant}'::TIMESTAMP {op} receipt_timestamp"
    yield f"timestamp BETWEEN '{instant}' AND now() - INTERVAL {chance.randint(0, 90)} SECOND"
    yield f"timestamp > now() - INTERVAL {chance.randint(1, 120)} SECOND"
    yield f"seq {op} {chance.randint(-1, 130)}"
    yield f"seq IN ({chance.randint(0, 130)}, {chance.randint(0, 130)})"
    yield f"price {op} {chance.randint(0, 20)}"
    yield "side = 'buy'"
    yield "id IS NULL"


def test_rows_are_those_of_the_engines_own_plan(filled: Store, engine: Engine) -> None:
    chance = random.Random(6)
    exact = 0
    for _ in range(150):
        where = " AND ".join(chance.sample(list(_conditions(chance)), chance.randint(1, 4)))
        taken = chance.choice(["*", "symbol, seq, price AS p", "seq, timestamp", "sum(price), symbol"])
        plan = engine.plan(f"SELECT {taken} FROM trades WHERE {where}{' GROUP BY ALL' if 'sum' in taken else ''}")
        assert plan.statement.where is not None, where
        exact += plan.exact
        found = []
        searched = engine._planner.search(plan.statement, (), plan.now_us, False, Options(), None, None)
        for one in (plan, replace(searched, filters=dict.fromkeys(plan.filters)), searched):
            with engine.execute(one) as execution:
                rows = execution.reader.read_all()
            assert rows.schema == plan.schema, where
            found.append(sorted(map(repr, rows.to_pylist())))
        assert found[0] == found[1] == found[2], where
    assert exact > 20


def test_rows_of_an_exact_plan_end_at_the_cut(filled: Store, engine: Engine) -> None:
    plan = engine.plan("SELECT seq FROM trades WHERE symbol = 'BTC-USDT' AND timestamp > now() - INTERVAL 3 MINUTE")
    assert plan.exact
    with engine.execute(plan, cuts={"trades": 50}) as execution:
        assert execution.reader.read_all()["seq"].to_pylist() == list(range(41, 51))
        assert execution.opened["trades"].parts == ()


def test_large_answer_comes_in_batches(filled: Store, engine: Engine) -> None:
    plan = engine.plan("SELECT * FROM trades WHERE timestamp > now() - INTERVAL 3 MINUTE")
    with engine.execute(plan, batch_rows=7) as execution:
        batches = list(execution.batches())
    assert sum(map(len, batches)) == 80
    assert max(map(len, batches)) == 7
    with engine.execute(plan, batch_rows=7) as execution:
        execution.cancel()
        with pytest.raises(Exception, match="cancelled"):
            list(execution.batches())


def test_name_is_looked_up_where_the_session_says(engine: Engine) -> None:
    sql = "SELECT * FROM trades WHERE symbol = 'a'"
    assert engine.plan(sql).exact
    _make_schema(engine)
    assert not engine.plan(sql, options=Options(schema="mine")).exact, "mine.trades may be a user's"
    assert engine.plan("SELECT * FROM market.trades WHERE symbol = 'a'", options=Options(schema="mine")).exact


def _make_schema(engine: Engine) -> None:
    with engine.workspace.connection() as connection:
        connection.execute("CREATE SCHEMA mine")
