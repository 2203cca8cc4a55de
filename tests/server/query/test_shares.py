from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flight_here import trades
from sql_here import SqlHere

from tickflight_server.query.engine import Engine
from tickflight_server.store import Store

SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")


@pytest.fixture
def splitting(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(share_rows=50, shares_max=5)


def read(engine: Engine, plan: Any, share: Any) -> list[int]:
    with engine.execute(plan, share=share) as execution:
        return list(execution.reader.read_all()["seq"].to_pylist())


def test_shares_have_each_row_of_one_snapshot_once_whatever_goes_on(store: Store, splitting: Engine) -> None:
    for symbol in SYMBOLS:
        store.append("trades", trades(100, symbol)).result()
    store.flush()
    store.append("trades", trades(60)).result()
    stop = threading.Event()

    def busy() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.append("trades", trades(20, SYMBOLS[number % 3], 1000 * number)).result()
            if number % 3 == 0:
                store.flush()
            if number % 7 == 0:
                store.keeper.compact()

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        several = 0
        for _ in range(20):
            plan = splitting.plan("SELECT seq FROM trades")
            shares = splitting.shares(plan, None)
            if not shares:
                continue  # all rows were in one place just then
            several += 1
            seen = Counter(seq for share in shares for seq in read(splitting, plan, share))
            assert set(seen.values()) == {1}
            assert sorted(seen) == list(range(1, len(seen) + 1))
        assert several >= 3
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM trades",
        "SELECT seq FROM trades ORDER BY seq",
        "SELECT seq FROM trades LIMIT 5",
        "SELECT DISTINCT symbol FROM trades",
        "SELECT a.seq FROM trades a, trades b",
        "SELECT row_number() OVER () FROM trades",
        "SELECT symbol FROM trades GROUP BY ALL",
        "SELECT seq FROM trades WHERE price > (SELECT avg(price) FROM trades)",
        "SELECT seq FROM trades USING SAMPLE 10",
        "SELECT seq FROM trades UNION ALL SELECT seq FROM trades",
    ],
)
def test_what_is_more_than_a_scan_is_one_share(store: Store, splitting: Engine, sql: str) -> None:
    store.append("trades", trades(500)).result()
    store.flush()
    store.append("trades", trades(500)).result()
    assert splitting.shares(splitting.plan(sql), None) == []


def test_filters_hold_in_each_share(store: Store, splitting: Engine) -> None:
    for symbol in SYMBOLS:
        store.append("trades", trades(200, symbol)).result()
        store.flush()
    plan = splitting.plan("SELECT seq FROM trades WHERE price < 50 AND symbol <> 'SOL-USDT'")
    shares = splitting.shares(plan, None)
    assert len(shares) > 1
    assert sorted(seq for share in shares for seq in read(splitting, plan, share)) == [*range(1, 51), *range(201, 251)]


def test_what_makes_one_row_of_many_in_a_view_is_one_share(store: Store, splitting: Engine) -> None:
    here = SqlHere(splitting)
    here.write("CREATE VIEW workspace.counted AS SELECT count(*) AS n FROM trades")
    here.write("CREATE MACRO workspace.total(x) AS sum(x)")
    for symbol in SYMBOLS:
        store.append("trades", trades(100, symbol)).result()
        store.flush()
    for sql in ("FROM counted", "SELECT total(amount) FROM trades", "SELECT vwap(price, amount) FROM trades"):
        assert splitting.shares(splitting.plan(sql), None) == []
    assert splitting.shares(splitting.plan("SELECT amount FROM trades"), None)
