"""A query for the first rows of an order opens the end of its table that has them, and gives what it would of all."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from flight_here import START_US
from sql_here import SqlHere

from tickflight_server.query.ends import at_the_end
from tickflight_server.query.engine import Engine
from tickflight_server.query.statement import Statement
from tickflight_server.query.top import Top
from tickflight_server.store import Store

MINUTE_US = 60_000_000
SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
Make = Callable[..., Any]


@pytest.fixture
def filled(store: Store, make_trades: Make, release: Callable[[], None]) -> Store:
    """Ten minutes of three symbols, the first six in parts; two rows of each minute came a minute late."""
    for minute in range(10):
        for symbol in SYMBOLS:
            at_us = START_US + minute * MINUTE_US
            batches = [make_trades(n, symbol, start_us=at_us - late) for n, late in ((10, 0), (2, MINUTE_US))]
            for batch in batches:
                store.append("trades", batch).result()
        if minute < 6:
            release()
    return store


def asked(engine: Engine, sql: str, **more: Any) -> tuple[list[dict[str, Any]], int]:
    """Return a query's rows, and how many parts it opened."""
    with engine.execute(engine.plan(sql), **more) as execution:
        rows = execution.reader.read_all().to_pylist()
        return rows, sum(len(opened.parts) for opened in execution.opened.values())


def test_the_newest_rows_are_in_memory(filled: Store, engine: Engine) -> None:
    rows, opened = asked(engine, "SELECT * FROM trades ORDER BY seq DESC LIMIT 5")
    assert [row["seq"] for row in rows] == [360, 359, 358, 357, 356]
    assert opened == 0, "of 18"


def test_the_newest_of_a_symbol_leave_out_its_old_parts(filled: Store, engine: Engine) -> None:
    sql = "SELECT timestamp, price FROM trades WHERE symbol = 'BTC-USDT' ORDER BY timestamp {} LIMIT 3"
    rows, opened = asked(engine, sql.format("DESC"))
    assert ([row["price"] for row in rows], opened) == ([9.0, 8.0, 7.0], 2), "of 6, since late rows overlap"
    oldest, opened = asked(engine, sql.format("ASC"))
    assert ([row["price"] for row in oldest], opened) == ([0.0, 1.0, 0.0], 2), "two came late"


def test_rows_after_a_cut_do_not_count(filled: Store, engine: Engine) -> None:
    rows, _ = asked(engine, "SELECT seq FROM trades ORDER BY seq DESC LIMIT 4", cuts={"trades": 200})
    assert [row["seq"] for row in rows] == [200, 199, 198, 197]


ORDERS = ("seq DESC", "seq", "timestamp DESC, seq", "timestamp, seq DESC", "trades.timestamp DESC, price, seq")
WHERES = (
    "",
    "WHERE symbol = 'ETH-USDT'",
    "WHERE symbol IN ('ETH-USDT', 'SOL-USDT') AND exchange = 'BINANCE'",
    f"WHERE timestamp >= make_timestamp({START_US})",
    "WHERE timestamp < TIMESTAMP '2026-09-21 14:14:00'",
    "WHERE seq > 100 AND symbol = 'BTC-USDT'",
    "WHERE price > 3",
    "WHERE symbol = 'NONE'",
)


def test_it_gives_what_reading_everything_gives(filled: Store, engine: Engine) -> None:
    pick = random.Random(1)
    for order, where in itertools.product(ORDERS, WHERES):
        limit, offset = pick.choice((1, 7, 40, 300, 1000)), pick.choice(("", " OFFSET 3", " OFFSET 100"))
        rows = f"SELECT * FROM trades {where}"
        # of a subquery nothing is understood
        whole = f"SELECT * FROM (SELECT * FROM trades {where}) trades ORDER BY {order} LIMIT {limit}{offset}"
        sql = f"{rows} ORDER BY {order} LIMIT {limit}{offset}"
        assert asked(engine, sql)[0] == asked(engine, whole)[0], sql


def top_of(engine: Engine, sql: str) -> Top | None:
    statement = engine.read(sql)
    assert isinstance(statement, Statement)
    return statement.top


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT * FROM trades ORDER BY seq DESC LIMIT 10", Top("seq", True, 10)),
        ("SELECT price AS p FROM market.trades t ORDER BY t.TIMESTAMP, p LIMIT 2 OFFSET 5", Top("timestamp", False, 7)),
        ("SELECT seq AS seq FROM trades ORDER BY seq LIMIT 1", Top("seq", False, 1)),
    ],
)
def test_what_is_understood(engine: Engine, sql: str, found: Top) -> None:
    assert top_of(engine, sql) == found


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT price AS seq FROM trades ORDER BY seq DESC LIMIT 10",
        "SELECT *, price AS seq FROM trades ORDER BY seq DESC LIMIT 10",
        "SELECT DISTINCT symbol, seq FROM trades ORDER BY seq LIMIT 10",
        "SELECT max(seq) AS s FROM trades ORDER BY s LIMIT 10",
        "SELECT symbol FROM trades GROUP BY symbol, seq ORDER BY seq LIMIT 10",
        "SELECT unnest([1, 2]) FROM trades ORDER BY seq LIMIT 10",
        "SELECT seq FROM trades ORDER BY price, seq LIMIT 10",
        "SELECT seq FROM trades ORDER BY seq",
        "SELECT seq FROM trades ORDER BY seq LIMIT 10%",
        "SELECT seq FROM trades ORDER BY seq LIMIT 2 + 3",
        "SELECT seq FROM trades ORDER BY seq OFFSET 3",
        "SELECT seq FROM trades LIMIT 10",
        "SELECT seq FROM trades WHERE price > 3 ORDER BY seq LIMIT 10",
        "SELECT seq FROM trades QUALIFY row_number() OVER () < 5 ORDER BY seq LIMIT 10",
        "SELECT t.seq FROM trades t, trades u ORDER BY t.seq LIMIT 10",
        "SELECT seq FROM trades USING SAMPLE 5 ORDER BY seq LIMIT 10",
        "EXPLAIN SELECT seq FROM trades ORDER BY seq LIMIT 10",
    ],
)
def test_what_is_not(engine: Engine, sql: str) -> None:
    assert top_of(engine, sql) is None


def test_of_too_few_rows_all_are_needed(filled: Store, engine: Engine) -> None:
    plan = engine.plan("SELECT * FROM trades ORDER BY seq DESC LIMIT 1000")
    assert at_the_end(plan, None, filled.snapshot("trades"), None) is None
    assert asked(engine, plan.statement.sql)[1] == 18


def test_a_table_of_the_users_with_the_name_is_read_whole(filled: Store, engine: Engine) -> None:
    here = SqlHere(engine)
    here.write("CREATE SCHEMA mine")
    here.write("CREATE TABLE mine.trades AS SELECT range AS seq FROM range(100)")
    assert here.rows("SELECT seq FROM mine.trades ORDER BY seq DESC LIMIT 1") == [(99,)]
